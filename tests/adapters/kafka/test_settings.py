"""Settings, and what of them reaches aiokafka."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, InvalidSessionTimeoutError
from pydantic import ValidationError

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError
from anybroker_kafka import KafkaAdapter, KafkaSettings
from anybroker_kafka.settings import client_options, session_of

CONTEXT = AdapterContext(service="shop", instance="1")


def url(scheme: str = "kafka", **parts: Any) -> BrokerUrl:
    return BrokerUrl(scheme, parts.pop("hosts", (("a", None), ("::1", 9093))), **parts)


def settings(**options: str) -> KafkaSettings:
    return KafkaSettings.model_validate(options)


def test_options_are_read_from_text() -> None:
    read = settings(
        acks="all", replication_factor="3", request_timeout="2.5", isolation="read_uncommitted", tls_ca_file="/c"
    )
    assert (read.replication_factor, read.request_timeout, read.tls_ca_file) == (3, 2.5, Path("/c"))


@pytest.mark.parametrize("options", [{"acks": "1"}, {"request_timeout": "0"}, {"unknown": "1"}, {"compression": "rar"}])
def test_wrong_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(**options)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in KafkaSettings.model_fields.values())


def test_plain_connections() -> None:
    options = client_options(url(), settings(request_timeout="3"), CONTEXT)
    assert options == {
        "bootstrap_servers": ["a:9092", "[::1]:9093"],
        "client_id": "shop",
        "security_protocol": "PLAINTEXT",
        "request_timeout_ms": 3000,
    }


def test_user_and_password() -> None:
    options = client_options(url(username="u", password="p"), settings(), CONTEXT)
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert (options["sasl_mechanism"], options["sasl_plain_username"], options["sasl_plain_password"]) == (
        "PLAIN",
        "u",
        "p",
    )
    options = client_options(
        url("kafkas", username="u", password="p"), settings(sasl_mechanism="SCRAM-SHA-512"), CONTEXT
    )
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")


def test_tls_checks_the_server() -> None:
    context = client_options(url("kafkas"), settings(), CONTEXT)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = client_options(url("kafkas"), settings(tls_check_hostname="false"), CONTEXT)["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize(
    ("where", "options", "named"),
    [
        (url(hosts=()), {}, "names no server"),
        (url(path="/x"), {}, "'/x'"),
        (url(username="u"), {}, "no password"),
        (url(), {"sasl_mechanism": "PLAIN"}, "sasl_mechanism"),
        (url(), {"tls_ca_file": "/ca.pem"}, "kafkas://"),
        (url("kafkas"), {"tls_ca_file": "/does/not/exist"}, "/does/not/exist"),
        (url("kafkas"), {"tls_cert_file": "/does/not/exist"}, "/does/not/exist"),
        (url("kafkas"), {"tls_key_file": "/key.pem"}, "tls_cert_file"),
        (url(), {"batch_bytes": "600000"}, "batch_bytes"),
    ],
)
def test_what_does_not_fit_together_is_a_config_error(where: BrokerUrl, options: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        KafkaAdapter(where, settings(**options), CONTEXT)


def test_no_error_shows_the_password() -> None:
    with pytest.raises(ConfigError) as caught:
        KafkaAdapter(url(username="u", password="secret", path="/x"), settings(), CONTEXT)
    assert "secret" not in str(caught.value)


def test_the_size_limit_is_the_setting() -> None:
    adapter = KafkaAdapter(url(), settings(max_message_bytes="200000"), CONTEXT)
    assert adapter.capabilities.max_event_bytes == 200_000
    assert KafkaAdapter.capabilities.max_event_bytes == 1_048_576


@pytest.mark.parametrize("lease", [1.0, 2.0, 3.0, 5.0, 9.0, 20.0, 300.0])
def test_two_sessions_one_after_the_other_are_within_the_lease_and_five_seconds(lease: float) -> None:
    """Kafka misses a member that died while it waited for a rebalance only when that one is over; two seconds are for
    heartbeats and rejoining."""
    assert 2 * session_of(lease) + 2 <= lease + 5
    assert 0.5 * lease <= session_of(lease) <= lease


def session_asked_for(adapter: KafkaAdapter) -> int:
    async def ask() -> int:
        consumer = adapter._make_consumer("g")
        await consumer.stop()
        asked: int = consumer._session_timeout_ms
        return asked

    return asyncio.run(ask())


def test_the_session_is_shorter_than_the_lease_and_the_lease_where_kafka_refuses_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adapter = KafkaAdapter(url(), settings(), AdapterContext(service="shop", instance="1", lease=5.0))
    assert session_asked_for(adapter) == 4000
    with caplog.at_level(logging.WARNING, "anybroker.kafka"):
        adapter._refused("g", GroupAuthorizationFailedError("g"))
        assert (session_asked_for(adapter), caplog.messages) == (4000, [])
        for _ in range(2):
            adapter._refused("g", InvalidSessionTimeoutError())
    assert session_asked_for(adapter) == 5000
    (said,) = caplog.messages
    assert "group.min.session.timeout.ms" in said
