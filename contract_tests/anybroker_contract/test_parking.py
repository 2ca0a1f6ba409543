"""``dead_letter(then="park")``: after a dead letter, the later events of its key are set aside with it, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from anybroker import Bus, ConfigError, DeadLetter, Delivery, Event, Reject
from anybroker.idempotency import MemoryStore, SqliteStore
from anybroker.middleware import dead_letter, retry

from ._kit import TYPE, Kit, counted
from ._log import Behaviour, Log
from ._waiting import eventually
from .marks import requires


class FailsFor:
    """A handler's behaviour that refuses these events."""

    def __init__(self, *ids: str) -> None:
        self.ids = set(ids)

    async def __call__(self, delivery: Delivery) -> None:
        if delivery.event.id in self.ids:
            raise Reject("not booked")


PARK = (dead_letter(then="park"), retry(attempts=2, first=0.01))


_stores: WeakKeyDictionary[Kit, SqliteStore] = WeakKeyDictionary()


def store(kit: Kit) -> SqliteStore:
    """What the members of one test share. One object: two that write the same file wait for each other's disk, and the
    suite of stores has the tests of that."""
    if kit not in _stores:
        _stores[kit] = SqliteStore(Path(kit.folder) / "parked.db")
    return _stores[kit]


def member(
    kit: Kit, topic: str, behave: Behaviour, log: Log | None = None, name: str = "", **options: Any
) -> tuple[Bus, Log]:
    """A Bus whose subscription parks keys."""
    bus = kit.bus(idempotency=store(kit))
    return bus, kit.subscribe(bus, topic, behave=behave, log=log, member=name, middleware=PARK, **options)


async def letters(kit: Kit, bus: Bus, topic: str, ids: Iterable[str]) -> list[DeadLetter]:
    """The dead letters, as soon as there are those of these events, and no others."""
    queue = bus.dead_letters(topic, "g")
    queue.patience = kit.brief
    wanted = sorted(ids)
    loop = asyncio.get_running_loop()
    end = loop.time() + kit.patience
    while True:
        found = list(await queue.list())
        there = [letter.id for letter in found]
        if sorted(there) == wanted:
            return found
        assert loop.time() < end, f"{there} instead of {wanted}"


async def replay(kit: Kit, bus: Bus, topic: str, ids: Any = None, **options: Any) -> Sequence[DeadLetter]:
    """Replay them."""
    queue = bus.dead_letters(topic, "g")
    queue.patience = kit.brief
    return await queue.replay(ids, **options)


def numbered(numbers: Iterable[int]) -> list[str]:
    """Their ids."""
    return [f"w-{number}" for number in numbers]


async def test_later_events_of_the_key_are_set_aside_in_order(kit: Kit) -> None:
    """After a dead letter the later events of its key are dead-lettered behind it, in order and without a start; other
    keys, and events without one, go on."""
    topic = kit.topic()
    bus, log = member(kit, topic, FailsFor("w-4"))
    async with bus:
        await kit.publish(bus, topic, 24, keys=4)
        await bus.publish(topic, counted(100))
        await log.wait_done([*numbered(number for number in range(24) if number % 4 or number < 4), "w-100"])
        found = await letters(kit, bus, topic, numbered(range(4, 24, 4)))
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats

        async def counted_all() -> bool:  # a letter is there a moment before it is counted
            return (stats.parked, stats.dead_lettered) == (4, 5)

        await eventually(counted_all, kit.patience, "4 of 5 dead letters are counted as parked")
        assert await bus.dead_letters(topic, "g").parked() == {"k0": 5}
        assert bus.problems == {}
    assert [letter.id for letter in found] == numbered(range(4, 24, 4))
    assert [letter.reason for letter in found] == ["not booked", *["ParkedError: parked behind w-4"] * 4]
    assert [letter.attempts for letter in found] == [1, 0, 0, 0, 0]
    assert [id_ for id_ in log.started if int(id_[2:]) % 4 == 0 and id_ != "w-100"] == ["w-0", "w-4"]


async def test_a_replay_sends_them_in_order_and_the_key_is_free(kit: Kit) -> None:
    """One replay sends all dead letters of a parked key in order; when they are handled, later events of the key are
    handled as they come."""
    topic = kit.topic()
    behave = FailsFor("w-1")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 6, keys=1)
        await letters(kit, bus, topic, numbered(range(1, 6)))
        behave.ids.clear()
        assert [letter.id for letter in await replay(kit, bus, topic)] == numbered(range(1, 6))
        await log.wait_done(numbered(range(6)))
        await kit.drained(bus, topic)
        assert await bus.dead_letters(topic, "g").parked() == {}
        await kit.publish(bus, topic, 3, keys=1, first=6)
        await log.wait_done(numbered(range(9)))
        await letters(kit, bus, topic, ())
    assert log.done == numbered(range(9))
    assert log.started == [*numbered(range(2)), *numbered(range(1, 9))]


