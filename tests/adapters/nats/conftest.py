"""Stand-ins for our client and link: what the adapter calls of them, and levers for the tests."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeout

from anybroker.adapter import Lane
from anybroker.errors import Unavailable
from anybroker.event import Event
from anybroker_nats.failures import ApiError


def event(id: str = "1", key: str | None = None, data: Any = "data") -> Event[Any]:
    return Event.create(data, source="/shop", type="com.example.placed", id=id, key=key)


def block(*headers: tuple[str, str], pin: str = "") -> bytes:
    """Headers as they are on the wire."""
    lines = [f"{name}: {value}\r\n" for name, value in (*headers, *((("Nats-Pin-Id", pin),) if pin else ()))]
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def commands(data: bytes) -> list[SimpleNamespace]:
    """The commands in what was written: verb, subject, reply, headers, body."""
    found = []
    while data:
        line, _, data = data.partition(b"\r\n")
        verb, subject, *rest = line.decode().split(" ")
        sizes = [int(size) for size in rest[-2 if verb == "HPUB" else -1 :]]
        reply = rest[0] if len(rest) > len(sizes) else ""
        headers = sizes[0] if verb == "HPUB" else 0
        body = data[headers : sizes[-1]]
        found.append(SimpleNamespace(verb=verb, subject=subject, reply=reply, headers=data[:headers], body=body))
        assert data[sizes[-1] : sizes[-1] + 2] == b"\r\n"
        data = data[sizes[-1] + 2 :]
    return found


class FakeClient:
    """A RawClient without a connection; what is written stays here."""

    def __init__(self) -> None:
        self.is_connected = True
        self.is_closed = False
        self.max_payload = 1_048_576
        self.pending_data_size = 0
        self.data: list[bytes] = []
        self.listeners: dict[str, Any] = {}

    def new_inbox(self) -> str:
        return "_INBOX.me"

    async def listen(self, subject: str, listener: Any) -> str:
        self.listeners[subject] = listener
        return subject

    async def unlisten(self, subscription: str, timeout: float) -> None:
        del self.listeners[subscription]

    def write(self, data: bytes) -> bool:
        if self.is_connected:
            self.data.append(data)
        return self.is_connected

    def written(self) -> list[SimpleNamespace]:
        """The commands since the last look."""
        data, self.data = b"".join(self.data), []
        return commands(data)


class FakeLink:
    """Answers requests with what ``answers`` says for an operation: a dict, an exception, an event that never comes for
    a server that does not answer, or nothing for 404."""

    def __init__(self) -> None:
        self.timeout = 0.2
        self.watchers: set[Any] = set()
        self.current = FakeClient()
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}

    async def client(self) -> FakeClient:
        if not self.current.is_connected:
            raise Unavailable("no connection")
        return self.current

    async def api(self, operation: str, body: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        self.asked.append((operation, body))
        await asyncio.sleep(0)
        answer = self.answers.get(operation)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, asyncio.Event):  # no leader: it answers nothing
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout or self.timeout):
                    await answer.wait()
            raise NatsTimeout
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise ApiError({"code": 404, "err_code": 10059, "description": f"{operation} not found"})
        return answer


class Ear:
    """A LaneListener that remembers."""

    def __init__(self) -> None:
        self.held: list[Lane] = []
        self.gone: list[Lane] = []
        self.given: list[Lane] = []
        self.busy: asyncio.Event | None = None
        """Handlers that run until it is set."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.held.append(lane)

    async def revoked(self, lanes: Any, /) -> None:
        self.given += lanes
        if self.busy is not None:
            await self.busy.wait()

    def lost(self, lanes: Any, /) -> None:
        self.gone += lanes


@pytest.fixture
def kit() -> SimpleNamespace:
    """The names of this module that tests use."""
    return SimpleNamespace(event=event, block=block, commands=commands, FakeLink=FakeLink, Ear=Ear)
