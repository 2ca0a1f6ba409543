"""Connecting against a server of a few lines: what it says is used, and each failure is one error in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker_nats import NatsAdapter
from anybroker_nats.settings import NatsSettings

Run = Callable[[Any], Any]


def test_what_the_server_says_about_itself_is_used(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server(max_payload=65_536, version="2.11.0")) as server:
            connected = kit.adapter(server)
            await connected.connect()
            assert connected.capabilities.max_event_bytes == 65_536
            assert not connected.capabilities.delay, "2.11 has no schedules"
            assert connected.native.is_connected
            await connected.close()

    run(check())


def test_an_old_server_is_refused_with_the_version_that_is_needed(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server(version="2.10.29")) as server:
            error = await kit.failure(kit.adapter(server))
            assert isinstance(error, ConfigError)
            assert "2.10.29" in str(error)
            assert "2.11" in str(error)

    run(check())


def test_a_refusal_is_one_error_at_once(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server(auth_required=True)) as server:
            server.refusal = b"-ERR 'Authorization Violation'\r\n"
            error = await kit.failure(kit.adapter(server, username="me", password="s3cret"))
            assert isinstance(error, ConfigError)
            assert "s3cret" not in str(error)

    run(check())


def test_no_password_is_sent_to_a_server_without_tls(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            error = await kit.failure(kit.adapter(server, "natss", username="me", password="s3cret"))
            assert isinstance(error, ConfigError)
            assert "TLS" in str(error)
            assert server.received == []

    run(check())


def test_without_an_answer_connecting_ends_in_time(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as closed:
            port = closed.port
        error = await kit.failure(kit.link(port))
        assert isinstance(error, Unavailable)
        async with kit.serving(kit.Server()) as server:
            server.deaf = True
            error = await kit.failure(kit.adapter(server))
            assert isinstance(error, Unavailable)
            server.deaf = False
            connected = kit.link(port, server.port)  # the second of two
            await connected.connect()
            await connected.close()

    run(check())


def test_without_the_permission_to_listen_requests_fail_at_once(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            violation = b"-ERR 'Permissions Violation for Subscription to \"_INBOX.x.*\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"SUB _INBOX.") else b""
            error = await kit.failure(kit.adapter(server))
            assert isinstance(error, ConfigError)
            assert "_inbox.x.*" in str(error)
            assert "subscribe to _INBOX.>" in str(error)

    run(check())


def test_a_user_without_jetstreams_api_is_told_so_at_the_start(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server(jetstream=True)) as server:
            server.answers_api = False
            violation = b"-ERR 'Permissions Violation for Publish to \"$JS.API.INFO\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"PUB $JS.API.INFO") else b""
            error = await kit.failure(kit.adapter(server))
            assert isinstance(error, ConfigError)
            assert "$js.api.info" in str(error)
            assert "is it enabled" not in str(error).lower()

    run(check())


def test_a_start_waits_for_a_leader_as_long_as_it_may(run: Run, kit: SimpleNamespace) -> None:
    """Servers that are electing a leader take requests and say nothing. Without one, the start fails in time."""

    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            server.answers_api = False
            asked = 0

            def later(line: bytes) -> bytes:
                nonlocal asked
                asked += line.startswith(b"PUB $JS.API.INFO")
                server.answers_api = asked >= 1  # the next one is answered
                return b""

            server.on = later
            url = BrokerUrl("nats", (("127.0.0.1", server.port),))
            patient = NatsAdapter(url, NatsSettings(), AdapterContext("shop", "shop-1", connect_timeout=20.0))
            await asyncio.wait_for(patient.connect(), 15)
            assert asked == 2
            await patient.close()
            server.answers_api = False
            server.on = lambda line: b""
            error = await kit.failure(kit.adapter(server))
            assert isinstance(error, Unavailable)
            assert "leader" in str(error)

    run(check())
