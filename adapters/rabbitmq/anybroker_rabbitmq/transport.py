"""What stands between a connection's socket and aiormq: frames as they came, unless aiormq could not read them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory

from .frames import FRAME
from .unreadable import readable_header

__all__ = ["ReadableStream", "ReadableTransport"]

_CHUNK: Final = 65_536
_TEXTS: Final[Mapping[bytes, tuple[int, ...]]] = {
    b"\0\x3c\0\x3c": (-1, 9, -1, -1),  # Basic.Deliver: tag of the consumer; exchange and routing key
    b"\0\x3c\0\x32": (2, -1, -1, -1),  # Basic.Return
    b"\0\x3c\0\x47": (9, -1, -1, 4),  # Basic.GetOk
    b"\0\x14\0\x28": (2, -1, 4),  # Channel.Close: the broker cuts its text at 255 bytes, perhaps within a character
    b"\0\x0a\0\x32": (2, -1, 4),  # Connection.Close
}
"""Methods with text in them: bytes to the next, or -1 for a text with its length before it."""
_BLOCKED: Final = b"\0\x0a\0\x3c"
_UNBLOCKED: Final = b"\0\x0a\0\x3d"


class ReadableStream(asyncio.StreamReader):
    """What aiormq reads a connection's frames from: each as it came, unless aiormq could not read it. ``blocked`` is
    called with the reason when the broker stops reading from the connection, which aiormq does not tell, and with None
    when it reads again."""

    def __init__(self, reader: asyncio.StreamReader, blocked: Callable[[str | None], None] | None = None) -> None:
        super().__init__()
        self._inner = reader
        self._blocked = blocked
        self._ready = b""
        self._at = 0
        self._rest = b""
        self._plain = False
        """Whether the other side does not send frames: aiormq says what is wrong with what it sends."""

    def at_eof(self) -> bool:
        """Whether all is read."""
        return self._at == len(self._ready) and not self._rest and self._inner.at_eof()

    async def readexactly(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        while len(self._ready) - self._at < n:
            await self._fill(n)
        self._at += n
        return self._ready[self._at - n : self._at]

    async def read(self, n: int = -1) -> bytes:
        """What has arrived, up to ``n`` bytes; without a number, everything until the end."""
        buffered = self._ready[self._at :] + self._rest
        self._ready, self._at, self._rest = b"", 0, b""
        if n < 0:
            return buffered + await self._inner.read()
        if not buffered:
            return await self._inner.read(n)
        self._ready = buffered[n:]
        return buffered[:n]

    async def _fill(self, wanted: int) -> None:
        data = await self._inner.read(_CHUNK)
        left = self._ready[self._at :]
        if not data:
            partial = left + self._rest
            self._ready, self._at, self._rest = b"", 0, b""
            raise asyncio.IncompleteReadError(partial, wanted)
        frames = self.readable(self._rest + data if self._rest else data)
        self._ready = left + frames if left else frames
        self._at = 0

    def readable(self, data: bytes) -> bytes:
        """The complete frames at the beginning of the data, readable; the rest is kept for later."""
        at = done = 0
        end = len(data)
        parts: list[bytes] = []
        while not self._plain and at + 7 <= end:
            kind, channel, size = FRAME.unpack_from(data, at)
            stop = at + 8 + size
            if kind not in (1, 2, 3, 8):
                self._plain = True
                break
            if stop > end:
                break
            if kind < 3:
                other: bytes | None = None
                if kind == 2:
                    other = readable_header(data, at + 7, stop - 1)
                elif (method := data[at + 7 : at + 11]) in _TEXTS:
                    other = _with_readable_texts(data, at + 7, stop - 1)
                elif not channel and self._blocked is not None and method in (_BLOCKED, _UNBLOCKED):
                    why = data[at + 12 : stop - 1].decode("utf-8", "replace")
                    self._blocked(why or "no reason given" if method == _BLOCKED else None)
                if other is not None:
                    parts += (data[done:at], FRAME.pack(kind, channel, len(other)), other, data[stop - 1 : stop])
                    done = stop
            at = stop
        if self._plain:
            at = end
        self._rest = data[at:] if at < end else b""
        if not parts:
            return data[:at] if at < end else data
        parts.append(data[done:at])
        return b"".join(parts)


class ReadableTransport(TransportFactory):
    """Connects as aiormq does by default, with a :class:`ReadableStream` in front of the reader."""

    def __init__(self, blocked: Callable[[str | None], None] | None = None) -> None:
        self._blocked = blocked

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See :class:`aiormq.connection.TransportFactory`."""
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **options)
        return ReadableStream(reader, self._blocked), writer


def _with_readable_texts(data: bytes, at: int, end: int) -> bytes | None:
    """The same method with its texts in UTF-8, escaped; None where they are UTF-8 already."""
    parts = [data[at : at + 4]]
    changed = False
    pattern = _TEXTS[parts[0]]
    at += 4
    for step in pattern:
        if step >= 0:
            parts.append(data[at : at + step])
            at += step
            continue
        stop = at + 1 + data[at]
        text = data[at + 1 : stop]
        try:
            text.decode()
        except UnicodeDecodeError:
            changed = True
            text = text.decode("utf-8", "backslashreplace").encode("ascii", "backslashreplace")[:255]
        parts += (bytes((len(text),)), text)
        at = stop
    parts.append(data[at:end])
    return b"".join(parts) if changed else None
