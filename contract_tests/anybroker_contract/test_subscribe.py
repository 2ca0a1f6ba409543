"""subscribe: at least once, to every group that exists, from where the group is to begin."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from anybroker import Delivery
from anybroker.errors import BrokerError, ConfigError

from ._checkers import duplicates, inversions, lost, unexpected
from ._kit import Kit, counted
from .marks import requires


async def test_an_empty_topic_is_no_error(kit: Kit) -> None:
    """A subscription to an empty topic starts, waits and stops without a problem or a delivery."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.quiet(0.3)
        assert bus.problems == {}
    assert log.handlings == []


async def test_two_topics_do_not_mix(kit: Kit) -> None:
    """Each subscription gets only the events of its own topic, although the groups have the same name."""
    one, two = kit.topic("one"), kit.topic("two")
    bus = kit.bus()
    logs = {topic: kit.subscribe(bus, topic) for topic in (one, two)}
    async with bus:
        first = await kit.publish(bus, one, 30, keys=3, writer="one")
        second = await kit.publish(bus, two, 30, keys=3, writer="two")
        await logs[one].wait_done(id_ for _, id_ in first)
        await logs[two].wait_done(id_ for _, id_ in second)
    assert not unexpected([id_ for _, id_ in first], logs[one].handlings)
    assert not unexpected([id_ for _, id_ in second], logs[two].handlings)


async def test_twenty_topics_at_once(kit: Kit) -> None:
    """One Bus consumes many topics concurrently, and no event of any is lost."""
    topics = [kit.topic() for _ in range(kit.pick(8, 20))]
    bus = kit.bus()
    logs = {topic: kit.subscribe(bus, topic) for topic in topics}
    async with bus:
        published = await asyncio.gather(*(kit.publish(bus, topic, 10, writer=topic) for topic in topics))
        for topic, events in zip(topics, published, strict=True):
            await logs[topic].wait_done(id_ for _, id_ in events)
            assert not unexpected([id_ for _, id_ in events], logs[topic].handlings)


async def test_subscribing_to_what_is_missing_fails_at_the_start(kit: Kit) -> None:
    """Without provisioning, a subscription to a topic that does not exist is a typed error, at once."""
    bus = kit.bus(provision="off")
    kit.subscribe(bus, kit.topic("missing"))
    with pytest.raises((ConfigError, BrokerError)) as caught:
        async with asyncio.timeout(15):
            await bus.start()
    assert "missing-" in str(caught.value)


@requires("verify")
async def test_verify_names_what_is_missing_and_makes_nothing(kit: Kit) -> None:
    """``provision="verify"`` is a ConfigError that names the missing topic, each time: it creates nothing."""
    topic = kit.topic("missing")
    for _ in range(2):
        bus = kit.bus(provision="verify")
        kit.subscribe(bus, topic)
        with pytest.raises(ConfigError, match=topic):
            await bus.start()


@requires("verify")
async def test_verify_accepts_what_is_there(kit: Kit) -> None:
    """``provision="verify"`` starts if topic and group exist, and consumes."""
    topic = kit.topic()
    first = kit.bus(consume=False)
    kit.subscribe(first, topic)
    async with first:
        pass
    bus = kit.bus(provision="verify")
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])


