"""An adapter under the test's control: what is received, assigned, revoked and lost, and how settling answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from anybroker import Bus
from anybroker.adapter import (
    Adapter,
    AdapterContext,
    AdapterSettings,
    Commit,
    Foreign,
    Inbound,
    Lane,
    LaneListener,
    Outbound,
    Receipt,
    Report,
    Settlement,
    SubscriptionSpec,
    Topology,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.errors import BrokerError
from anybroker.event import Event

DEADLINE = 5.0
"""Seconds after which a wait of a test has failed."""
PER_MESSAGE: dict[str, Any] = {"acknowledgement": Acknowledgement.PER_MESSAGE, "release": Support.NATIVE}
"""Capabilities of a broker that settles each message."""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run it to its end, for 20 seconds at most."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Let the loop run until it holds; fails by the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    while not condition():
        assert loop.time() < end, f"{what} did not come true"
        await asyncio.sleep(0.001)


class ScriptedReceiver:
    """Hands out what the test puts into it; notes what is settled."""

    def __init__(self, broker: ScriptedBroker, listener: LaneListener) -> None:
        self.broker = broker
        self.listener = listener
        self.inbox: deque[Inbound] = deque()
        self.error: BrokerError | None = None
        self.asked: list[Collection[Lane] | None] = []
        self.settled: list[Settlement] = []
        self.extended: list[list[Inbound]] = []
        self.given_back: list[Lane] = []
        self.stopped = self.closed = False
        self._came = asyncio.Event()
        self._epoch = 0

    def assign(self, name: str, note: str = "") -> Lane:
        """The lane is this receiver's."""
        self._epoch += 1
        lane = Lane(name, self._epoch)
        self.listener.assigned(lane, note)
        return lane

    def deliver(self, *batch: Inbound) -> None:
        """To be received next."""
        self.inbox.extend(batch)
        self._came.set()

    def die(self, error: BrokerError) -> None:
        """The next receive raises."""
        self.error = error
        self._came.set()

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        self.asked.append(None if lanes is None else list(lanes))
        if not self._of(lanes) and self.error is None and not self.stopped:
            self._came.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._came.wait()
            except TimeoutError:
                return ()
        if self.error is not None:
            raise self.error
        if self.stopped:
            return ()
        taken = self._of(lanes)[:limit]
        self.inbox = deque(item for item in self.inbox if item not in taken)
        return taken

    def _of(self, lanes: Collection[Lane] | None) -> list[Inbound]:
        return [item for item in self.inbox if lanes is None or item.lane in lanes]

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        results = await self.broker.on_settle(batch)
        self.settled += [item for item, result in zip(batch, results, strict=True) if result is None]
        return results

    async def extend(self, batch: Sequence[Inbound], /) -> Sequence[BrokerError | None]:
        self.extended.append(list(batch))
        return self.broker.on_extend(batch)

    @property
    def window(self) -> int | None:
        return self.broker.window

    @property
    def lanes(self) -> int:
        return self.broker.lanes

    async def members(self) -> int:
        return self.broker.members

    async def give_back(self, lane: Lane, /) -> None:
        self.given_back.append(lane)
        await self.broker.on_give_back(lane)

    async def stop(self) -> None:
        self.stopped = True
        self._came.set()
        await self.broker.on_stop()

    async def close(self) -> None:
        self.closed = True
        await self.broker.on_close()

    def position(self, lane: Lane) -> int | None:
        """The position of the last commit of the lane."""
        commits = [item.position for item in self.settled if isinstance(item, Commit) and item.lane is lane]
        return commits[-1] if commits else None


