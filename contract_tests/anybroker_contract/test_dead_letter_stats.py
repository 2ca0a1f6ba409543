"""dead-letter stats: what died is counted by what it died of, and stays where it is."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import ConfigError, Delivery, Reject
from anybroker.deadletters import LetterFilter
from anybroker.middleware import retry
from anybroker.names import DEAD_LETTER_GROUP

from ._kit import TYPE, FailsUntilFixed, Kit
from .marks import requires
from .test_dead_letter import letters


async def refuse_by_number(delivery: Delivery) -> None:
    """Every third one fails with an exception of its own, the others are declined; each error names its event."""
    number = delivery.event.data["n"]
    if number % 3 == 0:
        raise KeyError(f"sku-{number}")
    raise Reject(f"card of c{number} declined")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages for a few letters."""
    monkeypatch.setattr("anybroker.deadletters.pages._PAGE", 2)


@pytest.mark.usefixtures("small_pages")
async def test_stats_count_by_reason(kit: Kit) -> None:
    """Letters that died of the same thing are one row, whatever values their reasons have: with count, first and last
    time, types, handler and the id of one. They stay where they are."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic, behave=refuse_by_number, middleware=[retry(attempts=1)])
    async with bus:
        await kit.publish(bus, topic, 9, keys=3)
        found = await letters(kit, bus, topic, 9)
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        counted = await queue.stats()
        assert (counted.total, counted.more, counted.types) == (9, False, {TYPE: 9})
        assert [(each.count, each.pattern, each.handler) for each in counted.reasons] == [
            (6, "card of * declined", "contract"),
            (3, "KeyError: *", "contract"),
        ]
        for each in counted.reasons:
            same = [letter for letter in found if letter.reason_fingerprint == each.fingerprint]
            assert len(same) == each.count
            assert (each.first, each.last) == (
                min(letter.died for letter in same),
                max(letter.died for letter in same),
            )
            assert each.example in {letter.id for letter in same}
        assert (await queue.stats(4)).more
        assert len(await queue.list()) == 9


@requires("inspect")
@pytest.mark.usefixtures("small_pages")
async def test_counting_dead_letters_moves_nothing(kit: Kit) -> None:
    """``stats`` joins no group and waits for nobody, also while a replay holds what it counts."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic, behave=refuse_by_number, middleware=[retry(attempts=1)])
    async with bus:
        await kit.publish(bus, topic, 5, keys=1)
        await letters(kit, bus, topic, 5)
        queue = bus.dead_letters(topic, "g")
        queue.patience = 60 * kit.patience
        async with asyncio.timeout(4 * kit.patience):
            assert (await queue.stats()).total == 5
            assert await bus.inspect.members(queue.dead_letter_topic, DEAD_LETTER_GROUP) in (0, None)
            if kit.capabilities.backlog:
                assert (await bus.backlog(queue.dead_letter_topic, DEAD_LETTER_GROUP)).lag == 5
        one = asyncio.Event()
        other = bus.dead_letters(topic, "g")
        other.patience = kit.brief
        replaying = asyncio.create_task(other.replay(rate=0.01, progress=lambda _: one.set()))
        try:
            async with asyncio.timeout(8 * kit.patience):
                await one.wait()
                assert (await queue.stats()).total in (4, 5)  # the first one may have failed again
        finally:
            replaying.cancel()
            await asyncio.wait([replaying])


@requires("backlog")
async def test_no_command_waits_on_an_empty_queue(kit: Kit) -> None:
    """Where the broker knows that there are no dead letters, nobody waits for them: neither to list and count, nor to
    replay and discard."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic)
    async with bus:
        queue = bus.dead_letters(topic, "g")
        knows = (await bus.backlog(queue.dead_letter_topic, DEAD_LETTER_GROUP)).exact
        queue.patience = 60 * kit.patience if knows else kit.brief
        async with asyncio.timeout(4 * kit.patience):
            assert await queue.list() == []
            assert (await queue.stats()).total == 0
            assert await queue.replay() == []
            assert await queue.discard("w-0") == []


async def test_what_fits_a_filter_is_replayed_in_order(kit: Kit) -> None:
    """``only`` lists, replays and discards what fits, at a rate, and each key in order; the others stay."""
    topic = kit.topic()
    bus = kit.bus()
    handler = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=handler, middleware=[retry(attempts=1)])
    async with bus:
        published = [id_ for _, id_ in await kit.publish(bus, topic, 10, keys=2)]
        await letters(kit, bus, topic, 10)
        handler.fixed = True
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        late = LetterFilter(where="data.n>=4", since="1h", type=TYPE)
        assert sorted(letter.id for letter in await queue.list(only=late)) == published[4:]
        one_key = LetterFilter(where="data.n>=4", key="k1")
        began = asyncio.get_running_loop().time()
        replayed = [letter.id for letter in await queue.replay(only=one_key, rate=50)]
        assert asyncio.get_running_loop().time() - began >= (len(replayed) - 1) / 50
        await log.wait_done(replayed)
        assert log.done == replayed == [f"w-{n}" for n in range(4, 10) if f"w-{n}" in replayed]
        assert replayed
        dropped = [letter.id for letter in await queue.discard(only=late)]
        assert sorted([*dropped, *replayed]) == published[4:]
        assert sorted(letter.id for letter in await queue.list()) == published[:4]
        with pytest.raises(ConfigError, match="which ones"):
            await queue.discard(only=LetterFilter())


async def test_what_was_replayed_often_enough_stays(kit: Kit) -> None:
    """``max_rounds`` leaves a letter that failed again after so many replays, and tells of it; the others go."""
    topic = kit.topic()
    bus = kit.bus()

    async def broken(_: Delivery) -> None:
        raise Reject("still broken")

    log = kit.subscribe(bus, topic, behave=broken)
    async with bus:
        await kit.publish(bus, topic, 2)
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        await letters(kit, bus, topic, 2)
        assert len(await queue.replay("w-0")) == 1
        await log.wait_started(3)
        await letters(kit, bus, topic, 2)
        stay: list[str] = []
        replayed = await queue.replay(max_rounds=1, left=lambda letter: stay.append(letter.id))
        assert ([letter.id for letter in replayed], stay) == (["w-1"], ["w-0"])
        await log.wait_started(4)
        assert {letter.replays for letter in await letters(kit, bus, topic, 2)} == {1}
