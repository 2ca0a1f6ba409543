"""``bus.inspect``: pages of what an adapter shows, and what the core leaves out of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from anybroker import Bus
from anybroker.adapter import Adapter, AdapterContext, Peek, Peeked
from anybroker.capabilities import Support
from anybroker.cloudevents.event import Event
from anybroker.errors import CapabilityError, ConfigError, MissingGroup, StateError
from anybroker.memory import MemoryBroker
from anybroker.testing import AdapterWrapper

Page = Callable[[int, int, bool], Peek]
"""Of a limit, of how many positions were seen, and of whether the newest come first."""


def shown(*positions: int, lane: str = "orders/0") -> list[Peeked]:
    """Stored events."""
    event = Event.create({"n": 1}, source="test", type="t")
    return [Peeked(event, lane, position, None, {}) for position in positions]


class Shop:
    """A third party's broker: in memory, with what it shows made up by the test."""

    def __init__(self, page: Page) -> None:
        self.broker = MemoryBroker()
        self.page = page
        self.asked: list[Mapping[str, int]] = []
        self.opened = 0

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """With a look of its own."""
        return _Showing(self.broker.make_adapter(context), self)


class _Showing(AdapterWrapper):
    def __init__(self, inner: Adapter, shop: Shop) -> None:
        super().__init__(inner)
        self._shop = shop

    async def peek(self, topic: str, /, *, group: str | None, limit: int, newest: bool, beyond: Any) -> Peek:
        self._shop.asked.append(dict(beyond))
        return self._shop.page(limit, beyond.get("orders/0", -1) + 1, newest)

    async def open_receiver(self, *arguments: Any) -> Any:
        self._shop.opened += 1
        return await super().open_receiver(*arguments)


def of_range(count: int, note: str = "") -> Page:
    """As many events, under a note."""

    def page(limit: int, seen: int, newest: bool) -> Peek:
        return Peek(shown(*range(seen, min(seen + limit, count))), notes={"orders/0": note})

    return page


def positions(page: Peek) -> list[int]:
    """Where its events are."""
    return [event.position for event in page.events]


TOPICS: dict[str, Any] = {"orders": {"groups": ["billing"]}, "orders.billing.dlq": {"groups": ["dlq"]}}


def looked(shop: Any, **options: Any) -> Peek:
    """What a Bus on this broker sees of the topic's group."""

    async def main() -> Peek:
        async with asyncio.timeout(20), Bus(shop, source="test", consume=False, topics=TOPICS) as bus:
            return await bus.inspect.peek("orders", group="billing", **options)

    return asyncio.run(main())


def test_a_page_without_notes_is_asked_for_once() -> None:
    shop = Shop(of_range(3))
    assert positions(looked(shop, limit=5)) == [0, 1, 2]
    assert shop.asked == [{}]


def test_what_the_note_says_is_finished_is_left_out_and_made_up_for() -> None:
    shop = Shop(of_range(20, "1|0|1-3,5|"))
    page = looked(shop, limit=5)
    assert positions(page) == [0, 4, 6, 7, 8]
    assert shop.asked == [{}, {"orders/0": 4}, {"orders/0": 7}]
    assert page.notes == {}, "the core has read them"


def test_a_topic_of_which_all_is_finished_ends() -> None:
    shop = Shop(of_range(20, "1|0|0-99|"))
    assert looked(shop, limit=8).events == []
    assert len(shop.asked) == 4


def test_a_note_of_another_lane_or_of_nobody_is_not_believed() -> None:
    def page(limit: int, seen: int, newest: bool) -> Peek:
        return Peek(shown(*range(3)), notes={"orders/0": "9|0|0-99|", "orders/1": "1|0|0-99|"})

    assert positions(looked(Shop(page))) == [0, 1, 2]


def test_no_event_is_asked_for_where_none_is_wanted() -> None:
    shop = Shop(of_range(3))
    assert looked(shop, limit=0).events == []
    assert shop.asked == []


def test_a_place_is_handed_on() -> None:
    shop = Shop(of_range(9))
    assert positions(looked(shop, limit=3, beyond={"orders/0": 3})) == [4, 5, 6]


def test_one_inexact_page_makes_the_whole_inexact() -> None:
    def page(limit: int, seen: int, newest: bool) -> Peek:
        return Peek(shown(*range(seen, min(seen + limit, 9))), exact=seen > 0, notes={"orders/0": "1|0|0|"})

    assert not looked(Shop(page), limit=4).exact


