"""Relays in several processes: shared work, relays that are stopped, killed and wake up."""

from __future__ import annotations

import asyncio

import pytest

from anybroker import Bus

from .._waiting import eventually
from ._elsewhere import Line, sent_in
from ._kit import OutboxKit
from .wire import inversions

pytestmark = [pytest.mark.timeout(110)]

KEYS = [f"key-{number}" for number in range(24)]


async def write(kit: OutboxKit, app: Bus, rounds: int) -> int:
    """So many events of each key; how many there are."""
    for _ in range(rounds):
        for key in KEYS:
            await kit.commit(app, key)
    return rounds * len(KEYS)


async def sent(kit: OutboxKit, count: int) -> list[Line]:
    """What all processes have sent, as soon as it is so many different events; in order."""
    file = kit.folder / "sent"

    async def enough() -> bool:
        return len({line.place for line in await asyncio.to_thread(sent_in, file)}) >= count

    await eventually(enough, kit.patience, f"there are no {count} events")
    lines = sent_in(file)
    wrong = inversions([line.place for line in lines])
    assert not wrong, f"{len(wrong)} events out of order, the first: {wrong[0]}"
    return lines


async def test_processes_share_the_work(kit: OutboxKit) -> None:
    """Two processes: each event once, order per key, and each process has sent some."""
    app = await kit.app()
    await kit.elsewhere(lease=3.0)
    await kit.elsewhere(lease=3.0)
    total = 0

    async def both() -> bool:
        nonlocal total
        total += await write(kit, app, 1)
        return len({line.pid for line in sent_in(kit.folder / "sent")}) == 2

    await eventually(both, kit.patience, "one process has nothing to do")
    lines = await sent(kit, total)
    assert len(lines) == total


async def test_a_killed_relay_is_replaced_after_its_lease(kit: OutboxKit) -> None:
    """SIGKILL in the middle of the work: another relay goes on with what the killed one had, after its lease."""
    app = await kit.app()
    first = await kit.elsewhere()
    total = await write(kit, app, 2)
    await sent(kit, total)
    total += await write(kit, app, kit.pick(5, 50))
    await first.kill()
    second = await kit.elsewhere()
    total += await write(kit, app, 2)
    lines = await sent(kit, total)
    assert lines[-1].pid == second.pid
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_a_stopped_relay_that_wakes_up_does_no_harm(kit: OutboxKit) -> None:
    """SIGSTOP past its lease, another one takes over; the one that wakes up sends nothing out of order, loses nothing,
    removes nothing that was not sent, and works again."""
    app = await kit.app()
    first = await kit.elsewhere(batch=20)
    total = await write(kit, app, 2)
    await sent(kit, total)
    for _ in range(kit.pick(1, 5)):
        writing = asyncio.ensure_future(write(kit, app, 4))
        await asyncio.sleep(0)
        first.stop()
        total += await writing
        second = await kit.elsewhere(batch=20)
        lines = await sent(kit, total)
        assert lines[-1].pid == second.pid
        first.go_on()
        total += await write(kit, app, 4)
        await sent(kit, total)
        assert await second.end() == 0
        total += await write(kit, app, 1)
        lines = await sent(kit, total)
        assert lines[-1].pid == first.pid
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_a_relay_that_is_asked_to_stop_leaves_nothing_behind(kit: OutboxKit) -> None:
    """SIGTERM: the next one goes on at once, and nothing is sent twice."""
    app = await kit.app()
    total = 0
    for _ in range(kit.pick(2, 10)):
        relay = await kit.elsewhere(lease=30.0)
        total += await write(kit, app, 2)
        await sent(kit, total - len(KEYS))
        assert await relay.end() == 0
    await kit.elsewhere(lease=30.0)
    lines = await sent(kit, total)
    assert len(lines) == total
