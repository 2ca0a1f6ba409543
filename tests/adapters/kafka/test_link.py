"""What is said of a connection that Kafka closes without an answer, and who is asked when no known broker answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker_kafka import KafkaAdapter, KafkaSettings, link
from anybroker_kafka.link import keep_asking_servers

Run = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("scheme", "said", "expected"),
    [
        ("kafkas", KafkaConnectionError("closed"), ConfigError),
        ("kafka", KafkaConnectionError("closed"), Unavailable),
        ("kafkas", TimeoutError(), Unavailable),
    ],
)
def test_a_tls_connection_that_the_server_closes_is_diagnosed(
    monkeypatch: pytest.MonkeyPatch, scheme: str, said: Exception, expected: type[Exception]
) -> None:
    async def end(*_: Any, **__: Any) -> Any:
        raise said

    async def refused(host: str, port: int, context: ssl.SSLContext) -> ConfigError:
        return ConfigError("tls_cert_file", f"{host}:{port} refused it", "Name another one.")

    monkeypatch.setattr("anybroker_kafka.link.create_conn", end)
    monkeypatch.setattr("anybroker_kafka.link.tls_refusal", refused)
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

    monkeypatch.setattr("anybroker_kafka.link.create_conn", connect)
    adapter = KafkaAdapter(BrokerUrl("kafka", (("a", 1),)), KafkaSettings.model_validate({}), AdapterContext("s", "1"))
    with pytest.raises(ConfigError, match="SCRAM-SHA-256") as caught:
        asyncio.run(adapter.connect())
    assert caught.value.setting == "url"
    assert asked == ["MetadataRequest", "close", "SaslHandShakeRequest", "close"]


SERVERS = [("one", 1), ("two", 2), ("three", 3)]


class Client:
    """An AIOKafkaClient whose metadata comes from the brokers that it knows."""

    def __init__(self, alive: set[int], known: set[int]) -> None:
        self.alive = alive
        self.cluster = SimpleNamespace(_brokers=dict.fromkeys(known))

    async def _metadata_update(self, cluster: Any, topics: Any) -> bool:
        return bool(self.alive & self.cluster._brokers.keys())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hosts of the URL that were asked; only ``two`` answers, and names brokers 4 and 5."""
    hosts: list[str] = []

    async def ask(host: str, port: int, options: Any, request: Any) -> Any:
        hosts.append(host)
        if host != "two":
            raise KafkaConnectionError(host)
        brokers = [(4, "four", 4, None), (5, "five", 5, None)]
        return SimpleNamespace(brokers=brokers, controller_id=4, topics=[], API_VERSION=1)

    monkeypatch.setattr(link, "_ask", ask)
    return hosts


def test_any_living_server_of_the_url_is_enough(run: Run, asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """All brokers that the client knew are gone, or have changed their addresses."""
    client = Client(alive={5}, known={1, 2})
    keep_asking_servers(client, SERVERS, {})
    assert run(client._metadata_update(client.cluster, []))
    assert sorted(client.cluster._brokers) == [4, 5]
    assert sorted(asked) == ["one", "three", "two"]
    assert [record.levelname for record in caplog.records if record.name == "anybroker.kafka"] == ["WARNING"]


def test_while_a_known_broker_answers_the_urls_servers_are_not_asked(run: Run, asked: list[str]) -> None:
    client = Client(alive={2}, known={1, 2})
    keep_asking_servers(client, SERVERS, {})
    assert run(client._metadata_update(client.cluster, []))
    assert asked == []


def test_no_server_answers(run: Run, asked: list[str]) -> None:
    """What the client knew is kept: those brokers may come back."""
    client = Client(alive=set(), known={1, 2})
    keep_asking_servers(client, [SERVERS[0], SERVERS[2]], {})
    assert not run(client._metadata_update(client.cluster, []))
    assert sorted(client.cluster._brokers) == [1, 2]
