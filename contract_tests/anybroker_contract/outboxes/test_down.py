"""The database or the broker down, frozen, restarted, or only readable: nothing is lost, and back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import pytest

from anybroker import Bus
from anybroker.errors import Unavailable
from anybroker.outbox import OutboxRelay, OutboxUnavailable

from .._waiting import eventually
from ._kit import LONG, OutboxKit
from .harness import Outbox
from .marks import needs_harness, requires

LATE = 2.0
"""Seconds by which a call may be later than the table's time-out: this machine may be busy."""


async def every_call_fails(kit: OutboxKit, outbox: Outbox, *, reads: bool = True) -> None:
    """Each call ends by the time-out with ``OutboxUnavailable``, which names the database."""
    calls: dict[str, Awaitable[Any]] = {
        "take": outbox.take("relay", LONG),
        "give_up": outbox.give_up("relay", [1]),
        "leave": outbox.give_up("relay", None),
        "remove": outbox.remove([1]),
        "park": outbox.park([(1, "reason")]),
        "retry": outbox.retry([1]),
        "discard": outbox.discard([1]),
    }
    if reads:
        calls |= {"rows": outbox.rows([1], 10), "waiting": outbox.waiting(), "parked": outbox.parked()}
    for name, call in calls.items():
        begun = time.monotonic()
        with pytest.raises((OutboxUnavailable, OSError)) as failed:
            await call
        took = time.monotonic() - begun
        assert took <= kit.harness.timeout + LATE, f"{name}: {took:.1f} s"
        assert kit.harness.names(kit.place) in str(failed.value), f"{name} does not say which database"


async def answers(kit: OutboxKit, outbox: Outbox) -> None:
    """Return when it does again."""
    await kit.in_table(outbox)

    async def takes() -> bool:
        try:
            await outbox.take("relay", LONG)
            await outbox.give_up("relay", None)
        except (OutboxUnavailable, OSError):
            return False
        return True

    await eventually(takes, kit.patience, "the database does not come back")


async def running(kit: OutboxKit) -> tuple[Bus, OutboxRelay, Bus]:
    """An application, a relay and its Bus, which work."""
    app = await kit.app()
    relay = kit.relay()
    bus = await kit.relaying(relay)
    await kit.commit(app, "k", 3)
    await kit.wire.until(3)
    return app, relay, bus


async def goes_on(kit: OutboxKit, app: Bus, relay: OutboxRelay, bus: Bus) -> None:
    """It relays again, in order, and has no problem any more."""

    async def written() -> bool:
        try:
            await kit.commit(app, "after", 1)
        except Exception:  # noqa: BLE001 - the driver's
            return False
        return True

    await eventually(written, kit.patience, "nothing can be written")
    await kit.wire.when(lambda: any(sent.event.key == "after" for sent in kit.wire.sent), lambda: "nothing is relayed")

    async def well() -> bool:
        return relay.problem is None and not bus.problems

    await eventually(well, kit.patience, "its problem does not end")


@needs_harness("freeze", "thaw")
async def test_every_call_ends_while_it_does_not_answer(kit: OutboxKit) -> None:
    """Frozen: each call ends by the table's time-out with an error that names the database; afterwards the same object
    works again."""
    outbox = await kit.open()
    await kit.disturb("freeze")
    await every_call_fails(kit, outbox, reads=kit.harness.server)
    await kit.disturb("thaw")
    await answers(kit, outbox)


@pytest.mark.timeout(110)
@needs_harness("freeze", "thaw")
async def test_a_relay_goes_on_after_the_database_was_frozen(kit: OutboxKit) -> None:
    """Frozen past the lease while rows are under way: a problem is shown, and afterwards all is relayed in order."""
    app, relay, bus = await running(kit)
    kit.wire.held = []
    await kit.commit(app, "k", 5)
    await kit.wire.when(lambda: kit.wire.tried == 4, lambda: "nothing is sent")
    await kit.disturb("freeze")

    async def says_so() -> bool:
        return relay.problem is not None and kit.harness.names(kit.place) in relay.problem

    await eventually(says_so, kit.patience, "no problem is shown")
    await kit.wire.let_go()
    await kit.disturb("thaw")
    await goes_on(kit, app, relay, bus)
    await kit.wire.when(lambda: len(set(kit.wire.ids)) >= 9, lambda: f"{len(set(kit.wire.ids))} of 9")
    assert {f"k-{number}" for number in range(8)} <= set(kit.wire.ids)
    kit.in_order()
    outbox = await kit.open()
    await kit.emptied(outbox)


