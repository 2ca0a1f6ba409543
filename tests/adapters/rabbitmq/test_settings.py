"""Settings from a URL, the connection's options, the server's version, and errors that say how to fix them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.capabilities import Support
from anybroker.errors import ConfigError, Unavailable
from anybroker_rabbitmq import RabbitmqAdapter, RabbitmqSettings
from anybroker_rabbitmq.failures import amqp_errors, connect_failure, said
from anybroker_rabbitmq.link import Link
from anybroker_rabbitmq.settings import connection_options

Run = Callable[[Any], Any]
CONTEXT = AdapterContext("shop", "shop-1")


def url(scheme: str = "amqp", path: str = "/", username: str | None = "me", password: str | None = "pass") -> BrokerUrl:
    return BrokerUrl(scheme, (("a", None), ("b", 1234)), username, password, path)


def test_options_come_as_strings() -> None:
    settings = RabbitmqSettings.model_validate({"heartbeat": "5", "prefetch": "10", "content_mode": "structured"})
    assert (settings.heartbeat, settings.prefetch, settings.content_mode) == (5, 10, "structured")
    with pytest.raises(ValueError, match="heartbeat"):
        RabbitmqSettings.model_validate({"heartbeat": "0"})


def test_the_urls_parts_become_the_connections_options() -> None:
    servers, options = connection_options(url(), RabbitmqSettings())
    assert servers == [("a", 5672), ("b", 1234)]
    assert options["virtualhost"] == "/"
    assert (options["login"], options["password"], options["heartbeat"]) == ("me", "pass", 3)
    assert connection_options(url(path="/shop"), RabbitmqSettings())[1]["virtualhost"] == "shop"
    assert connection_options(url(path="//"), RabbitmqSettings())[1]["virtualhost"] == "/"
    assert connection_options(url(path="/a/b"), RabbitmqSettings())[1]["virtualhost"] == "a/b"
    servers, options = connection_options(url("amqps"), RabbitmqSettings(tls_check_hostname=False))
    assert servers[0] == ("a", 5671)
    assert isinstance(options["ssl_context"], ssl.SSLContext)
    assert not options["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("where", "options", "setting"),
    [
        (BrokerUrl("amqp", ()), {}, "url"),
        (url(password=None), {}, "url"),
        (url(), {"tls_ca_file": "/x"}, "tls_ca_file"),
        (url("amqps"), {"tls_ca_file": "/there/is/none"}, "tls_ca_file"),
        (url("amqps"), {"tls_cert_file": "/there/is/none"}, "tls_cert_file, tls_key_file"),
        (url("amqps"), {"tls_key_file": "/there/is/none"}, "tls_key_file"),
        (url("amqps"), {"auth": "external"}, "auth"),
    ],
)
def test_wrong_settings_are_refused_at_once(where: BrokerUrl, options: dict[str, str], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RabbitmqAdapter(where, RabbitmqSettings.model_validate(options), CONTEXT)
    assert caught.value.setting == setting
    assert caught.value.remedy
    assert "pass" not in str(caught.value).replace("password", "")


def test_capabilities_follow_the_settings() -> None:
    adapter = RabbitmqAdapter(url(), RabbitmqSettings(max_message_bytes=100_000), CONTEXT)
    assert adapter.capabilities.max_event_bytes == 100_000
    assert adapter.capabilities.release is Support.EMULATED
    with pytest.raises(Unavailable):
        _ = adapter.native


def test_connect_failures() -> None:
    refused = connect_failure(ProbableAuthenticationError("ACCESS_REFUSED - Login was refused."), "a:1", "/")
    assert isinstance(refused, ConfigError)
    assert isinstance(connect_failure(InvalidFrameError("x"), "a:1", "shop"), ConfigError)
    assert "'shop'" in str(connect_failure(InvalidFrameError("x"), "a:1", "shop"))
    untrusted = AMQPConnectionError(1, "no")
    untrusted.__cause__ = ssl.SSLCertVerificationError("self-signed")
    assert isinstance(connect_failure(untrusted, "a:1", "/"), ConfigError)
    assert isinstance(connect_failure(AMQPConnectionError(111, "refused"), "a:1", "/"), Unavailable)
    assert isinstance(connect_failure(TimeoutError(), "a:1", "/"), Unavailable)


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (ChannelAccessRefused("no"), ConfigError),
        (ChannelNotFoundEntity("NOT_FOUND - no queue 'x' in vhost '/'"), ConfigError),
        (ChannelNotFoundEntity("NOT_FOUND - queue 'x' in vhost '/' process is stopped by supervisor"), Unavailable),
        (AMQPConnectionError("gone"), Unavailable),
        (RuntimeError("channel closed"), Unavailable),
        (TimeoutError(), Unavailable),
        (asyncio.CancelledError(), Unavailable),
    ],
)
def test_what_the_client_raises_becomes_ours(run: Run, exc: BaseException, expected: type[Exception]) -> None:
    async def check() -> None:
        with pytest.raises(expected) as caught, amqp_errors("trying"):
            raise exc
        assert caught.value.__cause__ is exc
        assert said(exc)

    run(check())


def test_a_cancellation_is_not_forgotten_whatever_the_client_raises(run: Run) -> None:
    async def check() -> None:
        waiting = asyncio.Event()

        async def work() -> None:
            with amqp_errors("working"):
                try:
                    await waiting.wait()
                except asyncio.CancelledError:
                    raise AMQPConnectionError("the connection was lost at the same moment") from None

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(check())


def test_a_link_tries_each_server_and_says_what_the_last_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        asked: list[Any] = []

        async def refuse(*, host: str, port: int, **_: Any) -> Any:
            asked.append((host, port))
            raise ProbableAuthenticationError("refused") if host == "b" else AMQPConnectionError(111, "nobody")

        monkeypatch.setattr(aio_pika, "connect", refuse)
        link = Link([("a", 1), ("b", 2)], {"virtualhost": "/"}, 10, 5)
        with pytest.raises(ConfigError):
            await link.connect()
        assert asked == [("a", 1), ("b", 2)]
        with pytest.raises(Unavailable):  # later, a server that is starting refuses everybody for a moment
            await link.transport()
        await link.close()
        with pytest.raises(Unavailable):
            await link.connect()

    run(check())


@pytest.mark.parametrize(
    ("said_by_client", "options", "expected"),
    [
        (AMQPConnectionError("reset"), {"ssl_context": ssl.create_default_context()}, ConfigError),
        (AMQPConnectionError("reset"), {}, Unavailable),
        (TimeoutError(), {"ssl_context": ssl.create_default_context()}, Unavailable),
    ],
)
def test_a_connection_with_tls_that_ends_without_a_word_is_asked_why(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    said_by_client: Exception,
    options: dict[str, Any],
    expected: type[Exception],
) -> None:
    async def end(**_: Any) -> Any:
        raise said_by_client

    async def refused(host: str, port: int, context: ssl.SSLContext) -> ConfigError:
        return ConfigError("tls_cert_file", f"{host}:{port} refused it", "Name another one.")

    async def check() -> None:
        monkeypatch.setattr(aio_pika, "connect", end)
        monkeypatch.setattr("anybroker_rabbitmq.link.tls_refusal", refused)
        link = Link([("a", 1)], {"virtualhost": "/", **options}, 10, 5)
        with pytest.raises(expected):
            await link.connect()

    run(check())


def test_every_setting_stands_in_the_readme() -> None:
    readme = (Path(__file__).parents[3] / "adapters" / "rabbitmq" / "README.md").read_text()
    for name, field in RabbitmqSettings.model_fields.items():
        assert f"`{name}`" in readme
        assert field.description
