"""A TCP proxy on loopback, in the test's event loop, that treats connections as networks do.

It is not part of the broker: only the clients that use its port are affected, so tests that use it share the broker
with others.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from ._waiting import Signal, wait_until

__all__ = ["Proxy", "Rewrite", "Route", "Weather"]

_CHUNK = 64 * 1024
_BETWEEN = 0.02
"""Most seconds between two parts of a rewritten text."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset and drops unsent data."""

Rewrite = tuple[bytes, bytes]
"""What the broker sends, and what its clients read instead; of the same length, so that no frame changes its size."""


@dataclass(frozen=True)
class Route:
    """What a proxy needs to know about the broker, so that clients reach it through the proxy."""

    host: str
    port: int
    """Where the broker listens."""
    url: Callable[[int], str]
    """The broker's URL for clients that go to this port of 127.0.0.1."""
    rewrite: Callable[[int], Rewrite] | None = None
    """If the broker tells its clients its own address: that address, and the proxy's."""


@dataclass(frozen=True)
class Weather:
    """Delays and limits for every byte in both directions. By default none."""

    latency: tuple[float, float] = (0.0, 0.0)
    """The least and the most seconds that each piece is delayed; pieces stay in order."""
    slices: tuple[int, int] | None = None
    """The least and the most bytes of each piece; None: as they arrive."""
    rate: float | None = None
    """Bytes per second of each connection in each direction; None: as fast as they arrive."""


class Proxy:
    """Listens on a free port of 127.0.0.1, and connects each client to the broker. Close it after the clients."""

    def __init__(self, route: Route, *, seed: int = 1) -> None:
        self._route = route
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._rewrite: Rewrite | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.weather = Weather()
        """May be changed at any time."""
        self.refusing = False
        """Whether new connections are reset at once."""
        self.accepted = 0
        """How many connections were accepted."""
        self.changed = Signal()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The broker's URL through this proxy."""
        return self._route.url(self.port)

    @property
    def open(self) -> int:
        """How many connections there are now, frozen ones included."""
        return len(self._links)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK)
        if self._route.rewrite is not None:
            old, new = self._route.rewrite(self.port)
            if len(old) != len(new):
                raise ValueError(f"{old!r} and {new!r} have different lengths")
            self._rewrite = (old, new) if old else None

    def cut(self) -> int:
        """Reset every current connection, on both sides; returns how many. New connections work."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def freeze(self) -> int:
        """Make every current connection half open: bytes vanish, and neither side learns that the other has closed.
        Returns how many. New connections work."""
        for link in self._links:
            link.frozen = True
        return len(self._links)

    async def until(self, condition: Callable[[Proxy], object], what: str, patience: float) -> None:
        """Return when the condition is true; it is checked whenever a connection opens or closes."""
        await wait_until(
            lambda: condition(self),
            patience,
            self.changed,
            lambda: f"{what} ({self.accepted} connections came, {self.open} are open)",
        )

    async def close(self) -> None:
        """Reset what is left, and stop listening. Idempotent."""
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.accepted += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        self.changed.fire()
        try:
            if self.refusing:
                link.reset()
            else:
                await link.carry(self._route.host, self._route.port)
        finally:
            link.reset()
            self._links.discard(link)
            self.changed.fire()

    def pieces(self, data: bytes) -> list[bytes]:
        """The data, in pieces of the configured size."""
        if self.weather.slices is None:
            return [data]
        found, at = [], 0
        while at < len(data):
            size = self._random.randint(*self.weather.slices)
            found.append(data[at : at + size])
            at += size
        return found

    def latency(self) -> float:
        """The delay of the next piece in seconds."""
        low, high = self.weather.latency
        return self._random.uniform(low, high)

    @property
    def rewrite(self) -> Rewrite | None:
        """What is rewritten on the way to the client."""
        return self._rewrite


class _Link:
    """One connection of a client, and the one to the broker that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writers = [writer]
        self._gone = asyncio.get_running_loop().create_future()
        self.frozen = False

    async def carry(self, host: str, port: int) -> None:
        """Carry bytes both ways until one side ends, or the link is reset; a frozen link until it is reset, or both
        sides are gone."""
        client = self._writers[0]
        try:
            reader, broker = await asyncio.open_connection(host, port, limit=_CHUNK)
        except OSError:
            return
        self._writers.append(broker)
        if self._gone.done():  # reset in the meantime
            self.reset()
            return
        ways = {
            asyncio.create_task(self._carry_one_way(self._reader, broker, None), name="proxy: to the broker"),
            asyncio.create_task(self._carry_one_way(reader, client, self._proxy.rewrite), name="proxy: to the client"),
        }
        try:
            running: set[asyncio.Future[None]] = {self._gone, *ways}
            while not self._gone.done():
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if not self.frozen or len(running) == 1:
                    break
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        if not self._gone.done():
            for writer in self._writers:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _carry_one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rewrite: Rewrite | None
    ) -> None:
        """Copy until the reader ends. Delayed pieces do not delay those behind them."""
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.create_task(self._write(late, writer), name="proxy: late pieces")
        held, due, ended = b"", 0.0, False
        try:
            while not ended:
                try:
                    async with asyncio.timeout(_BETWEEN if held else None):
                        data = await reader.read(_CHUNK)
                    ended = not data
                except TimeoutError:
                    data = b""
                if self.frozen:
                    continue
                if rewrite is not None:
                    data, held = _rewritten(held, data, *rewrite)
                for piece in self._proxy.pieces(data):
                    due = max(due, loop.time() + self._proxy.latency())
                    late.put_nowait((due, piece))
            late.put_nowait((max(due, loop.time()), b""))
            await writing
        except OSError:
            pass  # the other end is gone, and so is this direction
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, piece = await late.get()
            rate = self._proxy.weather.rate
            wait = due - loop.time() + (len(piece) / rate if rate else 0.0)
            if wait > 0 or self._proxy.weather.slices is not None:
                await asyncio.sleep(max(0.0, wait))
            if not piece:
                return
            if self.frozen:
                continue
            writer.write(piece)
            await writer.drain()

    def reset(self) -> None:
        """End both connections with a reset. Idempotent."""
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            if not writer.transport.is_closing() and connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        if not self._gone.done():
            self._gone.set_result(None)


def _rewritten(held: bytes, data: bytes, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """What was held and the data, with ``new`` for ``old``, and what must wait because it may be the beginning of an
    ``old``; what was held waits no longer where nothing came after it."""
    if not data:
        return held, b""
    data = (held + data).replace(old, new)
    for size in range(min(len(old) - 1, len(data)), 0, -1):
        if old.startswith(data[-size:]):
            return data[:-size], data[-size:]
    return data, b""
