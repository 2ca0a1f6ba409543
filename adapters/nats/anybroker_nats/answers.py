"""Commands whose answers are waited for, many at a time: confirmed acknowledgements, and notes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nats.aio.subscription import Subscription

from .client import RawClient

__all__ = ["Answers"]


class _Call:
    """One call, and how many answers it still waits for."""

    __slots__ = ("done", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """Wait no longer."""
        if not self.done.done():
            self.done.set_result(None)


class Answers:
    """An inbox in which each command has a place for its answer. What the answer says does not matter."""

    def __init__(self, client: RawClient, inbox: str, timeout: float) -> None:
        self._client = client
        self._prefix = f"{inbox}.a.".encode()
        self._timeout = timeout
        self._asked = 0
        self._open: dict[int, _Call] = {}
        self.subscription: Subscription | None = None

    async def listen(self) -> None:
        """Open the inbox. Raises what nats-py raises."""
        self.subscription = await self._client.listen(f"{self._prefix.decode()}*", self._answered)

    def _answered(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        call = self._open.pop(int(subject[len(self._prefix) :]), None)
        if call is not None:
            call.left -= 1
            if not call.left:
                call.end()

    def give_up(self) -> None:
        """There will be no more answers."""
        for call in set(self._open.values()):
            call.end()

    async def ask(self, commands: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Send commands, each in two parts with the place for its answer between them. Returns the indexes of those
        that were not answered in time. Several calls may wait at once."""
        if not commands:
            return []
        call = _Call(len(commands))
        first = self._asked
        self._asked += len(commands)
        numbers = range(first, self._asked)
        self._open.update(dict.fromkeys(numbers, call))
        written = [
            b"%b %b%d%b" % (head, self._prefix, number, tail)
            for number, (head, tail) in zip(numbers, commands, strict=True)
        ]
        if self._client.write(b"".join(written)):
            await asyncio.wait({call.done}, timeout=self._timeout)
        return [number - first for number in numbers if self._open.pop(number, None) is not None]
