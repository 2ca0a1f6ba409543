"""``dead_letter(then="park")`` on a Bus in memory: a store that is down, events that park nothing, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, Reject
from anybroker.adapter import Inbound, Lane
from anybroker.delivery import LaneState
from anybroker.idempotency import MemoryStore, ParkedRow, StoreUnavailable
from anybroker.idempotency._parking import identity, plain
from anybroker.middleware import dead_letter, retry
from anybroker.middleware.parking import Parking
from anybroker.stats import SubscriptionStats
from anybroker.testing import settled

PARK = (dead_letter(then="park"), retry(attempts=1))


class Store(MemoryStore):
    """Counts what it is asked, and may be down for one kind of call."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.down = ""

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down == what:
            raise StoreUnavailable("down on purpose")

    async def parked(self, place: str, /) -> Mapping[str, int]:
        self._ask("parked")
        return await super().parked(place)

    async def park(self, place: str, key: str, event: str, behind: bool, /) -> ParkedRow | None:
        self._ask("join" if behind else "park")
        return await super().park(place, key, event, behind)

    async def unpark(self, place: str, key: str, event: str | None, /) -> int:
        self._ask("unpark")
        return await super().unpark(place, key, event)


class Ledger:
    """A Bus whose handler refuses some ids."""

    def __init__(self, **options: Any) -> None:
        self.store = Store()
        self.refused = {"e-0"}
        self.started: list[str] = []
        self.bus = Bus(MemoryBroker(), source="shop", idempotency=self.store)
        subscription = self.bus.subscription("orders", group="billing", middleware=PARK, **options)

        @subscription.on
        async def book(event: Event) -> None:
            self.started.append(event.id)
            if event.id in self.refused:
                raise Reject("not booked")

    @property
    def letters(self) -> Any:
        """Of the group."""
        return self.bus.dead_letters("orders", "billing")

    async def publish(self, *numbers: int, key: str | None = "k", **options: Any) -> None:
        """The events of these numbers."""
        for number in numbers:
            await self.bus.publish("orders", number, type="booking", id=f"e-{number}", key=key, **options)


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0.005)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """In an event loop of its own."""

    async def whole() -> None:
        await main()

    asyncio.run(whole())


def test_while_the_row_cannot_be_written_the_dead_letter_waits() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            ledger.store.down = "park"
            await ledger.publish(0, 1)
            await until(lambda: ledger.store.asked.count("park") >= 2)
            assert "down on purpose" in ledger.bus.problems["orders/billing"]
            assert await ledger.letters.list() == []
            ledger.store.down = ""
            await settled(ledger.bus)
            assert [letter.id for letter in await ledger.letters.list()] == ["e-0", "e-1"]
            assert ledger.bus.problems == {}

    run(main)
    assert ledger.started == ["e-0"]


def test_while_nobody_can_say_what_is_parked_nothing_is_handled() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            ledger.store.down = "join"
            await ledger.publish(5, 6)
            await until(lambda: ledger.store.asked.count("join") >= 2)
            assert "down on purpose" in ledger.bus.problems["orders/billing"]
            assert ledger.started == []
            ledger.store.down = ""
            await settled(ledger.bus)
            assert ledger.bus.problems == {}
            assert ledger.bus.subscriptions[0].stats.postponed >= 1

    run(main)
    assert ledger.started == ["e-5", "e-6"]


def test_a_handled_event_whose_row_cannot_be_finished_is_not_handled_again() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            await ledger.publish(0, 1)
            await settled(ledger.bus)
            ledger.refused.clear()
            ledger.store.down = "unpark"
            await ledger.letters.replay()
            await until(lambda: ledger.store.asked.count("unpark") >= 2)
            assert ledger.started == ["e-0", "e-0"]
            ledger.store.down = ""
            await settled(ledger.bus)
            assert await ledger.letters.parked() == {}

    run(main)
    assert ledger.started == ["e-0", "e-0", "e-1"]


def test_a_copy_of_what_was_handled_does_not_go_to_the_end_of_the_line() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            time = datetime(2026, 1, 1, tzinfo=UTC)
            await ledger.publish(0, 1, time=time)
            await settled(ledger.bus)
            ledger.refused.clear()
            await ledger.letters.replay("e-0")
            await settled(ledger.bus)
            await ledger.publish(0, time=time)  # the same event, to the last byte
            await settled(ledger.bus)
            assert await ledger.letters.parked() == {"k": 1}
            assert ledger.bus.subscriptions[0].stats.suppressed == 1

    run(main)
    assert ledger.started == ["e-0", "e-0"]


def test_what_has_no_key_or_has_expired_parks_nothing() -> None:
    ledger = Ledger()
    ledger.refused = {"e-0", "e-1", "e-2"}

    async def main() -> None:
        async with ledger.bus:
            await ledger.publish(0, 1, key=None)
            past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
            await ledger.publish(2, extensions={"expirytime": past})
            await ledger.publish(3)
            await settled(ledger.bus)
            assert sorted(letter.id for letter in await ledger.letters.list()) == ["e-0", "e-1", "e-2"]
            assert await ledger.letters.parked() == {}

    run(main)
    assert sorted(ledger.started) == ["e-0", "e-1", "e-3"]


