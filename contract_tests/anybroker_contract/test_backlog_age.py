"""age of the backlog: how long the oldest event waits that a group has not finished, also when nobody consumes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from anybroker import Bus, Delivery, Observer, Reject
from anybroker.adapter import Backlog
from anybroker.errors import MissingGroup
from anybroker.names import DEAD_LETTER_GROUP, MAX_NAMES

from ._kit import Kit, counted
from ._waiting import eventually
from .marks import refuses, requires

_APART = 1.5
"""Seconds between two events whose ages are told apart."""
_SLACK = 0.75
"""Seconds that a question may take, and that the broker's moment may be beside ours."""


async def _age(bus: Bus, topic: str, group: str = "g") -> float:
    age = (await bus.backlog(topic, group)).age
    assert age is not None
    return age


async def _counts_from(bus: Bus, topic: str, moment: float, group: str = "g") -> None:
    """Return once the age counts from that moment; the broker may be told a little later what is finished."""
    seen: list[float] = []

    async def there() -> bool:
        seen.append(await _age(bus, topic, group) - (time.time() - moment))
        return abs(seen[-1]) <= _SLACK

    try:
        await eventually(there, 5.0, "another age")
    except AssertionError as exc:
        raise AssertionError(f"the age is {seen[0]:+.2f} s beside what it should be, then {seen[-1]:+.2f}") from exc


@requires("backlog_age")
async def test_where_nothing_waits_the_age_is_zero(kit: Kit) -> None:
    """A group for which nothing waits, before the first event and after the last, has the age 0."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"groups": ["other"]}})
    log = kit.subscribe(bus, topic)
    async with bus:
        assert await _age(bus, topic) == await _age(bus, topic, "other") == 0.0
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        assert await _age(bus, topic) == 0.0
        assert await _age(bus, topic, "other") > 0.0


@requires("backlog")
@refuses("backlog_age")
async def test_an_age_that_the_broker_cannot_tell_is_none(kit: Kit) -> None:
    """Where the capability is not declared ``age`` is None, never a number that might be wrong."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        assert (await bus.backlog(topic, "g")).age is None
        await bus.publish(topic, counted(0))
        assert (await bus.backlog(topic, "g")).age is None


@requires("backlog_age")
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
async def test_the_age_grows_and_falls_to_that_of_the_next(kit: Kit, ordered: bool) -> None:
    """With nobody who consumes, the age is that of the oldest event, in whatever lane it is, and grows with the time;
    once that one is finished it is the age of the next one. What was published later does not make it younger."""
    topic = kit.topic()
    hold = asyncio.Event()

    async def second_waits(delivery: Delivery) -> None:
        if delivery.event.id != "w-0":
            await hold.wait()

    async with kit.bus(consume=False, topics={topic: {"groups": ["g"], "ordered": ordered}}) as publisher:
        first = time.time()
        await publisher.publish(topic, counted(0, key="k0"))
        await _counts_from(publisher, topic, first)
        await asyncio.sleep(_APART)
        second = time.time()
        for number in range(1, 9):
            await publisher.publish(topic, counted(number, key=f"k{number}"))
        await _counts_from(publisher, topic, first)
        bus = kit.bus(topics={topic: {"ordered": ordered}})
        log = kit.subscribe(bus, topic, behave=second_waits)
        async with bus:
            await log.wait_done(["w-0"])
            await _counts_from(publisher, topic, second)
            hold.set()
            await log.wait_done(f"w-{number}" for number in range(9))
            await kit.drained(publisher, topic)
        assert await _age(publisher, topic) == 0.0


@requires("backlog_age")
async def test_what_is_behind_a_stuck_event_does_not_hide_it(kit: Kit) -> None:
    """While one handler hangs and newer events of other keys are finished, the age is that of the event that hangs."""
    topic = kit.topic()
    hold = asyncio.Event()

    async def behave(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            await hold.wait()

    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=behave)
    async with bus:
        stored = time.time()
        await bus.publish(topic, counted(0, key="held"))
        await log.wait_started(1)
        await asyncio.sleep(_APART)
        await kit.publish(bus, topic, 40, keys=8, first=1, writer="n")
        await log.wait_done(f"n-{number}" for number in range(1, 41))
        await _counts_from(bus, topic, stored)
        hold.set()
        await kit.drained(bus, topic)
        assert await _age(bus, topic) == 0.0


@requires("backlog_age")
async def test_what_waits_in_the_inlet_has_an_age(kit: Kit) -> None:
    """An event that was replayed to a group whose consumers are gone counts, like any other that waits for it."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=_refuse)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_started(1)
        await eventually(_has(bus, topic, 1), 5.0, "no dead letter")
        await kit.drained(bus, topic)
    async with kit.bus(consume=False) as idle:
        queue = idle.dead_letters(topic, "g")
        queue.patience = kit.brief
        assert len(await queue.replay()) == 1
        replayed = time.time()
        await asyncio.sleep(_APART)
        await _counts_from(idle, topic, replayed)


@requires("backlog_age", "delay")
async def test_a_delayed_event_is_as_old_as_the_end_of_its_delay(kit: Kit) -> None:
    """What was published with a delay has the age 0 until then, and counts from then on."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        await bus.publish(topic, counted(0), delay=2 * _APART)
        due = time.time() + 2 * _APART
        await asyncio.sleep(_APART)
        assert await _age(bus, topic) == 0.0
        await asyncio.sleep(due + _APART - time.time())
        await _counts_from(bus, topic, due)


