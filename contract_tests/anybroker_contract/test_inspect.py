"""inspect: topics, members and stored events can be looked at, and nothing is different afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from anybroker import Bus, Delivery
from anybroker.adapter import (
    Ack,
    Commit,
    Foreign,
    Inbound,
    Inspects,
    Lane,
    Peeked,
    Receiver,
    Settlement,
    SubscriptionSpec,
)
from anybroker.capabilities import Acknowledgement
from anybroker.errors import CapabilityError, MissingGroup, Reject
from anybroker.names import DEAD_LETTER_GROUP, MAX_NAMES

from ._kit import Kit, counted
from ._waiting import eventually
from .marks import refuses, requires
from .test_settle import _Ears


def ids(events: Sequence[Peeked]) -> list[str]:
    """Their ids, in order; the body of a foreign message."""
    return [repr(each.event.body) if isinstance(each.event, Foreign) else each.event.id for each in events]


def last_seen(events: Sequence[Peeked]) -> dict[str, int]:
    """What the next page is asked for with."""
    return {each.lane: each.position for each in events}


async def received(receiver: Receiver, count: int, patience: float) -> list[tuple[str, int, int]]:
    """That many deliveries of one receiver, each with its attempts and deliveries; unsettled."""
    found: list[tuple[str, int, int]] = []
    async with asyncio.timeout(4 * patience):
        while len(found) < count:
            for inbound in await receiver.receive(count - len(found), lanes=None, timeout=0.5):
                assert not isinstance(inbound.event, Foreign)
                found.append((inbound.event.id, inbound.attempts, inbound.deliveries))
    return found


@requires("inspect")
async def test_a_peek_shows_what_is_stored(kit: Kit) -> None:
    """Every stored event is shown as it was published, with its key and transport headers, in order within each key."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        await bus.publish(topic, counted(0, key="k0"), headers={"shop": "north"})
        published = [("k0", "w-0"), *await kit.publish(bus, topic, 11, keys=3, first=1)]
        page = await bus.inspect.peek(topic)
        assert page.exact
        assert sorted(ids(page.events)) == sorted(id_ for _, id_ in published)
        for key in ("k0", "k1", "k2"):
            assert [each.event.id for each in page.events if each.key == key] == [  # type: ignore[union-attr]
                id_ for of, id_ in published if of == key
            ]
        by_id = {each.event.id: each for each in page.events if not isinstance(each.event, Foreign)}
        first = by_id["w-0"]
        assert not isinstance(first.event, Foreign)
        assert (first.event.data, first.event.source, first.key) == ({"n": 0}, "contract", "k0")
        assert first.headers["shop"] == "north"
        lanes = {each.lane for each in page.events}
        for lane in lanes:
            positions = [each.position for each in page.events if each.lane == lane]
            assert all(one < other for one, other in pairwise(positions))


@requires("inspect")
async def test_a_foreign_message_is_shown_as_it_is(kit: Kit) -> None:
    """A message that is not a CloudEvent is shown too, body byte for byte."""
    topic = kit.topic()
    await kit.send_foreign(topic, ["g"], Foreign(b"\x00\xff no event"))
    async with kit.bus(consume=False) as bus:
        (peeked,) = (await bus.inspect.peek(topic, group="g")).events
        assert isinstance(peeked.event, Foreign)
        assert peeked.event.body == b"\x00\xff no event"


@requires("inspect")
async def test_pages_follow_each_other(kit: Kit) -> None:
    """``limit`` ends a page and ``beyond`` begins the next one, oldest or newest first: nothing twice, nothing left
    out."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        published = [id_ for _, id_ in await kit.publish(bus, topic, 7, keys=1)]
        await kit.publish(bus, topic, 6, keys=6, writer="other")
        for group in (None, "g"):
            for newest in (False, True):
                seen: list[Peeked] = []
                while page := (
                    await bus.inspect.peek(topic, group=group, limit=4, newest=newest, beyond=last_seen(seen))
                ).events:
                    assert len(page) <= 4
                    seen += page
                    assert len(seen) <= 13, "a page shows again what an earlier one had"
                assert len(set(ids(seen))) == len(seen) == 13
                of_one_key = [id_ for id_ in ids(seen) if id_.startswith("w-")]
                assert of_one_key == (published[::-1] if newest else published)


@requires("inspect")
async def test_peeking_moves_nothing(kit: Kit) -> None:
    """After any number of peeks a group has the same backlog and members, and its first delivery of each event is the
    first: no attempt and no delivery is counted."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        published = await kit.publish(bus, topic, 9, keys=3)

        async def seen() -> tuple[object, ...]:
            backlog = await bus.backlog(topic, "g") if kit.capabilities.backlog else None
            counted = backlog and (backlog.waiting, backlog.in_flight)  # only the age grows
            return counted, await bus.inspect.members(topic, "g"), set((await bus.inspect.topics())[topic])

        before = await seen()
        assert before[1] in (0, None)
        for group in (None, "g", "g"):
            for newest in (False, True):
                assert len((await bus.inspect.peek(topic, group=group, newest=newest)).events) == 9
        assert await seen() == before
    async with kit.adapter() as adapter:
        receiver = await adapter.open_receiver(SubscriptionSpec(topic, "g", True, 4, "new", 100), _Ears())
        try:
            found = await received(receiver, 9, kit.patience)
        finally:
            await receiver.stop()
            await receiver.close()
    assert sorted(found) == sorted((id_, 0, 1) for _, id_ in published)


