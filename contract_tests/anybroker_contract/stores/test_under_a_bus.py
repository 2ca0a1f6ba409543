"""The store under a real Bus: one effect each, and closed while the store is down."""

from __future__ import annotations

import asyncio

from anybroker import Bus
from anybroker.idempotency import Store
from anybroker.middleware import idempotent, retry

from .._waiting import eventually
from ._kit import StoreKit
from .marks import needs_harness, requires

TYPE = "com.example.contract.numbered.v1"


class Service:
    """A Bus with one handler, and how often it was started for each number."""

    def __init__(self, kit: StoreKit, store: Store) -> None:
        self.kit = kit
        self.bus: Bus = kit.bus(store, lease=3.0)
        self.topic, self.group = "orders", kit.key()[0]
        self.starts: list[int] = []
        self.in_handler: asyncio.Event | None = None
        self.go_on = asyncio.Event()

        async def charge(number: int) -> None:
            self.starts.append(number)
            if self.in_handler is not None:
                self.in_handler.set()
                await self.go_on.wait()

        middleware = [retry(attempts=3, first=0.01), idempotent()]
        self.bus.subscription(self.topic, group=self.group, middleware=middleware).on(charge, name="charge")

    async def publish(self, number: int, copies: int = 1) -> None:
        """That many copies."""
        for _ in range(copies):
            await self.bus.publish(self.topic, number, type=TYPE, id=f"{self.kit.key()[0]}-{number}")

    async def started(self, numbers: list[int]) -> None:
        """Return when these have been started."""

        async def there() -> bool:
            return set(self.starts) >= set(numbers)

        await eventually(there, self.kit.patience, f"started {self.starts}, not {numbers}")

    async def lag(self, count: int) -> None:
        """Return when so many events are not acknowledged."""

        async def there() -> bool:
            return (await self.bus.backlog(self.topic, self.group)).lag == count

        await eventually(there, self.kit.patience, f"not {count} events that are not acknowledged")

    async def unwell(self) -> str:
        """The problem of the subscription, as soon as it has one."""

        async def there() -> bool:
            return bool(self.bus.problems)

        await eventually(there, self.kit.patience, "no problem is reported")
        return self.bus.problems[f"{self.topic}/{self.group}"]

    async def well(self) -> None:
        """Return when no problem is reported."""

        async def there() -> bool:
            return not self.bus.problems

        await eventually(there, self.kit.patience, "the problem stays")


async def test_copies_have_one_effect(kit: StoreKit) -> None:
    """Copies of fifty events start the handler once each."""
    service = Service(kit, kit.store())
    async with service.bus as bus:
        for number in range(50):
            await service.publish(number, copies=3)
        await service.started(list(range(50)))
        await service.lag(0)
        assert bus.subscriptions[0].stats.suppressed == 100
    assert sorted(service.starts) == list(range(50))


async def test_two_buses_with_one_store_object(kit: StoreKit) -> None:
    """Two Buses share a store object: one can close while the other goes on."""
    store = kit.store()
    first, second = Service(kit, store), Service(kit, store)
    async with first.bus:
        async with second.bus:
            await first.publish(1)
            await second.publish(2)
            await asyncio.gather(first.started([1]), second.started([2]))
            await second.lag(0)
            await first.publish(2)
        await first.publish(3)
        await first.started([1, 3])
        await first.lag(0)
    assert sorted(first.starts) == [1, 3]


@requires("durable")
async def test_a_service_that_starts_again_remembers(kit: StoreKit) -> None:
    """A service that ended and started again with a new store object handles no copy of what it had handled."""
    first = Service(kit, kit.store())
    async with first.bus:
        await first.publish(1)
        await first.started([1])
        await first.lag(0)
    second = Service(kit, kit.store())
    async with second.bus:
        await second.publish(1)
        await second.publish(2)
        await second.started([2])
        await second.lag(0)
    assert second.starts == [2]


async def fails_closed(kit: StoreKit, down: str, up: str) -> None:
    """Nothing is handled or acknowledged while it is down; then everything, once each."""
    service = Service(kit, kit.store())
    async with service.bus:
        await service.publish(0)
        await service.started([0])
        await service.lag(0)
        await kit.disturb(down)
        for number in range(1, 6):
            await service.publish(number)
        problem = await service.unwell()
        assert "idempotency store" in problem
        assert kit.harness.names(kit.place) in problem
        await service.lag(5)
        assert service.starts == [0]
        await kit.disturb(up)
        await service.started(list(range(6)))
        await service.lag(0)
        await service.well()
        await service.publish(3)
        await service.lag(0)
    assert sorted(service.starts) == list(range(6))


async def marks_later(kit: StoreKit, down: str, up: str) -> None:
    """A handler that returns while it is down is not started again: the mark is made later."""
    service = Service(kit, kit.store())
    service.in_handler = asyncio.Event()
    async with service.bus:
        await service.publish(0)
        async with asyncio.timeout(kit.patience):
            await service.in_handler.wait()
        await kit.disturb(down)
        service.go_on.set()
        assert "idempotency store" in await service.unwell()
        await service.lag(1)
        await kit.disturb(up)
        await service.lag(0)
        await service.well()
        await service.publish(0)
        await service.lag(0)
    assert service.starts == [0]


@needs_harness("freeze", "thaw")
async def test_it_fails_closed_while_the_store_does_not_answer(kit: StoreKit) -> None:
    """Frozen: no handler starts, nothing is acknowledged, ``bus.problems`` names the store; afterwards everything is
    handled once, without help."""
    await fails_closed(kit, "freeze", "thaw")


@needs_harness("kill", "start")
async def test_it_fails_closed_while_the_store_is_killed(kit: StoreKit) -> None:
    """The same with the store's server killed, and started again."""
    await fails_closed(kit, "kill", "start")


@needs_harness("make_read_only", "make_writable")
async def test_it_fails_closed_while_the_store_can_only_be_read(kit: StoreKit) -> None:
    """The same with a server that refuses writes."""
    await fails_closed(kit, "make_read_only", "make_writable")


@needs_harness("freeze", "thaw")
async def test_a_handler_that_returned_meanwhile_is_marked_later(kit: StoreKit) -> None:
    """A handler returns while the store is frozen: its event is not acknowledged until it is marked, and the handler is
    not started again."""
    await marks_later(kit, "freeze", "thaw")


@requires("durable")
@needs_harness("kill", "start")
async def test_a_handler_that_returned_while_it_was_killed_is_marked_later(kit: StoreKit) -> None:
    """The same with the store's server killed, and started again."""
    await marks_later(kit, "kill", "start")
