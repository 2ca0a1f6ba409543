"""history: what a topic keeps is replayed into a group, a handler or another topic, and nothing else changes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any

import pytest

from anybroker import Bus, Delivery, Event
from anybroker.adapter import Foreign, ReadsHistory
from anybroker.errors import CapabilityError, ConfigError, MissingGroup, PublishOutcomeUnknown
from anybroker.history import ReplayProgress
from anybroker.middleware import retry
from anybroker.testing import fail

from ._kit import Kit, counted
from ._waiting import eventually
from .marks import refuses, requires


async def consumed(kit: Kit, bus: Bus, topic: str, count: int, keys: int = 3) -> list[tuple[str | None, str]]:
    """Publish to the group ``g``, which has a member elsewhere that consumes all of it."""
    reader = kit.bus()
    log = kit.subscribe(reader, topic)
    async with reader:
        published = await kit.publish(bus, topic, count, keys=keys)
        await log.wait_done(id_ for _, id_ in published)
        if kit.capabilities.backlog:
            await kit.drained(reader, topic)
    return published


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _begun(file: Path) -> str:
    """The file of a replay as it was before the first batch."""
    state = json.loads(file.read_text())
    state["lanes"] = {lane: [begin, begin, end] for lane, (begin, _, end) in state["lanes"].items()}
    state["counts"] = dict.fromkeys(state["counts"], 0)
    return json.dumps(state)


async def lag(bus: Bus, topic: str, group: str) -> int:
    return (await bus.backlog(topic, group)).lag


@requires("history")
async def test_what_was_consumed_is_replayed_into_one_group(kit: Kit) -> None:
    """Copies of consumed events reach the group that they are replayed into, in the order of each key, with data, key,
    id and headers as published, although the broker may drop copies by id; no other group gets one, and no position
    moves."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    await bus.publish(topic, counted(0, key="k0"), headers={"shop": "north"})
    reader = kit.bus()
    first = kit.subscribe(reader, topic)
    async with reader:
        published = [("k0", "w-0"), *await kit.publish(bus, topic, 23, keys=3, first=1)]
        await first.wait_done(id_ for _, id_ in published)
        await kit.drained(reader, topic)
        await bus.declare(topic, groups=["audit"])
        replayed = await bus.replay(topic, group="audit")
        assert (replayed.read, replayed.matched, replayed.replayed, replayed.failed) == (24, 24, 24, 0)
        assert replayed.complete
        assert replayed.target == "group audit"
        assert await lag(bus, topic, "audit") == 24
        assert await lag(bus, topic, "g") == 0
        await first.quiet()
        assert len(first.started) == 24, "the other group got copies"
    second = kit.bus()
    log = kit.subscribe(second, topic, "audit")
    async with second:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    assert len(log.started) == 24
    for key in ("k0", "k1", "k2"):
        of_key = [handling.event.id for handling in log.handlings if handling.event.key == key]
        assert of_key == [id_ for of, id_ in published if of == key]
    (handling,) = log.of("w-0")
    assert (handling.event.data, handling.event.source) == ({"n": 0}, "contract")
    assert handling.headers["shop"] == "north"