@requires("inspect")
async def test_peeking_disturbs_no_delivery(kit: Kit) -> None:
    """What a member has in flight is shown as unsettled and stays that member's; once it is settled it is shown no
    more."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    published = sorted(id_ for _, id_ in await kit.publish(bus, topic, 5, keys=1))
    async with kit.adapter() as adapter:
        receiver = await adapter.open_receiver(SubscriptionSpec(topic, "g", True, 4, "new", 100), _Ears())
        try:
            batch: list[Inbound] = []
            async with asyncio.timeout(4 * kit.patience):
                while len(batch) < 5:
                    batch += await receiver.receive(5 - len(batch), lanes=None, timeout=0.5)
            for newest in (False, True):
                assert sorted(ids((await bus.inspect.peek(topic, group="g", newest=newest)).events)) == published
            assert await bus.inspect.members(topic, "g") in (1, None)
            settlements: list[Settlement] = [Ack(inbound) for inbound in batch]
            if kit.capabilities.acknowledgement is Acknowledgement.CUMULATIVE:
                last: dict[Lane, int] = {inbound.lane: inbound.position for inbound in batch}
                settlements = [Commit(lane, position + 1, "") for lane, position in last.items()]
            assert set(await receiver.settle(settlements)) == {None}, "it was still the receiver's"

            async def none_left() -> bool:
                return not (await bus.inspect.peek(topic, group="g")).events

            await eventually(none_left, kit.patience, "settled events are shown as unsettled")
            assert not await receiver.receive(10, lanes=None, timeout=0.2)
        finally:
            await receiver.stop()
            await receiver.close()


@requires("inspect")
async def test_a_peek_into_a_group_leaves_out_what_is_finished(kit: Kit) -> None:
    """While one event is held, what was finished behind it is not shown; where the broker cannot tell, it says so."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"groups": ["other"]}})
    go_on = asyncio.Event()

    async def hold(delivery: Delivery) -> None:
        if delivery.event.id == "w-2":
            await go_on.wait()

    log = kit.subscribe(bus, topic, behave=hold)
    async with bus:
        published = [id_ for _, id_ in await kit.publish(bus, topic, 8, keys=8)]
        await log.wait_done(id_ for id_ in published if id_ != "w-2")

        async def only_the_held_one() -> bool:
            page = await bus.inspect.peek(topic, group="g")
            assert "w-2" in ids(page.events)
            return ids(page.events) == ["w-2"] or not page.exact

        await eventually(only_the_held_one, kit.patience, "finished events are shown as unfinished")
        other = await bus.inspect.peek(topic, group="other")
        assert other.exact
        assert sorted(ids(other.events)) == published
        go_on.set()
        await log.wait_done(published)


@requires("inspect", "retains")
async def test_what_is_consumed_is_still_shown_without_a_group(kit: Kit) -> None:
    """A topic that keeps what was consumed shows it; a group's peek does not."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        published = [id_ for _, id_ in await kit.publish(bus, topic, 6, keys=2)]
        await log.wait_done(published)
        assert sorted(ids((await bus.inspect.peek(topic)).events)) == published


@requires("inspect")
async def test_a_group_is_shown_only_what_is_its_own(kit: Kit) -> None:
    """A group declared later has nothing of what was published before it."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as bus:
        await kit.publish(bus, topic, 4, keys=4)
        await bus.declare(topic, groups=["later"])
        await kit.publish(bus, topic, 2, keys=2, writer="new")
        assert sorted(ids((await bus.inspect.peek(topic, group="later")).events)) == ["new-0", "new-1"]
        assert len((await bus.inspect.peek(topic, group="g")).events) == 6


@requires("inspect")
async def test_members_are_counted(kit: Kit) -> None:
    """The members of a group, in all Buses, where the broker can tell."""
    topic = kit.topic()
    buses = [kit.bus() for _ in range(2)]
    for bus in buses:
        kit.subscribe(bus, topic)
        await bus.start()
    if await buses[0].inspect.members(topic, "g") is None:
        return

    async def two() -> bool:
        return await buses[0].inspect.members(topic, "g") == 2

    await eventually(two, 4 * kit.patience, "there are two members")
    await buses[1].close()

    async def one() -> bool:
        return await buses[0].inspect.members(topic, "g") == 1

    await eventually(one, 4 * kit.patience, "one member has left")


