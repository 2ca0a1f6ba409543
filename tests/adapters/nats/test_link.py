"""The connection against a server of a few lines: how it is lost and made again, and requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker.errors import Unavailable
from anybroker_nats.failures import FORBIDDEN, ApiError
from anybroker_nats.link import Link
from anybroker_nats.refusals import Refusal

Run = Callable[[Any], Any]


class Watcher:
    """Writes down what happens to the connection."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self) -> None:
        self.told.append("lost")

    def back(self) -> None:
        self.told.append("back")

    def gone(self) -> None:
        self.told.append("gone")

    def refused(self, refusal: Refusal) -> None:
        self.told.append(f"refused {refusal.subject}")


def test_watchers_are_told_of_a_loss_and_of_the_new_connection(run: Run, kit: SimpleNamespace, until: Run) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            connected = kit.link(server.port)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            server.cut()
            await until(lambda: watcher.told == ["lost"])
            with pytest.raises(Unavailable):
                await connected.client()
            await until(lambda: watcher.told == ["lost", "back"])
            assert (await connected.client()).is_connected
            server.writers[-1].write(b"-ERR 'User Authentication Expired'\r\n")
            await until(lambda: watcher.told[2:] == ["lost", "gone"])
            first = connected.native
            assert await connected.client() is not first, "another client, as nats-py has given up"
            await connected.close()

    run(check())


def test_when_nats_pys_task_for_reconnecting_dies_there_is_another_client(
    run: Run, kit: SimpleNamespace, until: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            connected = kit.link(server.port)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)

            async def dies() -> None:
                raise RuntimeError("not expected")

            first = connected.native
            assert first is not None
            monkeypatch.setattr(first, "_process_connect_init", dies)
            server.cut()
            await until(lambda: watcher.told[-1:] == ["gone"])
            assert (await connected.client()) is not first
            await connected.close()

    run(check())


def test_a_path_that_takes_no_more_bytes_is_abandoned(run: Run, kit: SimpleNamespace, until: Run) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            connected = kit.link(server.port, ping_interval=0.1)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            server.writers[-1].transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own transport
            client = await connected.client()
            assert all(client.write(b"PUB x 1000000\r\n%b\r\n" % bytes(1_000_000)) for _ in range(20))
            await until(lambda: watcher.told == ["lost", "back"])
            await connected.close()

    run(check())


def test_unlistening_without_a_connection_leaves_nothing_behind(run: Run, kit: SimpleNamespace, until: Run) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            connected = kit.link(server.port)
            await connected.connect()
            client = await connected.client()
            watcher = Watcher()
            connected.watchers.add(watcher)
            subscription = await client.listen("x", lambda *_: None)
            server.cut()
            await until(lambda: watcher.told == ["lost"])
            await client.unlisten(subscription, 1.0)
            assert (client._listeners, client._subs) == ({}, {})
            await connected.close()

    run(check())


def test_a_forbidden_request_fails_at_once_and_is_logged_once(
    run: Run, kit: SimpleNamespace, until: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The server drops the request, says so beside it, and answers nothing."""

    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            violation = b"-ERR 'Permissions Violation for Publish to \"$JS.API.STREAM.INFO.shop\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"PUB $JS.API.STREAM.INFO.shop ") else b""
            connected = Link([("127.0.0.1", server.port)], {}, "url", 5.0, 60.0)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            for _ in range(2):
                with pytest.raises(ApiError, match=r"no permission.*stream\.info\.shop") as caught:
                    await asyncio.wait_for(connected.api("STREAM.INFO.shop"), 5)
                assert caught.value.code == FORBIDDEN
            assert watcher.told == ["refused $js.api.stream.info.shop"] * 2
            assert connected.native is not None
            assert connected.native.is_connected
            await connected.close()

    run(check())
    assert len([record for record in caplog.records if "refuses this user" in record.getMessage()]) == 1


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b"[" * 100_000, b"\xff"])
def test_an_answer_that_cannot_be_read_is_an_error_of_ours(run: Run, kit: SimpleNamespace, answer: bytes) -> None:
    async def check() -> None:
        def answered(line: bytes) -> bytes:
            if not line.startswith(b"PUB $JS.API.STREAM.INFO"):
                return b""
            return b"MSG %b 1 %d\r\n%b\r\n" % (line.split()[2], len(answer), answer)

        async with kit.serving(kit.Server()) as server:
            server.on = answered
            asking = kit.link(server.port)
            with pytest.raises(Unavailable, match=r"NATS answered STREAM\.INFO\.orders with what is not"):
                await asking.api("STREAM.INFO.orders")
            await asking.close()

    run(check())
