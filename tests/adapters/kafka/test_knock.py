"""What is said of a connection that Kafka ends without a word."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker_kafka import KafkaAdapter, KafkaSettings


@pytest.mark.parametrize(
    ("scheme", "said", "expected"),
    [
        ("kafkas", KafkaConnectionError("closed"), ConfigError),
        ("kafka", KafkaConnectionError("closed"), Unavailable),
        ("kafkas", TimeoutError(), Unavailable),
    ],
)
def test_a_connection_with_tls_that_ends_without_a_word_is_asked_why(
    monkeypatch: pytest.MonkeyPatch, scheme: str, said: Exception, expected: type[Exception]
) -> None:
    async def end(*_: Any, **__: Any) -> Any:
        raise said

    async def refused(host: str, port: int, context: ssl.SSLContext) -> ConfigError:
        return ConfigError("tls_cert_file", f"{host}:{port} refused it", "Name another one.")

    monkeypatch.setattr("anybroker_kafka.discovery.create_conn", end)
    monkeypatch.setattr("anybroker_kafka.knock.tls_refusal", refused)
    address = BrokerUrl(scheme, (("a", 1),))
    adapter = KafkaAdapter(address, KafkaSettings.model_validate({}), AdapterContext("shop", "shop-1"))
    with pytest.raises(expected) as caught:
        asyncio.run(adapter.connect())
    assert caught.value.__cause__ is said


def test_a_listener_that_asks_for_a_password_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Connection:
        async def send(self, request: Any) -> Any:
            asked.append(type(request).__name__)
            if isinstance(request, MetadataRequest):
                raise KafkaConnectionError("closed")
            return SimpleNamespace(enabled_mechanisms=["SCRAM-SHA-256"])

        def close(self) -> None:
            asked.append("close")

    async def connect(*_: Any, **__: Any) -> Connection:
        return Connection()

    monkeypatch.setattr("anybroker_kafka.discovery.create_conn", connect)
    adapter = KafkaAdapter(BrokerUrl("kafka", (("a", 1),)), KafkaSettings.model_validate({}), AdapterContext("s", "1"))
    with pytest.raises(ConfigError, match="SCRAM-SHA-256") as caught:
        asyncio.run(adapter.connect())
    assert caught.value.setting == "url"
    assert asked == ["MetadataRequest", "close", "SaslHandShakeRequest", "close"]
