"""stall: where a failing event stops more than its key, the subscription says so."""

from __future__ import annotations

from anybroker import Delivery
from anybroker.middleware import retry

from ._checkers import inversions
from ._kit import FailsUntilFixed, Kit, counted
from ._waiting import eventually


async def test_what_waits_behind_a_failing_event_goes_on_or_is_reported(kit: Kit) -> None:
    """More events of a key wait behind a failing one than the library or the broker hands out at once. Other keys are
    still handled, or ``problems`` says that they are not, with the key's hash, and ``stats.stalled`` counts it. Once
    the handler is fixed everything is handled, in order, and no problem is reported."""
    topic = kit.topic()
    fails = FailsUntilFixed()
    bus = kit.bus(topics={topic: {"lanes": 1}})
    log = kit.log()

    async def behave(delivery: Delivery) -> None:
        if delivery.event.key == "bad":
            await fails(delivery)

    kit.subscribe(
        bus,
        topic,
        behave=behave,
        log=log,
        max_in_flight=4,
        max_ahead=40,
        middleware=[retry(attempts=1000, first=0.05, cap=0.2)],
    )
    (subscription,) = bus.subscriptions
    async with bus:
        events = [counted(number, key="bad") for number in range(60)]
        events += [counted(number, key=f"k{number % 4}") for number in range(60, 80)]
        await bus.publish_many(topic, events)
        others = {event.id for event in events[60:]}

        async def told() -> bool:
            return others <= log.done_ids or any("the key with hash" in text for text in bus.problems.values())

        await eventually(told, max(12.0, kit.patience), "other keys stand still, and nothing says so")
        assert others <= log.done_ids or subscription.stats.stalled == 1
        fails.fixed = True
        await log.wait_done((event.id for event in events), patience=max(12.0, kit.patience))
        await kit.well(bus)
        await kit.drained(bus, topic)
    assert not inversions([(event.key, event.id) for event in events], log.handlings)