@pytest.mark.timeout(110)
@needs_harness("kill", "start")
async def test_a_killed_database_comes_back(kit: OutboxKit) -> None:
    """SIGKILL while events are relayed: what was committed is relayed, in order, without anybody's help."""
    app, relay, bus = await running(kit)
    await kit.commit(app, "k", kit.pick(50, 500))
    await kit.disturb("kill")
    outbox = kit.outbox()
    with pytest.raises((OutboxUnavailable, OSError)):
        await outbox.open()
    await kit.disturb("start")
    await goes_on(kit, app, relay, bus)
    count = 4 + kit.pick(50, 500)
    await kit.wire.when(lambda: len(set(kit.wire.ids)) >= count, lambda: f"{len(set(kit.wire.ids))} of {count}")
    kit.in_order()


@pytest.mark.timeout(110)
@needs_harness("restart")
async def test_a_restarted_database_loses_nothing(kit: OutboxKit) -> None:
    """Restarted while transactions are written and relayed: each that was committed is relayed, in order; those whose
    commit failed may be."""
    app, relay, bus = await running(kit)
    over = asyncio.Event()
    committed: list[str] = []

    async def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            key = f"during-{number}"
            try:
                await kit.commit(app, key)
            except Exception:  # noqa: BLE001 - the driver's
                await asyncio.sleep(0.02)
            else:
                committed.append(f"{key}-0")

    writing = asyncio.ensure_future(write())
    try:
        await kit.wire.until(20)
        await kit.disturb("restart")
        before = len(committed)

        async def again() -> bool:
            return len(committed) > before + 20

        await eventually(again, kit.patience, "nothing can be written")
    finally:
        over.set()
        await writing
    await goes_on(kit, app, relay, bus)
    await kit.wire.when(lambda: set(committed) <= set(kit.wire.ids), lambda: "something is lost")
    kit.in_order()


@pytest.mark.timeout(110)
@needs_harness("make_read_only", "make_writable")
async def test_a_database_that_can_only_be_read(kit: OutboxKit) -> None:
    """Read-only, as a standby: what writes fails with ``OutboxUnavailable``, the relay shows a problem; back by
    itself."""
    app, relay, bus = await running(kit)
    outbox = await kit.open()
    await kit.disturb("make_read_only")
    await every_call_fails(kit, outbox, reads=False)

    async def says_so() -> bool:
        return relay.problem is not None

    await eventually(says_so, kit.patience, "no problem is shown")
    await kit.disturb("make_writable")
    await answers(kit, outbox)
    await goes_on(kit, app, relay, bus)
    kit.in_order()


async def test_the_broker_down_and_back(kit: OutboxKit) -> None:
    """While the broker accepts nothing the rows stay and a problem is shown; when it is back all is relayed in order,
    and the problem is over."""
    app, relay, bus = await running(kit)
    kit.wire.refuse = lambda _: Unavailable("a deliberate fault")
    for key in ("a", "b", "c"):
        await kit.commit(app, key, 20)

    async def says_so() -> bool:
        return relay.problem is not None and "deliberate" in relay.problem

    await eventually(says_so, kit.patience, "no problem is shown")
    outbox = await kit.open()
    assert (await outbox.waiting()).rows == 60
    kit.wire.refuse = lambda _: None
    await kit.wire.until(63)
    kit.in_order()
    await kit.emptied(outbox)
    await goes_on(kit, app, relay, bus)


@requires("server")
@needs_harness("kill", "start")
async def test_closing_ends_while_the_database_is_away(kit: OutboxKit) -> None:
    """Closing a relay whose database is gone ends in bounded time; what it had sent may be sent again, nothing is
    lost."""
    app, relay, bus = await running(kit)
    kit.wire.held = []
    await kit.commit(app, "k", 2)
    await kit.wire.when(lambda: kit.wire.tried == 4, lambda: "nothing is sent")
    await kit.disturb("kill")
    await kit.wire.let_go()
    async with asyncio.timeout(2 * kit.harness.timeout + 5):
        await bus.close()
    await kit.disturb("start")
    again = await kit.relaying()
    await goes_on(kit, app, relay, again)
    await kit.wire.when(lambda: len(set(kit.wire.ids)) >= 6, lambda: f"{len(set(kit.wire.ids))} of 6")
    kit.in_order()


async def test_closing_with_rows_under_way(kit: OutboxKit) -> None:
    """Closed while events have no answer: those stay in the table, and the next relay sends them, in order; what was
    accepted before is not sent again."""
    app = await kit.app()
    bus = await kit.relaying()
    await kit.commit(app, "done", 3)
    await kit.wire.until(3)
    kit.wire.held = []
    for key in ("a", "b"):
        await kit.commit(app, key, 3)
    await kit.wire.when(lambda: kit.wire.tried == 5, lambda: f"{kit.wire.tried} were sent")
    async with asyncio.timeout(kit.patience):
        await bus.close(drain=0.2)
    outbox = await kit.open()
    assert (await kit.in_table(outbox)).rows == 6
    kit.wire.held = None
    await kit.relaying()
    await kit.wire.until(9)
    kit.in_order()
    assert len(await kit.wire.quiet(0.3)) == 9
    await kit.emptied(outbox)