async def test_what_fails_again_keeps_those_behind_it(kit: Kit) -> None:
    """If the first one fails again when it is replayed, those behind it are set aside again, in order, and a second
    replay handles them all."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 5, keys=1)
        await letters(kit, bus, topic, numbered(range(5)))
        assert len(await replay(kit, bus, topic)) == 5
        await log.until(lambda: len(log.of("w-0")) == 2, "a second start of the first one")
        found = await letters(kit, bus, topic, numbered(range(5)))
        assert [letter.replays for letter in found] == [1] * 5
        assert log.started == ["w-0", "w-0"]
        behave.ids.clear()
        assert [letter.id for letter in await replay(kit, bus, topic)] == numbered(range(5))
        await log.wait_done(numbered(range(5)))
        assert await bus.dead_letters(topic, "g").parked() == {}
    assert log.done == numbered(range(5))


async def test_one_in_the_middle_fails_when_it_is_replayed(kit: Kit) -> None:
    """A replay goes on until one fails; that one keeps those behind it."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 5, keys=1)
        await letters(kit, bus, topic, numbered(range(5)))
        behave.ids = {"w-2"}
        await replay(kit, bus, topic)
        await log.wait_done(numbered((0, 1)))
        await letters(kit, bus, topic, numbered((2, 3, 4)))
        behave.ids.clear()
        await replay(kit, bus, topic)
        await log.wait_done(numbered(range(5)))
    assert log.done == numbered(range(5))


async def test_what_comes_during_a_replay_is_set_aside_too(kit: Kit) -> None:
    """While dead letters of a key wait, what is published under it is set aside behind them, and a second replay sends
    it."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 3, keys=1)
        await letters(kit, bus, topic, numbered(range(3)))
        behave.ids.clear()
        await replay(kit, bus, topic, numbered((0, 1)))
        await log.wait_done(numbered((0, 1)))
        await kit.publish(bus, topic, 2, keys=1, first=3)
        await letters(kit, bus, topic, numbered((2, 3, 4)))
        await replay(kit, bus, topic)
        await log.wait_done(numbered(range(5)))
    assert log.done == numbered(range(5))


async def test_a_replay_that_leaves_out_an_older_one_is_refused(kit: Kit) -> None:
    """ConfigError names what is left out, and nothing is sent. With ``force`` it is sent, and set aside again."""
    topic = kit.topic()
    bus, log = member(kit, topic, FailsFor("w-0"))
    async with bus:
        await kit.publish(bus, topic, 4, keys=1)
        await letters(kit, bus, topic, numbered(range(4)))
        with pytest.raises(ConfigError, match="'w-0'") as refused:
            await replay(kit, bus, topic, ["w-1", "w-3"])
        assert "'w-2'" in str(refused.value)
        assert "'w-3'" not in str(refused.value)
        assert await replay(kit, bus, topic, ["w-1"], force=True)
        found = await letters(kit, bus, topic, numbered(range(4)))
        assert {letter.id: letter.replays for letter in found} == {"w-0": 0, "w-1": 1, "w-2": 0, "w-3": 0}
        assert log.started == ["w-0"]


async def test_a_replay_puts_them_in_order_again(kit: Kit) -> None:
    """Whatever the order of the dead letters has become, they are sent in the order of their events."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 4, keys=1)
        await letters(kit, bus, topic, numbered(range(4)))
        for id_ in ("w-2", "w-0"):
            await replay(kit, bus, topic, [id_], force=True)
            await letters(kit, bus, topic, numbered(range(4)))
            await kit.drained(bus, topic)
        behave.ids.clear()
        assert [letter.id for letter in await replay(kit, bus, topic)] == numbered(range(4))
        await log.wait_done(numbered(range(4)))
        await letters(kit, bus, topic, ())
    assert log.done == numbered(range(4))


async def test_discarding_the_first_one_lets_the_others_go_on(kit: Kit) -> None:
    """A discarded dead letter no longer keeps those behind it; when all are discarded, the key is free."""
    topic = kit.topic()
    bus, log = member(kit, topic, FailsFor("w-0"))
    async with bus:
        await kit.publish(bus, topic, 4, keys=1)
        await letters(kit, bus, topic, numbered(range(4)))
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert [letter.id for letter in await queue.discard("w-0")] == ["w-0"]
        await replay(kit, bus, topic, numbered((1, 2)))
        await log.wait_done(numbered((1, 2)))
        await queue.discard("w-3")
        assert await queue.parked() == {}
        await kit.publish(bus, topic, 1, keys=1, first=4)
        await log.wait_done(["w-4"])
    assert log.started == numbered((0, 1, 2, 4))


async def test_a_key_is_freed_where_its_letters_are_gone(kit: Kit) -> None:
    """``unpark(key)`` frees a key; its dead letters are then like any other."""
    topic = kit.topic()
    bus, log = member(kit, topic, FailsFor("w-0"))
    async with bus:
        await kit.publish(bus, topic, 2, keys=1)
        await letters(kit, bus, topic, numbered(range(2)))
        await bus.dead_letters(topic, "g").unpark("k0")
        await kit.publish(bus, topic, 1, keys=1, first=2)
        await log.wait_done(["w-2"])
        await replay(kit, bus, topic, ["w-1"], force=True)
        await log.wait_done(["w-1"])
    assert log.started == numbered((0, 2, 1))


