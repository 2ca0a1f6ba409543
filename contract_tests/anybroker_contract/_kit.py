"""What one test works with: Buses on the adapter under test, unique names, and what handlers saw."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from anybroker import Bus, Delivery, Event
from anybroker.adapter import (
    Adapter,
    AdapterContext,
    Foreign,
    GroupSpec,
    Outbound,
    Receipt,
    TopicSpec,
    Topology,
)
from anybroker.bus import AdapterFactory
from anybroker.capabilities import Capabilities
from anybroker.errors import BrokerError
from anybroker.testing import Fault, FaultyBroker, adapter_of

from ._log import Behaviour, Log
from ._process import Worker
from ._waiting import eventually
from .harness import BrokerHarness, Mode
from .proxy import Proxy

__all__ = ["FailsUntilFixed", "Kit"]

_T = TypeVar("_T")

TYPE = "com.example.contract.counted.v1"
"""The type of the events that tests publish where the type does not matter."""


class Kit:
    """Given to every test as the fixture ``kit``. What it opened is closed after the test."""

    def __init__(
        self,
        harness: BrokerHarness,
        capabilities: Capabilities,
        folder: Path,
        *,
        size: str,
        patience: float,
        mutant: str | None,
    ) -> None:
        self.harness = harness
        self.capabilities = capabilities
        self.folder = folder
        self.size = size
        """``short``, ``full`` or ``stress``."""
        self.patience = patience
        """Seconds within which what must happen has to happen."""
        self.mutant = mutant
        self.target: str | AdapterFactory = harness.broker(folder)
        """What Buses are made with: the URL, or the factory of adapters."""
        self._plain_target = self.target
        self.target = self._broken(self.target)
        self._mark = secrets.token_hex(3)
        self._count = 0
        self._buses: list[Bus] = []
        self._workers: list[Worker] = []
        self._topics: list[str] = []
        self._stack = AsyncExitStack()

    def _broken(self, target: str | AdapterFactory) -> str | AdapterFactory:
        """The target unchanged, or broken by the mutant."""
        if self.mutant is None:
            return target
        from .mutants import break_broker

        return break_broker(target, self.mutant)

    # --------------------------------------------------------------------------------------------- names, sizes

    def pick(self, short: _T, full: _T) -> _T:
        """A number for the tier: the first in ``short``, else the second."""
        return short if self.size == "short" else full

    def topic(self, hint: str = "t") -> str:
        """A topic name that nobody else uses."""
        self._count += 1
        name = f"{hint}-{self._mark}{self._count}"
        self._topics.append(name)
        return name

    @property
    def url(self) -> str:
        """The broker's URL, for what runs in another process."""
        if not isinstance(self._plain_target, str):
            raise TypeError(f"the harness of {self.harness.name} has no URL, but declares 'processes'")
        return self._plain_target

    # ------------------------------------------------------------------------------------------------- buses

    def bus(self, *, target: Any = None, **settings: Any) -> Bus:
        """A Bus, not started, on the broker under test; closed after the test. Its time-outs are short."""
        waits = {"drain": min(10.0, 2 * self.patience), "publish_deadline": min(15.0, 2 * self.patience)}
        options: dict[str, Any] = {"source": "contract", "lease": 6.0, **waits, **settings}
        bus = Bus(self.target if target is None else target, **options)
        self._buses.append(bus)
        return bus

    @property
    def lease(self) -> float:
        """The shortest lease that tests ask for, in seconds: for those that wait until one runs out."""
        return 1.5

    @property
    def brief(self) -> float:
        """Seconds without a letter after which a dead-letter queue counts as empty."""
        return 1.0

    async def started(self, **settings: Any) -> Bus:
        """A Bus that is started."""
        bus = self.bus(**settings)
        await bus.start()
        return bus

    def faulty(self, *faults: Fault) -> FaultyBroker:
        """The broker under test with faults in between: ``kit.bus(target=kit.faulty(…))``."""
        return FaultyBroker(self.target, *faults)

    def log(self) -> Log:
        """An empty log."""
        return Log(self.patience)

    def subscribe(
        self,
        bus: Bus,
        topic: str,
        group: str = "g",
        *,
        behave: Behaviour | None = None,
        log: Log | None = None,
        member: str = "",
        middleware: Sequence[Any] = (),
        **options: Any,
    ) -> Log:
        """Subscribe a handler that records its starts. With ``log`` several members write to one log."""
        log = self.log() if log is None else log
        subscription = bus.subscription(topic, group=group, middleware=middleware, **options)
        subscription.on(log.handler(member, behave), name="contract")
        return log

    # ---------------------------------------------------------------------------------------------- publishing

    async def publish(
        self,
        bus: Bus,
        topic: str,
        count: int,
        *,
        keys: int | None = None,
        first: int = 0,
        writer: str = "w",
    ) -> list[tuple[str | None, str]]:
        """Publish ``writer-first`` and so on, all at once, under ``keys`` keys in turn; keys and ids, in order."""
        published: list[tuple[str | None, str]] = []
        events = []
        for number in range(first, first + count):
            key = None if keys is None else f"k{number % keys}"
            event = counted(number, key=key, writer=writer)
            published.append((key, event.id))
            events.append(event)
        await asyncio.gather(*(bus.publish(topic, event) for event in events))
        return published

    async def declared(self, topic: str, *groups: str, **settings: Any) -> None:
        """Create the topic with these groups, with a separate Bus."""
        async with self.bus(consume=False, topics={topic: {"groups": groups, **settings}}):
            pass

    # ------------------------------------------------------------------------------------------ the adapter itself

    def context(self, **changes: Any) -> AdapterContext:
        """What an adapter is told."""
        options: dict[str, Any] = {
            "service": "contract",
            "instance": f"contract-{secrets.token_hex(4)}",
            "lease": 6.0,
        }
        return AdapterContext(**{**options, **changes})

    @asynccontextmanager
    async def adapter(self, **changes: Any) -> AsyncIterator[Adapter]:
        """The adapter, connected, without a Bus."""
        adapter = adapter_of(self.target, self.context(**changes))
        await adapter.connect()
        try:
            yield adapter
        finally:
            await adapter.close()

    async def send_foreign(self, topic: str, groups: Iterable[str], *messages: Foreign) -> None:
        """Put messages that are not CloudEvents into a topic."""
        async with self.adapter() as adapter:
            specs = tuple(GroupSpec(group) for group in groups)
            await adapter.declare(Topology((TopicSpec(topic, specs),)), "create")
            sender = await adapter.open_sender()
            try:
                await submit(sender, [Outbound(message, topic) for message in messages])
            finally:
                await sender.close()

    # --------------------------------------------------------------------------------------- processes, disturbances

    async def worker(self, topic: str, group: str = "g", *, log: Log | None = None, **options: Any) -> Worker:
        """Another process with a Bus that consumes the topic; ended after the test. Its starts go to ``log``."""
        worker = Worker(self.url, topic, group, self.log() if log is None else log, self.mutant, options)
        self._workers.append(worker)
        await worker.start()
        return worker

    async def disturb(self, what: str) -> None:
        """Disturb the broker: ``restart``, ``kill``, ``start``, ``freeze`` or ``thaw``."""
        action: Callable[[], Any] = getattr(self.harness, what)
        if inspect.iscoroutinefunction(action):
            await action()
        else:
            await asyncio.to_thread(action)

    def in_mode(self, mode: Mode) -> str | AdapterFactory:
        """What a Bus is made with to publish in this content mode."""
        return self._broken(self.harness.in_mode(self.url, mode))

    def hurried(self) -> str | AdapterFactory:
        """What a Bus is made with whose requests have one second each."""
        return self._broken(self.harness.hurried(self.url))

    async def proxy(self) -> Proxy:
        """A proxy in front of the broker; closed after the test. Buses use it with ``target=kit.through(proxy)``."""
        proxy = Proxy(self.harness.route())
        await proxy.start()
        self._stack.push_async_callback(proxy.close)
        return proxy

    def through(self, proxy: Proxy) -> str | AdapterFactory:
        """What a Bus is made with to reach the broker through the proxy."""
        return self._broken(proxy.url)

    # --------------------------------------------------------------------------------------------------- looking

    async def drained(self, bus: Bus, topic: str, group: str = "g") -> None:
        """Return when the broker holds nothing for the group, neither waiting nor unacknowledged, if it can tell."""
        if self.capabilities.backlog:

            async def empty() -> bool:
                return (await bus.backlog(topic, group)).lag == 0

            await eventually(empty, self.patience, f"the broker still holds events of {topic}/{group}")

    async def unwell(self, bus: Bus) -> None:
        """Return when the Bus reports a problem."""

        async def problem() -> bool:
            return bool(bus.problems)

        await eventually(problem, self.patience, "the Bus reports no problem")

    async def well(self, bus: Bus) -> None:
        """Return when the Bus reports no problem."""

        async def none() -> bool:
            return not bus.problems

        await eventually(none, self.patience, f"the Bus still reports {bus.problems}")

    async def settled_elsewhere(self) -> None:
        """Give another process time to settle: two intervals of its receiver, and a little for the network."""
        await asyncio.sleep(2 * self.capabilities.settle_interval + 0.5)

    async def close(self) -> None:
        """End what the test left open."""
        for worker in self._workers:
            await worker.end()
        for bus in self._buses:
            await bus.close(drain=0)
        await self._stack.aclose()
        await self.harness.clean(self._topics)


class FailsUntilFixed:
    """A handler's behaviour that fails until it is ``fixed``."""

    fixed = False

    async def __call__(self, _: Delivery) -> None:
        if not self.fixed:
            raise ValueError("not yet")


def counted(number: int, *, key: str | None = None, writer: str = "w") -> Event[Any]:
    """The event ``writer-number``."""
    id_ = f"{writer}-{number}"
    return Event.create({"n": number}, source="contract", type=TYPE, id=id_, key=key)


async def submit(sender: Any, batch: Sequence[Outbound], seconds: float = 30.0) -> list[Receipt | BrokerError]:
    """Hand over to a Sender and wait for every report."""
    loop = asyncio.get_running_loop()
    futures: dict[int, asyncio.Future[Receipt | BrokerError]] = {id(item): loop.create_future() for item in batch}

    def report(outbound: Outbound, result: Receipt | BrokerError) -> None:
        futures[id(outbound)].set_result(result)

    async with asyncio.timeout(seconds):
        await sender.submit(batch, report)
        return list(await asyncio.gather(*(futures[id(item)] for item in batch)))