async def test_a_stopped_subscription_goes_on_where_it_was(kit: Kit) -> None:
    """After ``stop`` and ``start`` a subscription gets what arrived in between, and nothing that it had finished."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = await kit.publish(bus, topic, 20, keys=4)
        await log.wait_done(id_ for _, id_ in published)
        (subscription,) = bus.subscriptions
        await subscription.stop()
        published += await kit.publish(bus, topic, 20, keys=4, first=20)
        await log.quiet(0.2)
        assert len(log.done) == 20
        await subscription.start()
        await log.wait_done(id_ for _, id_ in published)
    assert not duplicates(log.handlings)


@pytest.mark.parametrize("how", ["configured", "declared"])
async def test_a_declared_group_gets_what_was_published_before_its_first_consumer(kit: Kit, how: str) -> None:
    """A group that is declared, in the configuration or with ``bus.declare``, gets everything published since."""
    topic = kit.topic()
    topics = {topic: {"groups": ["g"]}} if how == "configured" else {}
    async with kit.bus(consume=False, topics=topics) as publisher:
        if how == "declared":
            await publisher.declare(topic, groups=["g"])
        published = await kit.publish(publisher, topic, 25, keys=5)
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
    assert not lost([id_ for _, id_ in published], log.handlings)
    assert not duplicates(log.handlings)


@requires("ordering")
async def test_a_group_keeps_its_number_of_lanes_where_nobody_asks_for_one(kit: Kit) -> None:
    """Programs that name no number of lanes publish to, verify and consume a group with a number other than the
    default, and its members share all lanes without passing them around."""
    topic = kit.topic()
    log = kit.log()
    await kit.declared(topic, "g", lanes=6)
    buses = []
    for provision in ("create", "verify" if kit.capabilities.verify else "create"):
        bus = kit.bus(provision=provision)
        kit.subscribe(bus, topic, log=log, member=provision)
        await bus.start()
        buses.append(bus)
    published: list[tuple[str | None, str]] = []
    for wave in range(8):
        published += await kit.publish(buses[wave % 2], topic, 64, keys=64, first=64 * wave)
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet(0.5)  # balancing goes on, if it does not end
    assert inversions(published, log.handlings) == []
    assert not duplicates(log.handlings)
    assert sum(bus.subscriptions[0].stats.lanes_given_back for bus in buses) <= 6


async def test_a_new_group_begins_with_what_comes(kit: Kit) -> None:
    """A group created later with ``start="new"`` gets nothing that was published before."""
    topic = kit.topic()
    await kit.declared(topic, "first")
    async with kit.bus(consume=False) as publisher:
        await kit.publish(publisher, topic, 10, writer="old")
    bus = kit.bus()
    log = kit.subscribe(bus, topic, "second")
    async with bus:
        published = await kit.publish(bus, topic, 10, writer="new", keys=4)
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert not unexpected([id_ for _, id_ in published], log.handlings)


@requires("retains")
async def test_earliest_begins_with_what_is_kept(kit: Kit) -> None:
    """A group created later with ``start="earliest"`` gets what was published before."""
    topic = kit.topic()
    await kit.declared(topic, "first")
    async with kit.bus(consume=False) as publisher:
        published = await kit.publish(publisher, topic, 10, keys=2)
    bus = kit.bus()
    log = kit.subscribe(bus, topic, "second", start="earliest")
    async with bus:
        await log.wait_done(id_ for _, id_ in published)


@requires("start_at_time")
async def test_a_group_begins_at_a_moment(kit: Kit) -> None:
    """A group created later with ``start=datetime`` gets what was published from that time on, and nothing older."""
    topic = kit.topic()
    await kit.declared(topic, "first")
    async with kit.bus(consume=False) as publisher:
        await kit.publish(publisher, topic, 5, keys=2, writer="old")
        await asyncio.sleep(0.05)  # brokers keep time in milliseconds
        moment = datetime.now(UTC)
        await asyncio.sleep(0.05)
        published = await kit.publish(publisher, topic, 5, keys=2, writer="new")
    bus = kit.bus()
    log = kit.subscribe(bus, topic, "second", start=moment)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert not unexpected([id_ for _, id_ in published], log.handlings)


@requires("seek")
async def test_a_group_without_members_can_be_moved_back(kit: Kit) -> None:
    """``bus.seek(…, "earliest")`` gives a group everything again that the topic keeps."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = await kit.publish(bus, topic, 10, keys=2)
        await log.wait_done(id_ for _, id_ in published)
        (subscription,) = bus.subscriptions
        await subscription.stop()
        await bus.seek(topic, "g", "earliest")
        await subscription.start()
        await log.until(lambda: len(log.done) >= 20, "everything twice")
    assert set(duplicates(log.handlings).values()) == {2}


async def test_an_event_that_no_handler_takes_is_skipped_and_counted(kit: Kit) -> None:
    """With ``unhandled="skip"`` an event of another type is settled and counted, and delays nothing."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.log()
    subscription = bus.subscription(topic, group="g")
    subscription.on(log.handler("", None), type="com.example.wanted.v1", name="wanted")
    async with bus:
        for number in range(6):
            kind = "com.example.wanted.v1" if number % 2 else "com.example.other.v1"
            await bus.publish(topic, {"n": number}, type=kind, id=f"w-{number}", key="k")
        await log.wait_done(["w-1", "w-3", "w-5"])
        await kit.drained(bus, topic)
    assert log.started == ["w-1", "w-3", "w-5"]
    assert subscription.stats.unhandled == 3


async def test_a_plain_function_handles_in_a_thread(kit: Kit) -> None:
    """A plain ``def`` handler gets every event, settles by returning, and may publish through ``bus.from_thread``."""
    topic, answers = kit.topic(), kit.topic("answers")
    bus = kit.bus()
    log = kit.subscribe(bus, answers)

    def answer(delivery: Delivery) -> None:
        bus.from_thread.publish(answers, counted(delivery.event.data["n"], writer="answer"))

    bus.subscribe(topic, group="g")(answer)
    async with bus:
        await kit.publish(bus, topic, 10, keys=2)
        await log.wait_done(f"answer-{number}" for number in range(10))
    assert not duplicates(log.handlings)
