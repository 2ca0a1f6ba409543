"""Our client against a server of a few lines: bytes as they are, in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

Run = Callable[[Any], Any]


def test_a_listener_gets_every_byte(run: Run, kit: SimpleNamespace) -> None:
    async def check() -> None:
        headers = b"NATS/1.0\r\nx-raw: \xff\xfe \r\nx-raw:  twice\r\n\r\n"
        message = b"HMSG orders.1 %b reply.1 %d %d\r\n%bbody\r\n" % (b"%d", len(headers), len(headers) + 4, headers)
        async with kit.serving(kit.Server()) as server:
            server.on = lambda line: message % int(line.split()[-1]) if line.startswith(b"SUB") else b""
            client = await kit.client(server)
            got: asyncio.Queue[Any] = asyncio.Queue()
            subscription = await client.listen("inbox.>", lambda *args: got.put_nowait(args))
            assert await asyncio.wait_for(got.get(), 5) == (b"orders.1", b"reply.1", b"body", headers)
            await client.unlisten(subscription, 5.0)
            await client.close()

    run(check())


def test_what_a_listener_cannot_read_is_dropped_and_reading_continues(
    run: Run, kit: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Anyone who may publish to an inbox can send anything to it."""

    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            messages = [b"x", b"y", b"z", b"7"]
            sent = b"".join(b"MSG inbox.%b %%d 0\r\n\r\n" % each for each in messages)
            server.on = lambda line: sent.replace(b"%d", line.split()[-1]) if line.startswith(b"SUB") else b""
            client = await kit.client(server)
            got: asyncio.Queue[int] = asyncio.Queue()
            await client.listen("inbox.*", lambda subject, *_: got.put_nowait(int(subject[6:])))
            assert await asyncio.wait_for(got.get(), 5) == 7
            await client.close()

    run(check())
    assert [record.getMessage() for record in caplog.records if record.name == "anybroker.nats"] == [
        "an unexpected message to 'inbox.x' was dropped (number 1 on this connection)",
        "an unexpected message to 'inbox.y' was dropped (number 2 on this connection)",
    ]


def test_commands_are_written_in_order_and_only_on_a_connection(run: Run, kit: SimpleNamespace, until: Run) -> None:
    async def check() -> None:
        async with kit.serving(kit.Server()) as server:
            client = await kit.client(server)
            assert client.write(b"PUB a 0\r\n\r\n")
            assert client.write(b"PUB b 0\r\n\r\nPUB c 0\r\n\r\n")
            await until(lambda: b"PUB c 0\r\n" in server.received)
            lines = [line for line in server.received if line.startswith(b"PUB")]
            assert lines == [b"PUB a 0\r\n", b"PUB b 0\r\n", b"PUB c 0\r\n"]
            await client.close()
            assert not client.write(b"PUB d 0\r\n\r\n")

    run(check())
