"""retry: how long a failed event waits, how often it starts, and when it is given up, on every broker alike."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest

from anybroker import Bus, Delivery, Event, Retry
from anybroker.middleware import deadline, retry, retry_budget

from ._checkers import duplicates
from ._kit import TYPE, Kit, counted
from ._log import Log
from ._waiting import eventually
from .marks import requires
from .test_dead_letter import letters

EARLY = 0.02
"""Seconds by which a start may seem early: clocks are read at different moments."""


class Busy(Exception):
    """A server's answer, with a status."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.response = SimpleNamespace(headers={name.replace("_", "-"): value for name, value in headers.items()})


async def busy(_: Delivery) -> None:
    """A handler that fails every time."""
    raise Busy(503)


def waits(log: Log, id_: str) -> list[float]:
    """The seconds between its starts."""
    return [after.started - before.started for before, after in pairwise(log.of(id_))]


def unordered(topic: str) -> dict[str, dict[str, object]]:
    """The settings of a topic without order."""
    return {topic: {"ordered": False}}


@requires("release")
@pytest.mark.parametrize("mode", ["hold", "release"])
async def test_a_list_of_delays_is_that_many_further_starts(kit: Kit, mode: str) -> None:
    """``retry(delays=[…])``: one start more than there are delays, each no earlier than its own, then a dead letter
    with all of them counted."""
    topic = kit.topic()
    bus = kit.bus(topics=unordered(topic))
    delays = [0.1, 0.4, 0.2]
    log = kit.subscribe(bus, topic, behave=busy, middleware=[retry(delays=delays, mode=mode)])  # type: ignore[arg-type]
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
    assert log.attempts("w-0") == [1, 2, 3, 4]
    assert letter.attempts == 4
    assert all(wait >= delay - EARLY for wait, delay in zip(waits(log, "w-0"), delays, strict=True))


@requires("release")
async def test_two_levels_count_on_and_the_second_leaves_the_place_free(kit: Kit) -> None:
    """First held for short waits, then released for long ones: the starts are counted through, the event is
    dead-lettered after exactly all of them, and others are handled while it is away."""
    topic = kit.topic()
    bus = kit.bus(topics=unordered(topic))

    async def fail_on_first(delivery: Delivery) -> None:
        if delivery.event.id == "w-0":
            await busy(delivery)

    policy = retry(3, delays=0.02, then=retry(delays=[1.0, 0.5], mode="release"))
    log = kit.subscribe(bus, topic, behave=fail_on_first, max_in_flight=1, middleware=[policy])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_started(3)
        published = await kit.publish(bus, topic, 5, first=1)
        await log.wait_done(id_ for _, id_ in published)
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert (stats.retried, stats.released) == (4, 2)
    assert log.attempts("w-0") == [1, 2, 3, 4, 5]
    assert letter.attempts == 5
    assert all(wait >= delay - EARLY for wait, delay in zip(waits(log, "w-0")[2:], [1.0, 0.5], strict=True))
    others = [handling for handling in log.handlings if handling.id != "w-0"]
    assert min(handling.started for handling in others) < log.of("w-0")[3].started
    assert not duplicates(others)