class ScriptedSender:
    """Answers each event as the broker's ``on_send`` says; None: no answer."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self.broker = broker
        self.closed = False
        self.report: Report | None = None
        """To answer later what ``on_send`` has not."""

    @property
    def hindrance(self) -> str | None:
        return self.broker.hindrance

    async def submit(self, batch: Sequence[Outbound], report: Report, /) -> None:
        self.report = report
        for item in batch:
            self.broker.sent.append(item)
            result = self.broker.on_send(item)
            if isinstance(result, BrokerError):
                report(item, result)
            elif result:
                report(item, Receipt(item.topic, str(len(self.broker.sent))))

    async def close(self) -> None:
        self.closed = True


class ScriptedBroker:
    """What a Bus is given instead of a URL. ``receivers[-1]`` is the newest receiver."""

    def __init__(self, **capabilities: Any) -> None:
        basis = Capabilities(
            adapter="scripted",
            acknowledgement=Acknowledgement.CUMULATIVE,
            durable=Support.ABSENT,
            processes=Support.ABSENT,
        )
        self.capabilities = replace(basis, **capabilities)
        self.receivers: list[ScriptedReceiver] = []
        self.senders: list[ScriptedSender] = []
        self.declared: list[tuple[Topology, str]] = []
        self.sent: list[Outbound] = []
        self.members = 1
        self.lanes = 2
        self.window: int | None = None
        self.open_error: BrokerError | None = None
        self.hindrance: str | None = None
        self.on_send: Callable[[Outbound], BrokerError | bool] = lambda _: True
        self.on_settle: Callable[[Sequence[Settlement]], Awaitable[Sequence[BrokerError | None]]] = _all_well
        self.on_extend: Callable[[Sequence[Inbound]], Sequence[BrokerError | None]] = lambda batch: [None] * len(batch)
        self.on_give_back: Callable[[Lane], Awaitable[None]] = _nothing
        self.on_connect: Callable[[], Awaitable[None]] = _nothing
        self.on_declare: Callable[[Topology], Awaitable[None]] = _nothing
        self.on_open_sender: Callable[[], Awaitable[None]] = _nothing
        self.on_open_receiver: Callable[[SubscriptionSpec], Awaitable[None]] = _nothing
        self.on_stop: Callable[[], Awaitable[None]] = _nothing
        self.on_close: Callable[[], Awaitable[None]] = _nothing
        self.on_adapter_close: Callable[[], Awaitable[None]] = _nothing
        self.closed = False

    @property
    def receiver(self) -> ScriptedReceiver:
        return self.receivers[-1]

    def make_adapter(self, context: AdapterContext) -> Adapter:
        return ScriptedAdapter(self)


def bus_of(broker: ScriptedBroker, **options: Any) -> Bus:
    """A Bus on it, with idempotency in memory."""
    return Bus(broker, source="test", idempotency="memory://", **options)


def with_handler(bus: Bus, *topics: str) -> Bus:
    """A handler that does nothing, on each topic."""
    for topic in topics or ("topic",):

        @bus.subscribe(topic, group="group", name=f"handler of {topic}")
        async def handle(event: Event[Any]) -> None:
            pass

    return bus


def assert_nothing_open(broker: ScriptedBroker) -> None:
    """Of what the Bus opened on it, and of the Bus's own tasks."""
    assert broker.closed
    assert all(sender.closed for sender in broker.senders)
    assert all(receiver.closed for receiver in broker.receivers)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert [name for name in names if name.startswith("anybroker")] == []


class ScriptedAdapter:
    Settings: ClassVar[type[AdapterSettings]] = AdapterSettings

    def __init__(self, broker: ScriptedBroker) -> None:
        self.native = broker
        self.capabilities = broker.capabilities

    async def connect(self) -> None:
        await self.native.on_connect()

    async def declare(self, topology: Topology, mode: Literal["create", "verify"], /) -> None:
        await self.native.on_declare(topology)
        self.native.declared.append((topology, mode))

    async def open_sender(self) -> ScriptedSender:
        await self.native.on_open_sender()
        sender = ScriptedSender(self.native)
        self.native.senders.append(sender)
        return sender

    async def open_receiver(self, subscription: SubscriptionSpec, listener: LaneListener, /) -> ScriptedReceiver:
        if self.native.open_error is not None:
            raise self.native.open_error
        await self.native.on_open_receiver(subscription)
        receiver = ScriptedReceiver(self.native, listener)
        self.native.receivers.append(receiver)
        return receiver

    async def close(self) -> None:
        self.native.closed = True
        await self.native.on_adapter_close()


async def _all_well(batch: Sequence[Settlement]) -> Sequence[BrokerError | None]:
    return [None] * len(batch)


async def _nothing(*_: object) -> None:
    pass


def inbound(
    lane: Lane,
    position: int,
    key: str | None = "k",
    *,
    headers: dict[str, str] | None = None,
    foreign: bool = False,
    attempts: int = 0,
    deliveries: int = 1,
    not_before: float | None = None,
    extensions: dict[str, Any] | None = None,
    inlet: bool = False,
) -> Inbound:
    """An event whose data is its position."""
    event: Event[Any] | Foreign = (
        Foreign(b"\xff", (("content-type", b"\xff;;"),), key)
        if foreign
        else Event.create(position, type="t", source="s", id=str(position), key=key, extensions=extensions)
    )
    return Inbound(event, lane, position, key, headers or {}, None, None, attempts, deliveries, not_before, inlet)