@requires("history")
async def test_the_end_of_a_replay_is_fixed_when_it_begins(kit: Kit) -> None:
    """What is published while it runs, by its own handler too, is not replayed."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    await consumed(kit, bus, topic, 8)
    seen: list[str] = []

    async def again(event: Event[dict[str, Any]]) -> None:
        seen.append(event.id)
        await bus.publish(topic, counted(100 + len(seen), key="k0", writer="late"))

    replayed = await bus.replay(topic, handler=again)
    assert (replayed.read, replayed.replayed) == (8, 8)
    assert sorted(seen) == [f"w-{number}" for number in range(8)]
    assert (await bus.replay(topic, dry_run=True)).matched == 16


@requires("history")
async def test_a_replay_into_a_handler_touches_no_group(kit: Kit) -> None:
    """The handler gets each event in the order of its key and retries in place; what fails for good is in the result,
    and in no dead-letter topic."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    published = await consumed(kit, bus, topic, 9)
    starts: list[tuple[str, int]] = []
    groups: set[str] = set()

    @retry(attempts=2, first=0.001)
    async def rebuild(event: Event[dict[str, Any]], delivery: Delivery) -> None:
        starts.append((event.id, delivery.attempt))
        groups.add(delivery.group)
        if event.id == "w-4" or (event.id == "w-2" and delivery.attempt == 1):
            raise ValueError("not this one")

    replayed = await bus.replay(topic, handler=rebuild)
    assert (replayed.replayed, replayed.failed, replayed.complete) == (8, 1, True)
    (failure,) = replayed.failures
    assert failure.id == "w-4"
    assert "not this one" in failure.error
    for id_ in ("w-2", "w-4"):
        assert [start for start in starts if start[0] == id_] == [(id_, 1), (id_, 2)]
    for key in ("k0", "k1", "k2"):
        of_key = list(dict.fromkeys(id_ for id_, _ in starts if (key, id_) in published))
        assert of_key == [id_ for of, id_ in published if of == key]
    (group,) = groups
    assert group.startswith("replay-")
    assert await lag(bus, topic, "g") == 0
    assert await bus.dead_letters(topic, "g").list() == []


@requires("history")
async def test_a_replay_into_another_topic_keeps_each_event(kit: Kit) -> None:
    """Another topic gets the same events, under the same ids, with their headers, in the order of each key; a second
    replay publishes them again."""
    topic, other = kit.topic(), kit.topic()
    await kit.declared(topic, "g")
    await kit.declared(other, "g")
    bus = await kit.started(consume=False)
    published = await consumed(kit, bus, topic, 12)
    for times in (1, 2):
        replayed = await bus.replay(topic, into=other)
        assert (replayed.replayed, replayed.duplicates) == (12, 0)
        assert await lag(bus, other, "g") == 12 * times
    reader = kit.bus()
    log = kit.subscribe(reader, other)
    async with reader:
        await log.wait_started(24)
    for key in ("k0", "k1", "k2"):
        of_key = [handling.event.id for handling in log.handlings if handling.event.key == key]
        assert of_key == 2 * [id_ for of, id_ in published if of == key]


@requires("history")
async def test_a_replay_is_bounded_by_time(kit: Kit) -> None:
    """Only what the broker stored at the first moment or later, and before the second one, is replayed: exactly."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    moments: list[datetime] = []
    for part in range(3):
        await kit.publish(bus, topic, 4, keys=2, writer=f"part{part}")
        newest = max(each.stored or 0.0 for each in (await bus.inspect.peek(topic)).events)
        await _after(newest, kit.patience)
        moments.append(datetime.now(UTC))
        await _after(moments[-1].timestamp(), kit.patience)
    seen: list[str] = []

    async def see(event: Event[Any]) -> None:
        seen.append(event.id)

    await bus.replay(topic, handler=see, from_=moments[0], to=moments[1])
    assert sorted(seen) == [f"part1-{number}" for number in range(4)]
    for bounds, matched in (
        ({"from_": moments[0]}, 8),
        ({"to": moments[0]}, 4),
        ({"from_": moments[2]}, 0),
        ({"to": datetime(2000, 1, 1, tzinfo=UTC)}, 0),
        ({"from_": datetime(2000, 1, 1, tzinfo=UTC), "to": datetime(2999, 1, 1, tzinfo=UTC)}, 12),
    ):
        assert (await bus.replay(topic, dry_run=True, **bounds)).matched == matched, bounds  # type: ignore[arg-type]


async def _after(moment: float, patience: float) -> None:
    """Wait until the clock is some milliseconds past that moment."""

    async def passed() -> bool:
        return time() > moment + 0.003

    await eventually(passed, patience, "the clock goes on")


@requires("history")
async def test_a_replay_is_bounded_by_position(kit: Kit) -> None:
    """Positions by lane: from the first one on, before the second one; lanes that are not named are left out."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    await kit.publish(bus, topic, 30, keys=12)
    stored = (await bus.inspect.peek(topic)).events
    lane = stored[0].lane
    of_lane = [each for each in stored if each.lane == lane]
    chosen = of_lane[1:-1]
    seen: list[str] = []

    async def see(event: Event[Any]) -> None:
        seen.append(event.id)

    bounds: dict[str, Any] = {"from_": {lane: chosen[0].position}, "to": {lane: of_lane[-1].position}}
    await bus.replay(topic, handler=see, **bounds)
    assert seen == [each.event.id for each in chosen]  # type: ignore[union-attr]
    assert (await bus.replay(topic, dry_run=True, **bounds)).matched == len(chosen)
    with pytest.raises(ConfigError, match="no lane 'nowhere'"):
        await bus.replay(topic, dry_run=True, from_={"nowhere": 1})