async def test_two_levels_on_an_ordered_subscription_keep_the_order(kit: Kit) -> None:
    """Where order is kept the second level holds the event too: what follows under its key waits behind it."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail_three_times(delivery: Delivery) -> None:
        if delivery.event.id == "w-0" and delivery.attempt < 4:
            await busy(delivery)

    policy = retry(2, delays=0.01, then=retry(delays=[0.1, 0.2]))
    log = kit.subscribe(bus, topic, behave=fail_three_times, middleware=[policy])
    async with bus:
        await kit.publish(bus, topic, 3, keys=1)
        await log.wait_done(["w-0", "w-1", "w-2"])
        await kit.drained(bus, topic)
    assert log.started == ["w-0"] * 4 + ["w-1", "w-2"]
    assert log.attempts("w-0") == [1, 2, 3, 4]


async def test_the_level_goes_on_after_a_clean_restart(kit: Kit) -> None:
    """The next member goes on where the first one left: at the same level, with the next number, and with no start more
    than the policy has."""
    topic = kit.topic()
    log = kit.log()

    def member(long: float) -> Bus:
        bus = kit.bus()
        policy = retry(2, delays=0.01, then=retry(delays=[long, 0.02]))
        kit.subscribe(bus, topic, log=log, behave=busy, middleware=[policy])
        return bus

    first = member(30)
    async with first:
        await first.publish(topic, counted(0, key="k"))
        await log.until(lambda: len(log.handlings) == 2 and log.handlings[1].ended, "two failed starts")
    second = member(0.02)
    async with second:
        (letter,) = await letters(kit, second, topic, 1)
        await kit.drained(second, topic)
    assert log.attempts("w-0") == [1, 2, 3, 4]
    assert letter.attempts == 4


@requires("release")
@pytest.mark.parametrize("mode", ["hold", "release"])
async def test_a_budget_in_time_ends_the_retries(kit: Kit, mode: str) -> None:
    """``retry(for_=…)``: no start whose wait would end later than that after the first failure, whether the event was
    held or released meanwhile; then a dead letter."""
    topic = kit.topic()
    bus = kit.bus(topics=unordered(topic))
    policy = retry(delays=0.25, for_=0.9, mode=mode)  # type: ignore[arg-type]
    log = kit.subscribe(bus, topic, behave=busy, middleware=[policy])
    async with bus:
        await bus.publish(topic, counted(0, key="k"))
        (letter,) = await letters(kit, bus, topic, 1)
        await kit.drained(bus, topic)
    starts = log.of("w-0")
    assert log.attempts("w-0") == list(range(1, len(starts) + 1))
    assert 2 <= len(starts) <= 4
    assert letter.attempts == len(starts)
    assert letter.reason == "Busy: status 503"


@requires("release")
async def test_a_budget_in_time_goes_with_a_released_event_to_another_member(kit: Kit) -> None:
    """The moment of the first failure goes with an event that was released: the next member gives it up at its first
    failure there, because too much time has passed since."""
    topic = kit.topic()
    log = kit.log()

    def member(policy: retry) -> Bus:
        bus = kit.bus(topics=unordered(topic))
        kit.subscribe(bus, topic, log=log, behave=busy, middleware=[policy])
        return bus

    first = member(retry(delays=0.6, for_=60, mode="release"))

    async def released() -> bool:
        return first.subscriptions[0].stats.released > 0

    async with first:
        await first.publish(topic, counted(0, key="k"))
        await eventually(released, kit.patience, "the event was not released")
    before = len(log.handlings)
    second = member(retry(delays=0.01, for_=0.3, mode="release"))
    async with second:
        (letter,) = await letters(kit, second, topic, 1)
        await kit.drained(second, topic)
    assert log.attempts("w-0") == list(range(1, before + 2))
    assert letter.attempts == before + 1


async def test_exceptions_have_policies_of_their_own(kit: Kit) -> None:
    """A class or a function of the exception decides: retried, given up, or with another number of starts."""
    topic = kit.topic()
    bus = kit.bus()
    failures = [Busy(503), Busy(404), TimeoutError(), KeyError("no policy")]

    async def fail(delivery: Delivery) -> None:
        raise failures[int(delivery.event.id[2:])]

    policy = retry(
        2,
        first=0.01,
        on=lambda exc: getattr(exc, "status", 0) >= 400,
        give_up_on=lambda exc: getattr(exc, "status", 0) == 404,
        per={TimeoutError: retry(4, delays=0.01)},
    )
    log = kit.subscribe(bus, topic, behave=fail, middleware=[policy])
    async with bus:
        await kit.publish(bus, topic, 4, keys=4)
        found = await letters(kit, bus, topic, 4)
        await kit.drained(bus, topic)
    assert {letter.id: letter.attempts for letter in found} == {"w-0": 2, "w-1": 1, "w-2": 4, "w-3": 1}
    assert [len(log.of(f"w-{number}")) for number in range(4)] == [2, 1, 4, 1]


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_the_wait_that_a_server_asks_for_is_kept(kit: Kit, form: str) -> None:
    """``Retry-After`` of a response on the exception, or on its cause, is the wait, in seconds or as a date."""
    topic = kit.topic()
    bus = kit.bus()
    moment = 0.0

    async def ask(delivery: Delivery) -> None:
        nonlocal moment
        if delivery.attempt > 1:
            return
        at = datetime.now(UTC) + timedelta(seconds=2)
        moment = at.replace(microsecond=0).timestamp() if form == "date" else time.time() + 1
        failure = Busy(503, Retry_After=format_datetime(at, usegmt=True) if form == "date" else "1")
        raise ValueError("the request failed") from failure

    started: list[float] = []

    async def behave(delivery: Delivery) -> None:
        started.append(time.time())
        await ask(delivery)

    log = kit.subscribe(bus, topic, behave=behave, middleware=[retry(3, first=0.01)])
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
    assert log.attempts("w-0") == [1, 2]
    assert started[1] >= moment - EARLY


async def test_a_retry_budget_makes_waits_longer_and_gives_nothing_up(kit: Kit) -> None:
    """With more failures than the budget has retries, each event still has all of its starts, later."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail_once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            await busy(delivery)

    budget = retry_budget(0.0, floor=20.0)
    log = kit.subscribe(bus, topic, behave=fail_once, middleware=[budget, retry(2, delays=0.0)])
    async with bus:
        published = await kit.publish(bus, topic, 30, keys=30)
        await log.wait_done(id_ for _, id_ in published)
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert (stats.retried, stats.dead_lettered) == (30, 0)
        assert 0 < stats.retries_slowed <= 10
    assert all(log.attempts(id_) == [1, 2] for _, id_ in published)


