"""Stand-ins for aiormq's channels and our links: what the adapter calls of them, and levers for the tests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from anybroker.adapter import Lane
from anybroker.cloudevents import Event
from anybroker_rabbitmq.failures import amqp_errors


def event(id: str = "1", key: str | None = None, data: Any = "data") -> Event[Any]:
    return Event.create(data, source="/shop", type="com.example.placed", id=id, key=key)


def message(
    body: bytes = b"{}",
    headers: dict[str, Any] | None = None,
    *,
    tag: int = 1,
    redelivered: bool = False,
    **properties: Any,
) -> DeliveredMessage:
    """A delivery as aiormq makes it."""
    delivery = Basic.Deliver(consumer_tag="c", delivery_tag=tag, redelivered=redelivered, exchange="x", routing_key="1")
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(headers=headers, **properties))
    return DeliveredMessage(delivery=delivery, header=header, body=body, channel=None)  # type: ignore[arg-type]


def delivery(number: int, key: str = "k", *, tag: int = 0, redelivered: bool = False) -> DeliveredMessage:
    """An event as it is delivered."""
    attributes = {"specversion": "1.0", "id": str(number), "source": "/s", "type": "t", "partitionkey": key}
    headers = {f"cloudEvents_{name}": value for name, value in attributes.items()}
    return message(b"{}", headers, tag=tag or number, redelivered=redelivered, content_type="application/json")


def frames(data: bytes) -> list[Any]:
    """The frames in what was written."""
    found: list[Any] = []
    while data:
        size, _, frame = pamqp.frame.unmarshal(data)
        found.append(frame)
        data = data[size:]
    return found


class FakeChannel:
    """A channel of aiormq; ``lose`` closes it."""

    def __init__(self, number: int = 3, there: set[str] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.there = there if there is not None else set()
        self.closing: asyncio.Future[Any] = loop.create_future()
        self.connection = SimpleNamespace(connection_tune=SimpleNamespace(frame_max=131_072))
        self.delivery_tag = 0
        self.confirmations: OrderedDict[int, Any] = OrderedDict()
        self.message_id_delivery_tag: dict[str, int] = {}
        self.write_queue: asyncio.Queue[Any] = asyncio.Queue()
        self.on_consumer_cancel_callbacks: set[Any] = set()
        self.calls: list[tuple[str, Any]] = []
        self.callback: Any = None
        self.members = 2
        self.ready: dict[str, int] = {}
        self.stored: list[bytes] = []
        self.closed_to: set[str] = set()
        """Exchanges that may not be published to."""

    @property
    def is_closed(self) -> bool:
        return self.closing.done()

    def create_future(self) -> asyncio.Future[None]:
        drained = asyncio.get_running_loop().create_future()
        drained.set_result(None)
        return drained

    def lose(self, reason: BaseException | None = None) -> None:
        if not self.closing.done():
            self.closing.set_exception(reason or ConnectionResetError("reset by peer"))
            self.closing.exception()

    def written(self) -> list[Any]:
        found = []
        while not self.write_queue.empty():
            found += frames(self.write_queue.get_nowait().payload)
        return found

    async def close(self, timeout: float | None = None) -> None:
        self.calls.append(("close", None))
        if not self.closing.done():
            self.closing.set_result(None)

    async def basic_qos(self, *, prefetch_count: int, timeout: float) -> None:
        self.calls.append(("qos", prefetch_count))

    async def basic_consume(self, queue: str, callback: Any, **options: Any) -> Any:
        self.calls.append(("consume", queue))
        self.callback = callback
        return SimpleNamespace(consumer_tag="tag")

    async def basic_cancel(self, tag: str, timeout: float) -> None:
        self.calls.append(("cancel", tag))

    async def basic_publish(
        self, body: bytes, *, routing_key: str = "", exchange: str = "", properties: Any = None, **_: Any
    ) -> None:
        self.calls.append(("publish", (routing_key, body)))
        if exchange in self.closed_to:
            raise ChannelAccessRefused(f"ACCESS_REFUSED - access to exchange '{exchange}' in vhost '/' refused")
        if properties.expiration is not None:
            raise ChannelPreconditionFailed("PRECONDITION_FAILED - invalid expiration 'none'")

    async def basic_get(self, queue: str, **_: Any) -> Any:
        if self.stored:
            return SimpleNamespace(delivery=Basic.GetOk(1, False, "", queue, 0), body=self.stored.pop(0))
        return SimpleNamespace(delivery=Basic.GetEmpty(), body=b"")

    async def queue_purge(self, queue: str, **_: Any) -> None:
        self.calls.append(("purge", queue))
        self.stored.clear()

    async def exchange_declare(self, name: str, *, passive: bool = False, **options: Any) -> None:
        self.calls.append(("exchange", name))
        self._look("exchange", name, passive)

    async def exchange_delete(self, name: str, *, nowait: bool = False) -> None:
        self.calls.append(("delete exchange", name))
        self.there.discard(name)

    async def queue_declare(self, name: str, *, passive: bool = False, **options: Any) -> Any:
        self.calls.append(("queue", (name, options.get("arguments"))))
        self._look("queue", name, passive)
        return SimpleNamespace(consumer_count=self.members, message_count=self.ready.get(name, 0))

    def _look(self, kind: str, name: str, passive: bool) -> None:
        if passive and name not in self.there:
            raise ChannelNotFoundEntity(f"NOT_FOUND - no {kind} '{name}' in vhost '/'")
        self.there.add(name)

    async def exchange_bind(self, destination: str, source: str, routing_key: str) -> None:
        self.calls.append(("bind exchange", (destination, source, routing_key)))

    async def queue_bind(self, queue: str, exchange: str, routing_key: str = "", nowait: bool = False) -> None:
        self.calls.append(("bind queue", (queue, exchange, routing_key)))


class FakeLink:
    """Hands out fake channels; ``there`` are the names of what exists."""

    def __init__(self) -> None:
        self.timeout = 1.0
        self.there: set[str] = set()
        self.channels: list[FakeChannel] = []
        self.scratches: list[FakeChannel] = []
        self.notes: list[bytes] = []
        self.ready: dict[str, int] = {}
        self.refuses: BaseException | None = None
        self.hindrance: str | None = None
        self.closed_to: set[str] = set()
        self.closed = False

    async def channel(self, *, confirms: bool = False) -> FakeChannel:
        if self.refuses is not None:
            raise self.refuses
        self.channels.append(FakeChannel(len(self.channels) + 1, self.there))
        self.channels[-1].closed_to = self.closed_to
        return self.channels[-1]

    @asynccontextmanager
    async def scratch(self, doing: str, *, confirms: bool = False) -> AsyncIterator[FakeChannel]:
        channel = FakeChannel(99, self.there)
        channel.stored, channel.ready = self.notes, self.ready
        self.scratches.append(channel)
        with amqp_errors(doing):
            yield channel

    def asked(self, what: str) -> list[Any]:
        return [argument for channel in self.scratches for call, argument in channel.calls if call == what]

    async def close(self) -> None:
        self.closed = True


class Ear:
    """A LaneListener that remembers."""

    def __init__(self) -> None:
        self.held: list[Lane] = []
        self.gone: list[Lane] = []

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.held.append(lane)

    async def revoked(self, lanes: Any, /) -> None:
        raise AssertionError("RabbitMQ revokes nothing")

    def lost(self, lanes: Any, /) -> None:
        self.gone += lanes


@pytest.fixture
def kit() -> SimpleNamespace:
    """The names of this module that tests use."""
    return SimpleNamespace(event=event, message=message, delivery=delivery, frames=frames, FakeLink=FakeLink, Ear=Ear)