async def _with_dead_letters(kit: Kit, bus: Bus, topic: str, count: int) -> None:
    """Publish this many events that are dead-lettered."""

    async def refuse(_: Delivery) -> None:
        raise Reject("never")

    log = kit.subscribe(bus, topic, behave=refuse)
    await bus.start()
    published = [id_ for _, id_ in await kit.publish(bus, topic, count, keys=1)]
    await log.wait_started(count)

    async def all_there() -> bool:
        return len(await bus.dead_letters(topic, "g").list()) == count

    await eventually(all_there, 4 * kit.patience, f"{published} are dead letters")


@requires("inspect")
async def test_listing_dead_letters_moves_nothing(kit: Kit) -> None:
    """``list`` joins no group, does not wait for silence, and counts no delivery, on an empty queue too."""
    topic = kit.topic()
    bus = kit.bus()
    await kit.declared(topic, "g")
    await _with_dead_letters(kit, bus, topic, 3)
    queue = bus.dead_letters(topic, "g")
    queue.patience = 60 * kit.patience
    async with asyncio.timeout(4 * kit.patience):
        for _ in range(3):
            assert [letter.id for letter in await queue.list()] == ["w-0", "w-1", "w-2"]
        assert await bus.inspect.members(queue.dead_letter_topic, DEAD_LETTER_GROUP) in (0, None)
        if kit.capabilities.backlog:
            assert (await bus.backlog(queue.dead_letter_topic, DEAD_LETTER_GROUP)).lag == 3
        newest = await bus.inspect.peek(queue.dead_letter_topic, group=DEAD_LETTER_GROUP, newest=True, limit=1)
        assert ids(newest.events) == ["w-2"]


@requires("inspect")
async def test_dead_letters_of_the_longest_names_are_listed(kit: Kit) -> None:
    """A topic and a group that fill what names may have are listed too: their dead-letter topic is longer."""
    topic = kit.topic()
    group = "g" * (MAX_NAMES - len(topic))
    bus = kit.bus()
    kit.subscribe(bus, topic, group)
    async with bus:
        queue = bus.dead_letters(topic, group)
        assert await queue.list() == []
        assert await bus.inspect.members(queue.dead_letter_topic, DEAD_LETTER_GROUP) in (0, None)
        assert (await bus.inspect.peek(queue.dead_letter_topic)).events == []


@requires("inspect")
async def test_an_empty_queue_of_dead_letters_is_listed_at_once(kit: Kit) -> None:
    """Nobody waits for dead letters that are not there."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic)
    async with bus:
        queue = bus.dead_letters(topic, "g")
        queue.patience = 60 * kit.patience
        async with asyncio.timeout(4 * kit.patience):
            assert await queue.list() == []


@requires("inspect")
async def test_listed_dead_letters_can_be_named(kit: Kit) -> None:
    """A letter that was listed is discarded, and is not listed again; the others stay, also those before it."""
    topic = kit.topic()
    bus = kit.bus()
    await kit.declared(topic, "g")
    await _with_dead_letters(kit, bus, topic, 3)
    queue = bus.dead_letters(topic, "g")
    queue.patience = kit.brief
    letters = await queue.list()
    assert [letter.id for letter in await queue.discard(letters[1])] == ["w-1"]
    assert [letter.id for letter in await queue.list()] == ["w-0", "w-2"]


@requires("inspect")
async def test_looking_for_what_is_missing_is_an_error(kit: Kit) -> None:
    """A topic or a group that does not exist is ``MissingGroup``: a mistyped name must not read as "empty"."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as bus:
        with pytest.raises(MissingGroup):
            await bus.inspect.peek(kit.topic())
        with pytest.raises(MissingGroup):
            await bus.inspect.peek(kit.topic(), group="g")
        with pytest.raises(MissingGroup, match="near names"):
            await bus.inspect.peek(topic, group="gg")
        with pytest.raises(MissingGroup):
            await bus.inspect.members(topic, "gg")


@requires("inspect")
async def test_topics_are_listed_with_their_groups(kit: Kit) -> None:
    """``topics`` names what was declared, and nothing is made by asking."""
    topic = kit.topic()
    await kit.declared(topic, "one", "two")
    async with kit.bus(consume=False) as bus:
        assert isinstance(bus.adapter, Inspects)
        assert set((await bus.inspect.topics())[topic]) == {"one", "two"}
        assert kit.topic() not in await bus.inspect.topics()


@refuses("inspect")
async def test_a_peek_is_refused(kit: Kit) -> None:
    """``bus.inspect`` where the broker cannot look without receiving is ``CapabilityError``."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(CapabilityError, match="inspect"):
            await bus.inspect.peek(topic)
        with pytest.raises(CapabilityError, match="inspect"):
            await bus.inspect.members(topic, "g")
