"""Strands: one delivery of a key at a time, in order; other keys go on; nothing is left behind."""

from __future__ import annotations

import random

import pytest

from anybroker.adapter import Inbound, Lane
from anybroker.delivery import Delivery
from anybroker.engine.lanes import LaneState, Strands
from anybroker.event import Event

LANE = LaneState(Lane("t/0", 1), None)
OTHER = LaneState(Lane("t/1", 1), None)


def delivery(key: str | None, number: int, lane: LaneState = LANE) -> Delivery:
    event = Event.create(number, type="t", source="s", key=key)
    return Delivery(event, "t", "g", 1, key, Inbound(event, lane.lane, number, key, {}, None), lane)


def number(item: Delivery) -> int:
    return item.inbound.position


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_keep_each_key_in_order_and_alone(seed: int) -> None:
    rng = random.Random(seed)
    strands = Strands(ordered=True)
    running: list[Delivery] = []
    finished: dict[str | None, list[int]] = {}
    now = 0.0
    for step in range(2_000):
        action = rng.random()
        if step < 1_000 and action < 0.5:
            item = delivery(rng.choice(["a", "b", "c", "d", None]), step)
            if strands.enter(item):
                strands.ready.append(item)
        elif action < 0.75 and strands.ready:
            item = strands.ready.popleft()
            assert item.key is None or all(other.key != item.key for other in running)
            running.append(item)
        elif running:
            item = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.2:
                strands.hold(item, now + rng.random() * 5)
            else:
                finished.setdefault(item.key, []).append(number(item))
                if (following := strands.leave(item)) is not None:
                    strands.ready.append(following)
        now += 0.1
        while (due := strands.pop_due(now)) is not None:
            strands.ready.append(due)
        assert 0 <= strands.parked <= strands.blocked
    now = 1e9
    while strands.ready or running or strands.held:
        while (due := strands.pop_due(now)) is not None:
            strands.ready.append(due)
        running += strands.ready
        strands.ready.clear()
        item = running.pop()
        finished.setdefault(item.key, []).append(number(item))
        if (following := strands.leave(item)) is not None:
            strands.ready.append(following)
    for key, numbers in finished.items():
        if key is not None:
            assert numbers == sorted(numbers)
    assert (strands.blocked, strands.parked) == (0, 0)
    assert strands._waiting == {}


def test_unordered_holds_nobody_back() -> None:
    strands = Strands(ordered=False)
    assert [strands.enter(delivery("a", n)) for n in range(3)] == [True] * 3


def test_clear_returns_what_was_not_started_in_order_and_keeps_running_keys_closed() -> None:
    strands = Strands(ordered=True)
    running, held, ready = delivery("run", 0), delivery("held", 1), delivery("ready", 2)
    for head in (running, held, ready):
        assert strands.enter(head)
    for head in (running, held, ready):
        assert not strands.enter(delivery(head.key, number(head) + 10))
    strands.hold(held, 5.0)
    strands.ready.append(ready)
    assert strands.parked == 1
    taken = [number(item) for item in strands.clear()]
    assert sorted(taken) == [1, 2, 10, 11, 12]
    assert taken.index(1) < taken.index(11)
    assert taken.index(2) < taken.index(12)
    assert not strands.enter(delivery("run", 20))
    assert strands.enter(delivery("held", 21))
    following = strands.leave(running)
    assert following is not None
    assert number(following) == 20


def test_take_gone_takes_heads_of_gone_lanes_only() -> None:
    strands = Strands(ordered=True)
    gone_ready, gone_held, kept = delivery("a", 0, OTHER), delivery("b", 1, OTHER), delivery("c", 2)
    for head in (gone_ready, gone_held, kept):
        strands.enter(head)
    strands.ready.extend([gone_ready, kept])
    strands.hold(gone_held, 9.0)
    OTHER.gone = True
    try:
        assert sorted(map(number, strands.take_gone())) == [0, 1]
    finally:
        OTHER.gone = False
    assert list(map(number, strands.ready)) == [2]
    assert strands.held == 0