def test_one_that_expires_while_it_is_set_aside_frees_its_place() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            soon = datetime.now(UTC) + timedelta(seconds=0.5)
            await ledger.publish(0)
            await ledger.publish(1, extensions={"expirytime": soon.isoformat()})
            await ledger.publish(2)
            await settled(ledger.bus)
            assert await ledger.letters.parked() == {"k": 3}
            ledger.refused.clear()
            await until(lambda: datetime.now(UTC) > soon)
            await ledger.letters.replay()
            await settled(ledger.bus)
            assert await ledger.letters.parked() == {}
            assert [(letter.id, letter.parked) for letter in await ledger.letters.list()] == [("e-1", None)]

    run(main)
    assert ledger.started == ["e-0", "e-0", "e-2"]


def test_events_of_a_type_that_nobody_takes_are_set_aside_too() -> None:
    ledger = Ledger()

    async def main() -> None:
        async with ledger.bus:
            await ledger.publish(0)
            await ledger.bus.publish("orders", 1, type="another", id="other", key="k")
            await settled(ledger.bus)
            assert [letter.id for letter in await ledger.letters.list()] == ["e-0", "other"]

    run(main)
    assert ledger.started == ["e-0"]


def test_a_batch_handler_parks_what_failed() -> None:
    store = Store()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)
    batches: list[list[str]] = []
    refused = {"e-0"}
    subscription = bus.subscription("orders", group="billing", middleware=PARK)

    async def book(events: list[Event]) -> None:
        batches.append([event.id for event in events])
        if refused.intersection(batches[-1]):
            raise Reject("not booked")

    subscription.on(book, batch=1)

    async def main() -> None:
        async with bus:
            for number in range(3):
                await bus.publish("orders", number, type="booking", id=f"e-{number}", key="k")
            await settled(bus)
            assert batches == [["e-0"]]
            refused.clear()
            await bus.dead_letters("orders", "billing").replay()
            await settled(bus)
            assert batches == [["e-0"], ["e-0"], ["e-1"], ["e-2"]]

    run(main)


def test_a_store_that_cannot_is_refused() -> None:
    class Plain:
        durable = False
        retain = 1.0

        def __getattr__(self, name: str) -> Any:
            if name in ("claim", "open", "close"):
                return getattr(MemoryStore(), name)
            raise AttributeError(name)

    store: Any = Plain()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)
    bus.subscription("orders", group="billing", middleware=PARK).on(_nothing)

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"a Plain, has no parked keys.*ANYBROKER_IDEMPOTENCY"):
            await bus.start()

    run(main)


async def _nothing(_: Event) -> None:
    """A handler."""


def test_wrong_settings_are_refused() -> None:
    wrong: Any = "stop"
    with pytest.raises(ConfigError, match="neither 'go on' nor 'park'"):
        dead_letter(then=wrong)
    with pytest.raises(ConfigError, match="nothing to park a key behind"):
        dead_letter(enabled=False, then="park")


def test_a_member_with_lanes_of_its_own_asks_once() -> None:
    """Where a lane belongs to one member, a free key costs one lookup, and a parked one is asked for each time."""
    store = Store()
    lane = LaneState(Lane("orders/1", 1), None)
    started: list[str] = []

    async def set_aside(_: Delivery, error: Exception) -> None:
        started.append(str(error))

    parking = Parking("orders", "billing", store, True, SubscriptionStats(), lambda *_, **__: None, set_aside)

    def delivery(id_: str, key: str, *, inlet: bool = False) -> Delivery:
        event = Event.create(source="shop", type="booking", id=id_, key=key)
        inbound = Inbound(event, lane.lane, 1, key, {}, None, inlet=inlet)
        return Delivery(event, "orders", "billing", 1, key, inbound, lane)

    async def handler(each: Delivery) -> None:
        started.append(each.event.id)

    async def main() -> None:
        await store.park("orders/billing", "k", "x first", False)
        store.asked.clear()
        assert parking.is_concerned(delivery("e-1", "other"))  # the first one of the lane
        await parking.run(delivery("e-1", "other"), handler)
        assert store.asked == ["parked"]
        assert not parking.is_concerned(delivery("e-2", "another"))
        assert parking.is_concerned(delivery("e-3", "another", inlet=True))
        await parking.run(delivery("e-4", "k"), handler)
        assert store.asked == ["parked", "join"]
        await store.unpark("orders/billing", "k", None)
        await parking.run(delivery("e-5", "k"), handler)
        assert not parking.is_concerned(delivery("e-6", "k"))

    run(main)
    assert started == ["e-1", "parked behind first", "e-5"]


def test_what_stores_are_given_is_short_printable_ascii() -> None:
    for text in ("k", "a key with spaces", "x" * 128):
        assert plain(text) == text
    for text in ("ä", "a\nb", "\0", "x" * 129, "hash:" + "0" * 40, "\ud800"):
        assert plain(text).startswith("hash:")
        assert plain(text) != text


def test_an_event_is_known_by_its_contents() -> None:
    lane = Lane("orders/1", 1)

    def name(event: Event) -> str:
        return identity(Inbound(event, lane, 1, "k", {"x": "y"}, None))

    event = Event.create({"n": 1}, source="shop", type="booking", id="e-1", key="k", extensions={"number": 7})
    assert name(event) == name(Event(event.attributes, event.body))
    assert name(event).endswith(" e-1")
    others = (event.replace(data={"n": 2}), event.replace(subject="s"), event.replace(type="other"))
    assert len({name(event), *map(name, others)}) == 4