@requires("history")
async def test_a_replay_is_filtered(kit: Kit) -> None:
    """By type, key and a function; a dry run counts exactly what is then replayed."""
    topic = kit.topic()
    await kit.declared(topic, "g", "audit")
    bus = await kit.started(consume=False)
    await kit.publish(bus, topic, 12, keys=3)
    for number in range(4):
        await bus.publish(topic, {"n": number}, type="com.example.other.v1", id=f"o-{number}", key="k1")
    for filters, matched in (
        ({"key": "k1"}, 8),
        ({"type": "com.example.other.v1"}, 4),
        ({"key": ["k0", "k2"]}, 8),
        ({"key": "k1", "type": "com.example.other.v1", "where": lambda event: event.data["n"] > 1}, 2),
    ):
        options: dict[str, Any] = dict(filters)
        before = await lag(bus, topic, "audit")
        counted_ = await bus.replay(topic, group="audit", dry_run=True, **options)
        assert (counted_.read, counted_.matched, counted_.replayed) == (16, matched, 0)
        assert await lag(bus, topic, "audit") == before
        replayed = await bus.replay(topic, group="audit", **options)
        assert (replayed.matched, replayed.replayed) == (matched, matched)
        assert await lag(bus, topic, "audit") == before + matched


@requires("history")
async def test_a_foreign_message_is_replayed_as_it_is(kit: Kit) -> None:
    """A message that is not a CloudEvent goes to a group too, byte for byte; a handler does not get it."""
    topic = kit.topic()
    await kit.send_foreign(topic, ["g"], Foreign(b"\x00\xff no event"))
    async with kit.bus(consume=False) as bus:
        await bus.declare(topic, groups=["audit"])
        assert (await bus.replay(topic, group="audit")).replayed == 1
        (peeked,) = (await bus.inspect.peek(topic, group="audit")).events
        assert isinstance(peeked.event, Foreign)
        assert peeked.event.body == b"\x00\xff no event"

        async def never(event: Event[Any]) -> None:
            raise AssertionError(event)

        handled = await bus.replay(topic, handler=never)
        assert (handled.read, handled.matched) == (1, 0)


