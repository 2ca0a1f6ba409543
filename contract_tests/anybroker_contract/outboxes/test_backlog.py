"""A large backlog: looks take the same time, memory stays flat, and what was removed does not pile up."""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc

import pytest

from anybroker.adapter import Outbound
from anybroker.errors import Unavailable

from .._waiting import eventually
from ._kit import ALL, OutboxKit
from .marks import needs_harness, requires
from .wire import Sent

pytestmark = [pytest.mark.timeout(320)]


class Forgetful(list[Sent]):
    """Keeps nothing of what is appended."""

    def append(self, sent: Sent, /) -> None:
        """It is forgotten."""


async def look_for(kit: OutboxKit, seconds: float = 2.0) -> list[float]:
    """The times of the looks of a relay that reads and removes for so long."""
    outbox = await kit.open()
    took: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        rows = await outbox.rows(ALL, 500)
        took.append(time.monotonic() - begun)
        if not rows:
            break
        await outbox.remove([row.position for row in rows])
    return took


async def test_looks_do_not_get_slower(kit: OutboxKit) -> None:
    """The looks of a relay at a backlog of a hundred thousand rows (a million in the full tier) take no longer at its
    end than at its beginning, by the median of each; so also when much has been removed before them."""
    app = await kit.app()
    await kit.fill(app, kit.pick(100_000, 1_000_000))
    took = await look_for(kit, kit.pick(60.0, 250.0))
    quarter = len(took) // 4
    assert quarter >= 20
    first, last = statistics.median(took[1:quarter]), statistics.median(took[-quarter:])
    assert last <= 3 * first + 0.01, f"{1000 * first:.1f} ms at first, {1000 * last:.1f} ms at last"


async def test_memory_stays_flat(kit: OutboxKit) -> None:
    """A relay at a backlog has a bounded number of rows in memory."""
    app = await kit.app()
    count = kit.pick(20_000, 200_000)
    await kit.fill(app, count)

    kit.wire.sent = Forgetful()
    relay = kit.relay(batch=200)
    tracemalloc.start()
    try:
        await kit.relaying(relay)
        await kit.wire.when(lambda: relay.relayed > count / 10, lambda: f"{relay.relayed} of {count}")
        early = tracemalloc.get_traced_memory()[0]

        async def most() -> bool:
            return relay.relayed > 0.9 * count

        await eventually(most, 10 * kit.patience, "it is too slow")
        late = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert late - early < 8_000_000, f"{(late - early) / 1e6:.1f} MB more"


async def test_a_slow_key_does_not_stop_the_others(kit: OutboxKit) -> None:
    """One key whose first event is refused for a while, with more rows behind it than a relay holds: the others go on
    as far as there is room, and everything goes on afterwards, in order."""
    app = await kit.app()

    def refuse(outbound: Outbound) -> Unavailable | None:
        return Unavailable("not this one") if outbound.event.key == "slow" else None

    kit.wire.refuse = refuse
    await kit.relaying(kit.relay(batch=20))
    await kit.commit(app, "slow", 10)
    for key in range(20):
        await kit.commit(app, f"key-{key}", 5)
    await kit.wire.until(100)
    kit.wire.refuse = lambda _: None
    await kit.wire.until(110)
    kit.in_order()


@needs_harness("dead_rows")
@requires("concurrent")
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with-a-long-transaction"])
async def test_looks_beside_what_was_removed(kit: OutboxKit, beside: bool) -> None:
    """What was removed is cleaned up by the database. While a long transaction keeps it from doing so, looks at new
    rows take no longer, and so does a relay that goes on."""
    app = await kit.app()
    if beside:
        await kit.reader(writes=True)
    await kit.fill(app, kit.pick(100_000, 500_000))
    relay_ = await kit.open()
    while rows := await relay_.rows(ALL, 2_000):
        await relay_.remove([row.position for row in rows])
    took = []
    for _ in range(20):
        await kit.commit(app, "k")
        begun = time.monotonic()
        rows = await relay_.rows(ALL, 500)
        took.append(time.monotonic() - begun)
        await relay_.remove([row.position for row in rows])
        await asyncio.sleep(0.05)
    assert statistics.median(took) < 0.1, f"{1000 * statistics.median(took):.0f} ms"
    if not beside:

        async def cleaned() -> bool:
            return await asyncio.to_thread(kit.harness.dead_rows, kit.place) < 60_000

        await eventually(cleaned, 200.0, "dead rows pile up")