async def test_all_members_know_which_keys_are_parked(kit: Kit) -> None:
    """What one member parks, every member sets aside, whichever of them gets the next events of the key."""
    topic = kit.topic()
    keys = 8
    behave = FailsFor(*numbered(range(keys)))
    log = kit.log()

    async def together(delivery: Delivery) -> None:
        """Where any member may get any event, one waits until both have had one."""
        if not kit.capabilities.exclusive_lanes:
            await log.until(lambda: len({handling.member for handling in log.handlings}) == 2, "both members")
        await behave(delivery)

    one, other = (member(kit, topic, together, log, name, max_in_flight=1)[0] for name in ("one", "other"))
    async with one, other:
        await kit.publish(one, topic, keys, keys=keys)
        await log.until(lambda: set(log.started) == set(numbered(range(keys))), "each started")
        await letters(kit, one, topic, numbered(range(keys)))
        for first in range(keys, 4 * keys, keys):
            await kit.publish(one, topic, keys, keys=keys, first=first)
        await letters(kit, one, topic, numbered(range(4 * keys)))
        assert sorted(log.started) == sorted(numbered(range(keys)))
        behave.ids.clear()
        assert len(await replay(kit, one, topic)) == 4 * keys
        await log.wait_done(numbered(range(4 * keys)))
    for key in range(keys):
        assert [id_ for id_ in log.done if int(id_[2:]) % keys == key] == numbered(range(key, 4 * keys, keys))


async def test_the_next_member_knows_which_keys_are_parked(kit: Kit) -> None:
    """A member that starts later sets aside what comes under a key that was parked before."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    async with bus:
        await kit.publish(bus, topic, 2, keys=2)
        await log.wait_done(["w-1"])
        await letters(kit, bus, topic, ["w-0"])
    again, _ = member(kit, topic, behave, log)
    async with again:
        await kit.publish(again, topic, 4, keys=2, first=2)
        await log.wait_done(numbered((3, 5)))
        await letters(kit, again, topic, numbered((0, 2, 4)))
        behave.ids.clear()
        await replay(kit, again, topic)
        await log.wait_done(numbered(range(6)))
    assert [id_ for id_ in log.done if int(id_[2:]) % 2 == 0] == numbered((0, 2, 4))


async def test_an_event_with_the_same_id_does_not_take_its_place(kit: Kit) -> None:
    """Another event with the id, source and key of the first one is set aside like any other: only the same contents
    are the same event."""
    topic = kit.topic()
    behave = FailsFor("w-0")
    bus, log = member(kit, topic, behave)
    forged = Event.create({"n": "another"}, source="contract", type=TYPE, id="w-0", key="k0", subject="forged")
    async with bus:
        await kit.publish(bus, topic, 1, keys=1)
        await letters(kit, bus, topic, ["w-0"])
        behave.ids.clear()
        await bus.publish(topic, forged)
        await kit.publish(bus, topic, 1, keys=1, first=1)
        if kit.capabilities.deduplication:  # the broker may have dropped the second event of that id

            async def one_is_set_aside() -> bool:
                return bus.subscriptions[0].stats.parked >= 1

            await eventually(one_is_set_aside, kit.patience, "one set aside")
        else:
            await letters(kit, bus, topic, ["w-0", "w-0", "w-1"])
        assert len(log.started) == 1
        await replay(kit, bus, topic)
        await log.wait_done(["w-1"])
        assert log.of("w-0")[1].event.data == {"n": 0}


async def test_what_cannot_be_parked_is_refused(kit: Kit) -> None:
    """ConfigError at the start: where the subscription is not ordered, where its handlers differ, and where order is
    given up."""
    cases: tuple[tuple[dict[str, Any], tuple[Any, ...], str], ...] = (
        ({"ordered": False}, PARK, "is not ordered"),
        ({}, (dead_letter(then="park"), retry(mode="release", gives_up_order=True)), "gives up the order"),
    )
    for options, middleware, message in cases:
        bus = kit.bus(idempotency=store(kit))
        kit.subscribe(bus, kit.topic(), middleware=middleware, **options)
        with pytest.raises(ConfigError, match=message):
            await bus.start()
    bus = kit.bus(idempotency=store(kit))
    subscription = bus.subscription(kit.topic(), group="g")
    subscription.on(kit.log().handler("", None), name="parks", type="one", middleware=[dead_letter(then="park")])
    subscription.on(kit.log().handler("", None), name="goes-on", type="two")
    with pytest.raises(ConfigError, match="'goes-on'"):
        await bus.start()


@requires("durable")
async def test_a_store_in_memory_is_refused(kit: Kit) -> None:
    """Where the broker keeps events, a store that forgets parked keys is a ConfigError that says what to set."""
    bus = kit.bus(idempotency=MemoryStore())
    kit.subscribe(bus, kit.topic(), middleware=PARK)
    with pytest.raises(ConfigError, match="ANYBROKER_IDEMPOTENCY"):
        await bus.start()