# ------------------------------------------------------------------------------------------------------ being told


class _Told(Observer):
    """Keeps what it was told last, by topic and group."""

    def __init__(self) -> None:
        self.backlogs: dict[tuple[str, str], Backlog] = {}
        self.depths: dict[tuple[str, str], int] = {}

    def lag(self, topic: str, group: str, backlog: Backlog) -> None:
        self.backlogs[topic, group] = backlog

    def depth(self, topic: str, group: str, dead_letters: int) -> None:
        self.depths[topic, group] = dead_letters


async def _refuse(_: Delivery) -> None:
    raise Reject("no")


def _has(bus: Bus, topic: str, count: int) -> Callable[[], Awaitable[bool]]:
    """Whether the group has that many dead letters by now."""
    place = bus.dead_letters(topic, "g").dead_letter_topic

    async def there() -> bool:
        return (await bus.backlog(place, DEAD_LETTER_GROUP)).lag == count

    return there


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is asked more often than every 15 seconds."""
    monkeypatch.setattr("anybroker.engine.lag.EVERY", 0.1)


@requires("backlog")
@pytest.mark.usefixtures("quick")
async def test_a_bus_that_only_watches_tells_of_dead_consumers_and_dead_letters(kit: Kit) -> None:
    """Once every consumer is gone, a Bus without a subscription still tells observers what waits for a group that it
    watches, for how long, and how many dead letters there are. It makes nothing, and handles nothing."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=_refuse)
    async with bus:
        await kit.publish(bus, topic, 3, keys=3)
        await eventually(_has(bus, topic, 3), 5.0, "no dead letters")
        await kit.drained(bus, topic)
    watcher, told = kit.bus(consume=False), _Told()
    watcher.observe(told)
    watcher.watch(topic, group="g")
    async with watcher, kit.bus(consume=False) as publisher:

        async def seen(lag: int) -> bool:
            return told.depths.get((topic, "g")) == 3 and told.backlogs[topic, "g"].lag == lag

        await eventually(lambda: seen(0), 5.0, "dead letters are not told")
        stored = time.time()
        await kit.publish(publisher, topic, 4, keys=4, first=10)
        await asyncio.sleep(_APART)
        await eventually(lambda: seen(4), 5.0, "what waits is not told")
        assert watcher.problems == {}
        age = told.backlogs[topic, "g"].age
        assert (age is not None) == bool(kit.capabilities.backlog_age)
        assert age is None or time.time() - stored - _SLACK < age < time.time() - stored + _SLACK
    assert len(log.started) == 3


@requires("backlog")
@pytest.mark.usefixtures("quick")
async def test_a_watched_group_that_is_not_there_is_a_problem_until_it_is(kit: Kit) -> None:
    """A group that does not exist is in ``bus.problems``, nothing is told of it, and watching it makes nothing. Once it
    is declared it is told of, and the problem is gone."""
    topic = kit.topic()
    watcher, told = kit.bus(consume=False), _Told()
    watcher.observe(told)
    watcher.watch(topic, group="g")
    async with watcher:
        await kit.unwell(watcher)
        assert f"{topic}/g" in watcher.problems["lag"]
        with pytest.raises(MissingGroup):
            await watcher.backlog(topic, "g")
        assert not told.backlogs
        assert not told.depths
        await kit.declared(topic, "g")
        await kit.well(watcher)
        await eventually(lambda: _of(told, topic), 5.0, "it is not told of")
        assert (told.backlogs[topic, "g"].lag, told.depths[topic, "g"]) == (0, 0)


@requires("backlog")
@pytest.mark.usefixtures("quick")
async def test_dead_letters_of_the_longest_names_are_counted(kit: Kit) -> None:
    """A topic and a group that fill what names may have are watched too: their dead-letter topic is longer."""
    topic = kit.topic()
    group = "g" * (MAX_NAMES - len(topic))
    await kit.declared(topic, group)
    watcher, told = kit.bus(consume=False), _Told()
    watcher.observe(told)
    watcher.watch(topic, group=group)
    async with watcher:
        place = watcher.dead_letters(topic, group).dead_letter_topic
        assert (await watcher.backlog(place, DEAD_LETTER_GROUP)).lag == 0

        async def counted_them() -> bool:
            return told.depths == {(topic, group): 0}

        await eventually(counted_them, 5.0, "it is not told of")
        assert watcher.problems == {}


async def _of(told: _Told, topic: str) -> bool:
    return (topic, "g") in told.depths
