"""The proxy of the suite does to connections what it says, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from anybroker_contract.proxy import Proxy, Route, Weather

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that says what it hears, until the other side ends."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # the proxy has reset it
    finally:
        writer.close()


@asynccontextmanager
async def proxied(serve: Serve = echo, rewrite: tuple[bytes, bytes] | None = None) -> AsyncIterator[Proxy]:
    """A proxy before a server."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(
        Route("127.0.0.1", port, lambda own: f"test://127.0.0.1:{own}", None if rewrite is None else lambda _: rewrite)
    )
    try:
        await proxy.start()
        async with asyncio.timeout(20):
            yield proxy
    finally:
        await proxy.close()
        server.close()
        await server.wait_closed()
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("proxy")] == []


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Through the proxy, to a server that has said something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
    except OSError:
        writer.transport.abort()
        raise
    return reader, writer


@pytest.mark.parametrize(
    "weather", [Weather(), Weather(slices=(1, 3)), Weather(latency=(0.0, 0.02)), Weather(rate=1e6)], ids=str
)
def test_carries_every_byte_in_order(weather: Weather) -> None:
    async def go() -> None:
        async with proxied() as proxy:
            reader, writer = await connect(proxy)
            proxy.weather = weather
            data = bytes(number * number % 251 for number in range(5000))
            for at in range(0, len(data), 1000):
                writer.write(data[at : at + 1000])
            assert await reader.readexactly(len(data)) == data
            assert (proxy.accepted, proxy.open, proxy.url) == (1, 1, f"test://127.0.0.1:{proxy.port}")
            writer.close()
            await proxy.until(lambda proxy: not proxy.open, "the end of it", 5)

    asyncio.run(go())


def test_slices_are_small() -> None:
    proxy = Proxy(Route("127.0.0.1", 1, str))
    proxy.weather = Weather(slices=(1, 3))
    pieces = proxy.pieces(bytes(range(200)))
    assert b"".join(pieces) == bytes(range(200))
    assert {len(piece) for piece in pieces} == {1, 2, 3}


def test_latency_delays_and_rate_slows() -> None:
    async def seconds(weather: Weather) -> float:
        async with proxied() as proxy:
            reader, writer = await connect(proxy)
            proxy.weather = weather
            began = asyncio.get_running_loop().time()
            writer.write(b"x" * 1000)
            await reader.readexactly(1000)
            return asyncio.get_running_loop().time() - began

    assert asyncio.run(seconds(Weather(latency=(0.1, 0.1)))) >= 0.2
    assert asyncio.run(seconds(Weather(rate=10_000.0))) >= 0.2


def test_a_cut_resets_what_is_there_and_nothing_later() -> None:
    async def go() -> None:
        async with proxied() as proxy:
            reader, writer = await connect(proxy)
            assert proxy.cut() == 1
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            writer.transport.abort()
            reader, writer = await connect(proxy)
            await proxy.until(lambda proxy: proxy.open == 1, "only the new one", 5)
            assert proxy.accepted == 2
            writer.close()

    asyncio.run(go())


def test_a_frozen_connection_swallows_and_says_nothing() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(reader, writer)
        ended.set()

    async def go() -> None:
        async with proxied(serve) as proxy:
            reader, writer = await connect(proxy)
            assert proxy.freeze() == 1
            writer.write(b"into the void")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(1)
            writer.close()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await ended.wait()
            _, other = await connect(proxy)  # a new one works
            other.close()

    asyncio.run(go())


def test_refuses_while_told_to() -> None:
    async def go() -> None:
        async with proxied() as proxy:
            proxy.refusing = True
            with pytest.raises(ConnectionError):
                await connect(proxy)
            proxy.refusing = False
            _, writer = await connect(proxy)
            writer.close()

    asyncio.run(go())


def test_rewrites_the_address_also_where_it_is_cut_in_two() -> None:
    async def go() -> None:
        async with proxied(rewrite=(b"127.0.0.1:1111", b"127.0.0.1:2222")) as proxy:
            reader, writer = await connect(proxy)
            writer.write(b"a127.0.0.1:1111b")
            assert await reader.readexactly(16) == b"a127.0.0.1:2222b"
            proxy.weather = Weather(slices=(1, 3))
            writer.write(b"see 127.0.0.1:1111")
            assert await reader.readexactly(18) == b"see 127.0.0.1:2222"
            writer.write(b"ends like it: 127.0.")  # held for a moment, and then let go
            assert await reader.readexactly(20) == b"ends like it: 127.0."
            writer.close()

    asyncio.run(go())


def test_a_rewrite_keeps_sizes() -> None:
    async def go() -> None:
        async with proxied(rewrite=(b"short", b"longer")):
            pass

    with pytest.raises(ValueError, match="different lengths"):
        asyncio.run(go())
