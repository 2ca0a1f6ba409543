"""inlet: what is meant for one group reaches that group only."""

from __future__ import annotations

from anybroker import Delivery, Retry
from anybroker.middleware import retry

from ._checkers import duplicates
from ._kit import Kit
from .marks import requires


@requires("release")
async def test_a_delayed_release_reaches_one_group_only(kit: Kit) -> None:
    """An event that one group gives back with a delay comes again to that group, and not to another."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})

    async def later(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise Retry(after=0.2)

    log = kit.subscribe(bus, topic, "late", behave=later, middleware=[retry(attempts=3, mode="release")])
    other = kit.subscribe(bus, topic, "other")
    async with bus:
        published = await kit.publish(bus, topic, 10)
        await log.wait_done(id_ for _, id_ in published)
        await other.wait_done(id_ for _, id_ in published)
        await other.quiet()
    assert len(log.handlings) == 20
    assert len(other.handlings) == 10
    assert not duplicates(log.handlings)


@requires("release", "ordering")
async def test_a_release_on_an_ordered_subscription_has_to_be_confirmed(kit: Kit) -> None:
    """With ``gives_up_order=True`` a released event leaves its key free: what follows it goes first."""
    topic = kit.topic()
    bus = kit.bus()

    async def later(delivery: Delivery) -> None:
        if delivery.event.id == "w-0" and delivery.attempt == 1:
            raise Retry(after=0.4)

    log = kit.subscribe(bus, topic, behave=later, middleware=[retry(attempts=3, mode="release", gives_up_order=True)])
    async with bus:
        published = await kit.publish(bus, topic, 5, keys=1)
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(bus, topic)
    assert log.done == ["w-1", "w-2", "w-3", "w-4", "w-0"]
    assert log.attempts("w-0") == [1, 2]