@pytest.mark.parametrize("expired", ["dead_letter", "skip"])
async def test_an_event_that_has_expired_starts_no_handler(kit: Kit, expired: str) -> None:
    """``deadline()``: it is dead-lettered with no start counted, or skipped and counted, and what follows goes on."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[deadline(expired=expired)])  # type: ignore[arg-type]
    late = Event.create(1, type=TYPE, source="contract", id="late", key="k", extensions={"expirytime": _past()})
    async with bus:
        await bus.publish(topic, late)
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert (stats.dead_lettered, stats.expired) == ((1, 0) if expired == "dead_letter" else (0, 1))
        if expired == "dead_letter":
            (letter,) = await letters(kit, bus, topic, 1)
            assert (letter.id, letter.attempts) == ("late", 0)
            assert "expired at" in letter.reason
    assert log.started == ["w-0"]


@pytest.mark.parametrize("expired", ["dead_letter", "skip"])
async def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(kit: Kit, expired: str) -> None:
    """An event that fails with a wait beyond its ``expirytime`` goes at once, and its key is free."""
    topic = kit.topic()
    bus = kit.bus()

    async def fail(delivery: Delivery) -> None:
        if delivery.event.id != "w-0":
            raise Retry(after=120)

    middleware = [deadline(expired=expired), retry(3)]  # type: ignore[arg-type]
    log = kit.subscribe(bus, topic, behave=fail, middleware=middleware)
    async with bus:
        await bus.publish(topic, 1, type=TYPE, id="late", key="k", expires_in=60)
        await bus.publish(topic, counted(0, key="k"))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
        stats = bus.subscriptions[0].stats
        assert (stats.retried, stats.dead_lettered, stats.expired) == (
            (0, 1, 0) if expired == "dead_letter" else (0, 0, 1)
        )
        if expired == "dead_letter":
            (letter,) = await letters(kit, bus, topic, 1)
            assert (letter.id, letter.attempts) == ("late", 1)
            assert "before its next start" in letter.reason
    assert log.started == ["late", "w-0"]


def _past() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)
