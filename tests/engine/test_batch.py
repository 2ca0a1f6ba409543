"""Batch handlers: what they are given, what fails alone, and how a batch ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, inbound, run, until
from tests.handlers.orders import Placed, handle

from anybroker import BatchFailed, Bus, ConfigError, Event
from anybroker.middleware import retry


def test_a_cancelled_batch_ends_with_its_deliveries() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        begun, ended = asyncio.Event(), asyncio.Event()

        @bus.subscribe("topic", group="group", batch=2)
        async def handle(events: list[Event[Any]]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
        await begun.wait()
        await bus.close(drain=0)
        assert ended.is_set()

    run(main)


def test_a_batch_that_is_still_collected_is_handled_at_close_and_not_after_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        seen: list[list[str]] = []

        @bus.subscribe("topic", group="group", batch=100, within=3.0)
        async def handle(events: list[Event[Any]]) -> None:
            seen.append([event.id for event in events])

        await bus.start()
        lane = broker.receiver.assign("a")
        broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
        await until(lambda: bus.subscriptions[0].running == 2)
        await bus.close(drain=1)
        assert seen == [["1", "2"]]
        assert broker.receivers[0].position(lane) == 3

    run(main)


@pytest.mark.parametrize("failure", ["text", StopIteration()])
def test_a_batch_that_names_what_is_no_failure_does_not_hang(failure: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)

        @bus.subscribe("topic", group="group", batch=2, middleware=[retry(attempts=1)])
        async def handle(events: list[Event[Any]]) -> None:
            raise BatchFailed({0: failure})

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
            await until(lambda: broker.receiver.position(lane) == 3, "both are finished")
            assert len(broker.sent) >= 1

    run(main)


def test_what_two_batches_publish_never_has_one_id() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker)
        batches: list[list[str]] = []

        @bus.subscribe("topic", group="group", batch=2, within=5.0, middleware=[retry(attempts=3, first=0.0)])
        async def handle(events: list[Event[Any]]) -> None:
            batches.append([event.id for event in events])
            for event in events:
                await bus.publish("next", {"of": event.id}, type="next")
            if len(batches) == 1:
                raise BatchFailed({1: ValueError("again")})

        async with bus:
            lane = broker.receiver.assign("a")
            broker.receiver.deliver(inbound(lane, 1, "a"), inbound(lane, 2, "b"))
            await until(lambda: len(batches) == 1)
            await until(lambda: bus.subscriptions[0].stats.retried == 1)
            broker.receiver.deliver(inbound(lane, 3, "c"))
            await until(lambda: broker.receiver.position(lane) == 4)
            ids: dict[str, set[str]] = {}
            for item in broker.sent:
                assert isinstance(item.event, Event)
                ids.setdefault(item.event.id, set()).add(item.event.data["of"])
            assert all(len(causes) == 1 for causes in ids.values()), ids

    run(main)


@pytest.mark.parametrize("form", ["payloads", "events", "typed events", "sequence"])
def test_batch_forms(bus: Bus, run: Any, form: str) -> None:
    seen: list[Any] = []
    annotation = {
        "payloads": list[Placed],
        "events": list[Event],
        "typed events": list[Event[Placed]],
        "sequence": Sequence[Placed],
    }[form]

    async def charge(orders: Any) -> None:
        seen.append(orders)

    charge.__annotations__["orders"] = annotation
    bus.subscribe("orders", group="billing", batch=3, within=0.05)(charge)
    payloads = [Placed(order_id=str(number), cents=number) for number in range(7)]
    assert run(handle(bus, *payloads)) == []
    assert [len(batch) for batch in seen] == [3, 3, 1]
    items = [item for batch in seen for item in batch]
    if form in ("payloads", "sequence"):
        assert items == payloads
    elif form == "typed events":
        assert [item.data for item in items] == payloads
    else:
        assert [item.data for item in items] == [payload.model_dump() for payload in payloads]


def test_of_a_batch_only_what_failed_is_retried(bus: Bus, run: Any) -> None:
    seen: list[list[int]] = []

    @bus.subscribe("orders", group="billing", batch=4, within=0.05)
    @retry(attempts=2, first=0.0)
    async def charge(numbers: list[int]) -> None:
        seen.append(numbers)
        failures = {index: OSError(f"no {number}") for index, number in enumerate(numbers) if number % 2}
        if failures:
            raise BatchFailed(failures)

    letters = run(handle(bus, 0, 1, 2, 3, type="number.v1"))
    assert seen[0] == [0, 1, 2, 3]
    assert sorted(number for batch in seen[1:] for number in batch) == [1, 3]
    assert sorted(letter.reason for letter in letters) == ["OSError: no 1", "OSError: no 3"]
    assert [letter.attempts for letter in letters] == [2, 2]


def test_an_item_that_cannot_be_decoded_is_not_in_the_batch(bus: Bus, run: Any) -> None:
    seen: list[list[int]] = []

    @bus.subscribe("orders", group="billing", batch=3, within=0.05)
    async def charge(numbers: list[int]) -> None:
        seen.append(numbers)

    (letter,) = run(handle(bus, 1, "two", 3, type="number.v1"))
    assert seen == [[1, 3]]
    assert letter.event.data == "two"


def test_a_failure_of_the_whole_batch_is_each_ones(bus: Bus, run: Any) -> None:
    starts: list[int] = []

    @bus.subscribe("orders", group="billing", batch=3, within=0.05)
    @retry(attempts=1)
    async def charge(numbers: list[int]) -> None:
        starts.append(len(numbers))
        raise OSError("all")

    letters = run(handle(bus, 1, 2, 3, type="number.v1"))
    assert starts == [3]
    assert len(letters) == 3


def test_failures_of_items_that_are_not_there(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=2, within=0.05)
    @retry(attempts=1)
    async def charge(numbers: list[int]) -> None:
        raise BatchFailed({5: OSError("no")})

    letters = run(handle(bus, 1, 2, type="number.v1"))
    assert {letter.reason for letter in letters} == {
        "ConfigError: BatchFailed(failures): names 5, and the batch has 2 items"
    }


def test_no_failures_is_no_failure() -> None:
    with pytest.raises(ConfigError, match=r"BatchFailed\(failures\): is empty. Return from the handler"):
        BatchFailed({})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "subscription orders/billing, batch=: 0 is not a number of events of 1 or more"),
        ({"batch": True}, "batch=: True is not a number"),
        ({"batch": 2, "within": 0}, "subscription orders/billing, within=: 0 is not a number of seconds over 0"),
    ],
)
def test_wrong_batch_settings(bus: Bus, options: Any, text: str) -> None:
    async def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError) as caught:
        bus.subscribe("orders", group="billing", **options)(charge)
    assert text in str(caught.value)


def test_a_plain_def_batch_handler_is_refused(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=2, name="charge")
    def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"handler charge: is a plain 'def' with batch=\. Make it 'async def'"):
        run(bus.start())


def test_more_in_a_batch_than_in_flight(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=50, max_in_flight=10)
    async def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"max_in_flight=: 10 is less than batch=50. Raise it to the batch"):
        run(bus.start())