@pytest.mark.parametrize("exact", [True, False])
def test_dead_letters_are_read_by_a_member_only_where_a_look_cannot_tell(exact: bool) -> None:
    """The broker has one dead letter more than it shows."""
    shop = Shop(lambda limit, seen, newest: Peek([], exact=exact))

    async def main() -> int:
        async with asyncio.timeout(20), Bus(shop, source="test", consume=False, topics=TOPICS) as bus:
            await bus.publish("orders.billing.dlq", {"n": 1}, type="t")
            queue = bus.dead_letters("orders", "billing")
            queue.patience = 0.1
            return len(await queue.list())

    assert asyncio.run(main()) == (0 if exact else 1)
    assert shop.opened == (0 if exact else 1)


def test_looking_lets_others_run() -> None:
    """A caller that polls must not keep the loop to itself, even where the broker never waits."""

    async def main() -> None:
        async with Bus(MemoryBroker(), source="test", consume=False, topics=TOPICS) as bus:
            publishing = asyncio.create_task(bus.publish("orders", {"n": 1}, type="t"))
            for _ in range(100):
                if (await bus.inspect.peek("orders")).events:
                    break
            else:
                pytest.fail("the publish did not run")
            await publishing

    asyncio.run(main())


def test_events_held_in_memory_are_looked_at_wherever_they_are() -> None:
    """Waiting, in flight, given back, and put aside for another member's key: each once, and in order."""

    async def main() -> None:
        broker = MemoryBroker()
        async with Bus(broker, source="test", consume=False, topics=TOPICS) as bus:
            for number in range(6):
                await bus.publish("orders", {"n": number}, type="t", id=str(number), key="k")
            group = broker.topics["orders"]["billing"]
            group.position = 2
            first, second = group.fresh.popleft(), group.fresh.popleft()
            group.aside["k"] = deque([(2, 0, second)])
            group.returned.append((1, 0, first))
            page = await bus.inspect.peek("orders", group="billing")
            assert [(each.position, each.event.data["n"]) for each in page.events] == [  # type: ignore[union-attr]
                (number + 1, number) for number in range(6)
            ]

    asyncio.run(main())


class _Plain:
    """A broker whose adapter has none of the optional protocols."""

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """Only what every adapter has."""
        adapter: Any = MemoryBroker().make_adapter(context)

        class Plain:
            Settings = adapter.Settings
            native = adapter.native
            connect, declare, open_sender, open_receiver, close = (
                adapter.connect,
                adapter.declare,
                adapter.open_sender,
                adapter.open_receiver,
                adapter.close,
            )
            capabilities = replace(adapter.capabilities, inspect=Support.ABSENT, backlog=Support.ABSENT)

        return Plain()


def test_an_adapter_that_cannot_look_is_named() -> None:
    async def main() -> None:
        async with Bus(_Plain(), source="test", consume=False, topics=TOPICS) as bus:
            calls: Collection[Callable[[], Any]] = (
                lambda: bus.inspect.topics(),
                lambda: bus.inspect.members("orders", "billing"),
                lambda: bus.inspect.peek("orders"),
            )
            for call in calls:
                with pytest.raises(CapabilityError, match="inspect"):
                    await call()
            queue = bus.dead_letters("orders", "billing")
            queue.patience = 0.1
            assert await queue.list() == [], "read as a member"

    asyncio.run(main())


def test_nothing_is_looked_at_before_the_start() -> None:
    bus = Bus(MemoryBroker(), source="test")

    async def main() -> None:
        with pytest.raises(StateError, match="inspect"):
            await bus.inspect.topics()
        with pytest.raises(StateError, match="inspect"):
            await bus.inspect.peek("orders")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("topic", "group"),
    [
        ("orders.>", None),
        ("orders.>.dlq", None),
        ("a..b.dlq", "dlq"),
        ("x.dlq", "d*"),
        ("o" * 61, None),
        ("o" * 62 + ".dlq", "dlq"),
    ],
)
def test_names_that_no_broker_carries_are_refused(topic: str, group: str | None) -> None:
    """They would be patterns in a broker's own language."""

    async def main() -> None:
        async with Bus(MemoryBroker(), source="test", consume=False) as bus:
            with pytest.raises(ConfigError) as caught:
                await bus.inspect.peek(topic, group=group)
            assert not isinstance(caught.value, MissingGroup)

    asyncio.run(main())


def test_a_missing_topic_and_a_missing_group_are_named() -> None:
    async def main() -> None:
        async with Bus(MemoryBroker(), source="test", consume=False, topics=TOPICS) as bus:
            with pytest.raises(MissingGroup, match="'other'"):
                await bus.inspect.peek("other")
            with pytest.raises(MissingGroup, match="near names"):
                await bus.inspect.peek("orders", group="biling")

    asyncio.run(main())