@requires("history")
async def test_an_interrupted_replay_goes_on_where_it_was(kit: Kit) -> None:
    """A replay that was cancelled goes on with its file: nothing is left out, and the order of each key is kept."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    published = await kit.publish(bus, topic, 60, keys=5)
    await bus.declare(topic, groups=["audit"])
    file = kit.folder / "replay.json"
    under_way = asyncio.Event()

    def look(progress: ReplayProgress) -> None:
        if progress.replayed >= 10:
            under_way.set()

    running = asyncio.create_task(bus.replay(topic, group="audit", resume=file, rate=40.0, progress=look))
    async with asyncio.timeout(4 * kit.patience):
        await under_way.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    sent = await lag(bus, topic, "audit")
    assert 10 <= sent < 60
    left = await bus.replay(topic, group="audit", resume=file, dry_run=True)
    assert 60 - sent <= left.matched < 60
    replayed = await bus.replay(topic, group="audit", resume=file)
    assert replayed.complete
    assert replayed.replayed == 60
    again = await bus.replay(topic, group="audit", resume=file)
    assert again.replayed == 60
    reader = kit.bus()
    log = kit.subscribe(reader, topic, "audit", start="earliest")
    async with reader:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    for key in {of for of, _ in published}:
        of_key = [handling.event.id for handling in log.handlings if handling.event.key == key]
        assert list(dict.fromkeys(of_key)) == [id_ for of, id_ in published if of == key]


@requires("history", "deduplication")
async def test_a_batch_that_comes_again_is_dropped(kit: Kit) -> None:
    """Where the broker tells copies apart, the batch that was sent before the file was written reaches the group
    once."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    await kit.publish(bus, topic, 20, keys=4)
    await bus.declare(topic, groups=["audit"])
    file = kit.folder / "replay.json"
    await bus.replay(topic, group="audit", resume=file)
    _write(file, _begun(file))  # as if it had been killed just before it wrote the file
    async with kit.bus(consume=False) as other:
        replayed = await other.replay(topic, group="audit", resume=file)
    assert (replayed.replayed, replayed.duplicates) == (20, 20)
    assert await lag(bus, topic, "audit") == 20


@requires("history")
async def test_a_file_belongs_to_one_replay(kit: Kit) -> None:
    """A file of another replay is refused before anything is sent, and the error names what differs."""
    topic = kit.topic()
    await kit.declared(topic, "g", "audit")
    bus = await kit.started(consume=False)
    await kit.publish(bus, topic, 3, keys=1)
    file = kit.folder / "replay.json"
    await bus.replay(topic, group="audit", resume=file)
    with pytest.raises(ConfigError, match="target 'group audit', and not 'group g'"):
        await bus.replay(topic, group="g", resume=file)
    with pytest.raises(ConfigError, match="keys"):
        await bus.replay(topic, group="audit", key="k1", resume=file)
    _write(file, "{")
    with pytest.raises(ConfigError, match="is not the file of a replay"):
        await bus.replay(topic, group="audit", resume=file)


@requires("history")
async def test_a_replay_stops_at_a_failure(kit: Kit) -> None:
    """``stop_on_failure`` stops before the event that failed, and it goes on there."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    await kit.publish(bus, topic, 9, keys=1)
    file = kit.folder / "replay.json"
    seen: list[str] = []
    fixed = False

    @retry(attempts=1)
    async def rebuild(event: Event[Any]) -> None:
        if event.id == "w-5" and not fixed:
            raise ValueError("broken")
        seen.append(event.id)

    stopped = await bus.replay(topic, handler=rebuild, resume=file, stop_on_failure=True)
    assert (stopped.complete, stopped.replayed) == (False, 5)
    assert [failure.id for failure in stopped.failures] == ["w-5"]
    fixed = True
    replayed = await bus.replay(topic, handler=rebuild, resume=file, stop_on_failure=True)
    assert (replayed.complete, replayed.replayed) == (True, 9)
    assert seen == [f"w-{number}" for number in range(9)]


@requires("history")
async def test_a_replay_whose_target_is_away_goes_on_later(kit: Kit) -> None:
    """Where the outcome of a copy is unknown, the replay raises, and goes on later: what was sent behind it in its lane
    comes again, in order."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    published = await kit.publish(bus, topic, 12, keys=2)
    await bus.declare(topic, groups=["audit"])
    file = kit.folder / "replay.json"
    broken = kit.bus(target=kit.faulty(fail("publish", PublishOutcomeUnknown("lost"), nth=5)), consume=False)
    async with broken:
        with pytest.raises(PublishOutcomeUnknown):
            await broken.replay(topic, group="audit", resume=file)
    replayed = await bus.replay(topic, group="audit", resume=file)
    assert replayed.complete
    assert replayed.replayed == 12
    reader = kit.bus()
    log = kit.subscribe(reader, topic, "audit")
    async with reader:
        await log.wait_done(id_ for _, id_ in published)
        await log.quiet()
    for key in ("k0", "k1"):
        of_key = [handling.event.id for handling in log.handlings if handling.event.key == key]
        last_seen = list(dict.fromkeys(reversed(of_key)))[::-1]
        assert last_seen == [id_ for of, id_ in published if of == key]


