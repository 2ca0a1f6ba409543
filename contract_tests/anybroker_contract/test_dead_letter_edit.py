"""dead-letter edit: a corrected event takes the place of the one that failed, under the same id."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from anybroker import ConfigError, Delivery, Event, Reject, Unavailable
from anybroker.adapter import Inbound
from anybroker.deadletters.reader import Reader
from anybroker.middleware import retry

from ._kit import FailsUntilFixed, Kit, counted
from .marks import requires
from .test_dead_letter import letters
from .test_equal_ids import SECRET


async def refuse_small(delivery: Delivery) -> None:
    """Refuses numbers under 100."""
    if delivery.event.data["n"] < 100:
        raise Reject("too small")


def event_of(letter: Any) -> Event[Any]:
    """Of a letter that is not foreign."""
    assert isinstance(letter.event, Event)
    return letter.event


async def test_an_edited_event_is_handled_by_the_group_that_failed(kit: Kit) -> None:
    """The corrected event reaches the group that failed and no other, with the id, key and headers of the letter, and
    the letter is gone. It is not dropped as a copy of the one that failed."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, "failing", behave=refuse_small)
    other = kit.subscribe(bus, topic, "other")
    async with bus:
        await bus.publish(topic, counted(1, key="k"), headers={"x-origin": "contract"})
        (letter,) = await letters(kit, bus, topic, 1, "failing")
        queue = bus.dead_letters(topic, "failing")
        queue.patience = kit.brief
        event = event_of(letter)
        with pytest.raises(ConfigError, match="another id"):
            await queue.edit(letter, event.replace(id="other"))
        done = await queue.edit(letter, event.replace(data={"n": 100}))
        assert done is not None
        await log.wait_done(["w-1"])
        await other.quiet()
        assert await queue.list() == []
        assert await queue.edit(letter, event.replace(data={"n": 101})) is None
    last = log.handlings[-1]
    assert (last.event.id, last.event.key, last.event.data) == ("w-1", "k", {"n": 100})
    assert last.headers["x-origin"] == "contract"
    assert other.started == ["w-1"]


@requires("inlet")
async def test_an_edited_event_that_fails_again_says_so(kit: Kit) -> None:
    """Its letter says that it was edited, counts the round, and can be edited again; so can one that was replayed in
    between."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=refuse_small)
    async with bus:
        await bus.publish(topic, counted(1, key="k"))
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        (letter,) = await letters(kit, bus, topic, 1)
        assert letter.edited == ""
        for rounds, number in enumerate((2, 3), start=1):
            assert await queue.edit(letter, event_of(letter).replace(data={"n": number})) is not None
            await log.wait_started(rounds + 1)
            (letter,) = await letters(kit, bus, topic, 1)
            assert (event_of(letter).data, letter.replays) == ({"n": number}, rounds)
            assert letter.edited
        before = letter.edited
        assert len(await queue.replay()) == 1
        await log.wait_started(4)
        (letter,) = await letters(kit, bus, topic, 1)
        assert (letter.edited, letter.replays) == (before, 3)


@requires("deduplication")
async def test_a_replay_that_was_cut_off_sends_nothing_twice(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ``deduplication_key``, a replay that was confirmed and not settled is not sent again by the next command,
    in another process or Bus; an edited event still is, because it is another one."""
    topic = kit.topic()
    bus = kit.bus(deduplication_key=SECRET)
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    settle = Reader.settle

    async def cut_off(reader: Reader, done: Iterable[Inbound], back: Iterable[Inbound]) -> None:
        await settle(reader, (), back)
        if list(done):
            raise Unavailable("cut off")

    async with bus:
        published = [id_ for _, id_ in await kit.publish(bus, topic, 6, keys=2)]
        found = await letters(kit, bus, topic, 6)
        handler.fixed = True
        async with kit.bus(consume=False, deduplication_key=SECRET) as first:
            queue = first.dead_letters(topic, "g")
            queue.patience = kit.brief
            monkeypatch.setattr(Reader, "settle", cut_off)
            with pytest.raises(Unavailable, match="cut off"):
                await queue.replay()
            monkeypatch.undo()
        await log.wait_done(published)
        async with kit.bus(consume=False, deduplication_key=SECRET) as second:
            queue = second.dead_letters(topic, "g")
            queue.patience = kit.patience
            letter = found[0]
            assert await queue.edit(letter, event_of(letter).replace(data={"n": 100})) is not None
            assert len(await queue.replay()) == 5
        await log.until(lambda: len(log.done) == 7, "the edited one")
        await log.quiet()
    assert sorted(log.done) == sorted([*published, letter.id])
