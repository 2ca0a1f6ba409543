"""The "broker": logs that only grow, and groups that commit how far they are. It knows nothing of anybroker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Record:
    """What a log keeps."""

    body: bytes
    headers: dict[str, str]
    key: str | None
    is_event: bool


@dataclass
class Log:
    """A list of records that somebody may wait for."""

    records: list[Record] = field(default_factory=list)


@dataclass(eq=False)
class Member:
    """Somebody who reads some logs of a group. ``taken`` is told of a log and its committed position; ``given_up`` is
    asked to let go, and may commit before it returns."""

    taken: Callable[[str, int, str], None]
    given_up: Callable[[str], Awaitable[None]]
    logs: set[str] = field(default_factory=set)


class Group:
    """Who reads which log, and how far each is."""

    def __init__(self, logs: dict[str, Log], at_the_end: bool) -> None:
        self.logs = logs
        self.committed = {name: (len(log.records) if at_the_end else 0, "") for name, log in logs.items()}
        self.members: list[Member] = []
        self._balancing = asyncio.Lock()

    async def join(self, member: Member) -> None:
        """Take part."""
        self.members.append(member)
        await self._balance()

    async def leave(self, member: Member) -> None:
        """Take part no more; what the member had goes to the others."""
        if member in self.members:
            self.members.remove(member)
            member.logs.clear()
            await self._balance()

    async def _balance(self) -> None:
        """Log n belongs to member n modulo their number."""
        async with self._balancing:
            owner = {name: member for member in self.members for name in member.logs}
            for number, name in enumerate(self.logs):
                wanted = self.members[number % len(self.members)] if self.members else None
                before = owner.get(name)
                if wanted is before:
                    continue
                if before is not None:
                    await before.given_up(name)
                    before.logs.discard(name)
                if wanted is not None and wanted in self.members:
                    wanted.logs.add(name)
                    wanted.taken(name, *self.committed[name])


class Topic:
    """Some logs, and the groups that read them; each group also has its own log."""

    def __init__(self, name: str, lanes: int) -> None:
        self.logs = {f"{name}/{number}": Log() for number in range(lanes)}
        self.groups: dict[str, Group] = {}

    def add_group(self, name: str, at_the_end: bool) -> None:
        """Make the group, if it is not there."""
        if name not in self.groups:
            self.groups[name] = Group({**self.logs, f"@{name}": Log()}, at_the_end)


class AcmeServer:
    """All topics."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self._news: list[asyncio.Future[None]] = []

    def append(self, log: Log, record: Record) -> int:
        """Store a record; its position."""
        log.records.append(record)
        self.tell()
        return len(log.records) - 1

    def tell(self) -> None:
        """Wake everybody who waits for news."""
        waiting, self._news = self._news, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def news(self, seconds: float) -> None:
        """Return at the next record, or after this many seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news.append(future)
        await asyncio.wait([future], timeout=seconds)