@requires("history")
async def test_what_cannot_be_replayed_is_an_error(kit: Kit) -> None:
    """Before anything is sent: a missing topic or group, the topic itself, no target or two, a moment without zone."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    with pytest.raises(MissingGroup):
        await bus.replay(kit.topic(), dry_run=True)
    with pytest.raises(MissingGroup):
        await bus.replay(topic, group="nobody")
    wrongs: list[dict[str, Any]] = [
        {},
        {"group": "g", "into": "elsewhere"},
        {"into": topic},
        {"group": "g", "from_": datetime(2026, 1, 1)},
        {"group": "g", "to": {}},
        {"group": "g", "rate": 0.0},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            await bus.replay(topic, **wrong)


@requires("history")
async def test_history_is_read_page_by_page(kit: Kit) -> None:
    """Pages of any size have all events of a lane between two positions, in order, nothing twice, and none that is for
    one group only."""
    topic = kit.topic()
    await kit.declared(topic, "g", "audit")
    bus = await kit.started(consume=False)
    published = await kit.publish(bus, topic, 25, keys=3)
    await bus.replay(topic, group="audit")
    await kit.publish(bus, topic, 5, keys=3, writer="late")
    async with kit.adapter() as adapter:
        assert isinstance(adapter, ReadsHistory)
        for limit in (1, 7, 1_000):
            found: dict[str, list[str]] = {}
            for lane, (begin, end) in (await adapter.history_extent(topic, since=None, until=None)).items():
                at = begin
                positions: list[int] = []
                while at < end:
                    page = await adapter.read_history(topic, lane, at, end, limit)
                    assert page.following > at
                    at = page.following
                    for each in page.events:
                        assert not isinstance(each.event, Foreign)
                        assert each.lane == lane
                        positions.append(each.position)
                        found.setdefault(each.key or "", []).append(each.event.id)
                assert positions == sorted(set(positions))
                assert all(begin <= position < end for position in positions)
            for key in ("k0", "k1", "k2"):
                assert [id_ for id_ in found[key] if id_.startswith("w-")] == [
                    id_ for of, id_ in published if of == key
                ]
            assert sum(map(len, found.values())) == 30


@requires("history")
async def test_history_ends_where_it_is_told(kit: Kit) -> None:
    """What is stored after the extent was asked for is on no page before its end."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = await kit.started(consume=False)
    published = sorted(id_ for _, id_ in await kit.publish(bus, topic, 10, keys=4))
    async with kit.adapter() as adapter:
        assert isinstance(adapter, ReadsHistory)
        extent = await adapter.history_extent(topic, since=None, until=None)
        await kit.publish(bus, topic, 10, keys=4, writer="late")
        found: list[str] = []
        for lane, (begin, end) in extent.items():
            at = begin
            while at < end:
                page = await adapter.read_history(topic, lane, at, end, 100)
                found += [each.event.id for each in page.events if not isinstance(each.event, Foreign)]
                at = page.following
        assert sorted(found) == published


@refuses("history")
async def test_a_replay_is_refused(kit: Kit) -> None:
    """Where what was consumed cannot be read again, ``bus.replay`` is ``CapabilityError`` at once."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        assert not isinstance(bus.adapter, ReadsHistory)
        with pytest.raises(CapabilityError, match="history"):
            await bus.replay(topic, group="g")
