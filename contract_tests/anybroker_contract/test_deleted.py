"""deleted: a topic that is gone is its own publishers' trouble, and passes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anybroker import Bus, Event
from anybroker.adapter import Receipt
from anybroker.errors import BrokerError, PublishOutcomeUnknown

from ._kit import Kit, counted
from .marks import needs_harness


@needs_harness("delete")
@pytest.mark.parametrize("seconds", [0.0, 2.0], ids=["at once", "delayed"])
async def test_a_topic_that_is_gone_fails_alone(kit: Kit, seconds: float) -> None:
    """Publishing to a deleted topic fails, at once and later, also with a delay. Events of other topics on the same Bus
    are confirmed by their own confirmations, and handled. Those in progress at the first failure may have an unknown
    outcome, and arrive when they are published again under the same id."""
    delay = seconds if seconds and kit.capabilities.delay else None
    gone, there = kit.topic("gone"), kit.topic("there")
    bus = kit.bus(publish_deadline=3.0, topics={gone: {"groups": ["g"]}})
    log = kit.subscribe(bus, there)
    async with bus:
        await bus.publish(gone, counted(0), delay=delay)
        await asyncio.sleep(seconds)  # it is due, and what was known of the topic is old
        await kit.harness.delete(gone)
        for round_ in range(4):
            events = [counted(20 * round_ + number) for number in range(20)]
            first = asyncio.create_task(failure_of(bus, gone, counted(1 + round_), delay))
            results = await bus.publish_many(there, events)
            assert await first is not None
            unknown = [event for event, result in zip(events, results, strict=True) if not isinstance(result, Receipt)]
            assert all(isinstance(result, Receipt | PublishOutcomeUnknown) for result in results)
            assert round_ == 0 or not unknown
            receipts = [result for result in results if isinstance(result, Receipt)]
            receipts += [await bus.publish(there, event) for event in unknown]
            assert {receipt.event.id for receipt in receipts if receipt.event} == {event.id for event in events}
            assert len({receipt.broker_id for receipt in receipts}) == 20
        await log.wait_done(f"w-{number}" for number in range(80))
        await kit.drained(bus, there)


async def failure_of(bus: Bus, topic: str, event: Event[Any], delay: float | None) -> BrokerError | None:
    """Of publishing that."""
    try:
        await bus.publish(topic, event, delay=delay)
    except BrokerError as exc:
        return exc
    return None
