"""hostile: what anybody may put on a topic stops, fills and fools no consumer."""

from __future__ import annotations

import pytest

from ._kit import Kit
from .hostile import Attack, hostile_messages
from .hostile.attack import GROUPS, resident
from .marks import needs_harness
from .test_dead_letter import letters

KEPT = 64 * 1024 * 1024
"""Bytes that a process may have grown by after all of them: what the allocator keeps."""
TAKEN = 100
"""Messages, at least, that every broker takes."""


@needs_harness("raw")
@pytest.mark.timeout(150)
async def test_each_hostile_message_harms_nothing(kit: Kit) -> None:
    """Each, among good events of its key and of others, is handled, dead-lettered, or dropped and counted, once in each
    group. All good events are handled, no consumer reconnects, what a handler publishes at that time arrives without
    hostile context, and memory returns to its earlier level."""
    outcomes = []
    async with Attack(kit) as attack, attack.bus:
        await attack.wait_good(await attack.publish_good(100), "before")
        before = resident()
        for name, message in hostile_messages(kit.harness.raw()).items():
            outcomes.append(await attack.send(name, message))
        grown = resident() - before
        for group in GROUPS:
            subscription = attack.subscription(group)
            assert (group, subscription.stats.reconnects) == (group, 0)
            assert (group, subscription.problem) == (group, None)
    assert attack.too_large == []
    assert sum(outcome.taken for outcome in outcomes) >= TAKEN
    assert grown <= KEPT, f"{grown / 2**20:.0f} MiB more after {len(outcomes)} messages"


@needs_harness("raw")
@pytest.mark.timeout(150)
async def test_hostile_messages_that_wait_stop_no_new_consumer(kit: Kit) -> None:
    """All of them are in the topic, among good events, when the Bus starts: the good events are handled, and each of
    the others ends once. Their dead letters can be listed, replayed with the same result, and discarded."""
    taken, ids = {"g": 0, "typed": 0}, []
    async with Attack(kit) as attack, kit.bus(consume=False) as publisher:
        attack.publisher = publisher
        for message in hostile_messages(kit.harness.raw()).values():
            ids += await attack.publish_good(1)
            if not await attack.put(message):
                taken["g"] += 1
                taken["typed"] += not message.past_the_topic
        ids += await attack.publish_good(4)
    async with attack.bus:
        await attack.wait_good(ids, "behind them")
        for group in GROUPS:
            await attack.dealt_with(group, taken[group])
            await kit.drained(attack.bus, attack.topic, group)
            assert (group, attack.subscription(group).stats.reconnects) == (group, 0)
        count = attack.subscription("g").stats.dead_lettered
        dead = await letters(kit, attack.bus, attack.topic, count, limit=1_000)
        assert len(dead) == count
        queue = attack.bus.dead_letters(attack.topic, "g")
        queue.patience = kit.brief
        assert len(await queue.replay(limit=1_000)) == count
        again = await letters(kit, attack.bus, attack.topic, count, limit=1_000)
        no_room = "unknown"  # of the broker's largest message, beside which nothing has room
        left = [letter for letter in again if letter.replays != 1 and letter.reason != no_room]
        assert left == []
        assert len(again) == count
    assert min(taken.values()) >= TAKEN - 40
