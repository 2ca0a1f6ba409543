"""Relays that share a table: even shares, leases, handing over, and what each of them may do."""

from __future__ import annotations

import asyncio
import time

import pytest

from anybroker.outbox import Taken

from .._waiting import eventually
from ._kit import ALL, LONG, OutboxKit
from .harness import Outbox


async def settle(kit: OutboxKit, outboxes: list[Outbox], lease: float = LONG) -> list[Taken]:
    """What each relay holds once they have taken and given up in turns, and nothing changes any more."""
    taken_by_all: list[Taken] = []
    for _ in range(20):
        for number, outbox in enumerate(outboxes):
            taken = await outbox.take(f"relay-{number}", lease)
            if taken.surplus:
                await outbox.give_up(f"relay-{number}", taken.surplus)
        taken_by_all = [await outbox.take(f"relay-{number}", lease) for number, outbox in enumerate(outboxes)]
        if not any(taken.surplus for taken in taken_by_all):
            held = sum(len(taken.held) for taken in taken_by_all)
            if held == len(ALL):
                return taken_by_all
    raise AssertionError(f"the shares do not settle: {taken_by_all}")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 20])
async def test_shares_are_even(kit: OutboxKit, count: int) -> None:
    """All shards are held, each by one relay, and no relay has two more than another one."""
    outboxes = [await kit.open() for _ in range(count)]
    taken = await settle(kit, outboxes)
    sizes = [len(each.held) for each in taken]
    assert sorted(shard for each in taken for shard in each.held) == list(ALL)
    assert max(sizes) - min(sizes) <= 1, sizes


async def test_a_relay_that_comes_gets_its_share(kit: OutboxKit) -> None:
    """The first one has all; when another comes it is told what is too much, keeps it until it gives it up, and the
    other one gets it then."""
    first, second = await kit.open(), await kit.open()
    assert (await first.take("a", LONG)).held == frozenset(ALL)
    assert (await second.take("b", LONG)).held == frozenset()
    taken = await first.take("a", LONG)
    assert taken.held == frozenset(ALL)
    assert len(taken.surplus) == len(ALL) // 2
    assert taken.surplus < taken.held
    assert (await second.take("b", LONG)).held == frozenset()
    await first.give_up("a", taken.surplus)
    assert (await second.take("b", LONG)).held == taken.surplus
    taken = await first.take("a", LONG)
    assert (len(taken.held), taken.surplus) == (len(ALL) // 2, frozenset())


async def test_a_relay_that_leaves_lets_go_of_all(kit: OutboxKit) -> None:
    """``give_up(None)``: others get all at once, without waiting for the lease."""
    first, second = await kit.open(), await kit.open()
    await first.take("a", LONG)
    await first.give_up("a", None)
    assert (await second.take("b", LONG)).held == frozenset(ALL)


async def test_nobody_is_relieved_before_the_lease_ends(kit: OutboxKit) -> None:
    """While the lease lasts nobody else gets its shards; afterwards another one gets all, and the first one, if it
    comes back, is told that it has nothing."""
    first, second = await kit.open(), await kit.open()
    lease = 2.0
    begun = time.monotonic()
    assert (await first.take("a", lease)).held == frozenset(ALL)

    async def taken() -> bool:
        held = (await second.take("b", LONG)).held
        if held and time.monotonic() - begun < lease - 0.1:
            raise AssertionError(f"taken after {time.monotonic() - begun:.2f} s of {lease:g} s")
        return held == frozenset(ALL)

    await eventually(taken, kit.patience, "the lease does not end")
    assert (await first.take("a", LONG)).held == frozenset()


async def test_taking_again_extends_the_lease(kit: OutboxKit) -> None:
    """A relay that takes again in time keeps what it has for as long as it goes on."""
    first, second = await kit.open(), await kit.open()
    await first.take("a", 1.0)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert (await first.take("a", 1.0)).held == frozenset(ALL)
        assert (await second.take("b", 1.0)).held == frozenset()
        await asyncio.sleep(0.1)


async def test_giving_up_what_one_has_not(kit: OutboxKit) -> None:
    """It changes nothing."""
    first, second = await kit.open(), await kit.open()
    await first.take("a", LONG)
    await second.give_up("b", list(ALL))
    await second.give_up("b", None)
    assert (await second.take("b", LONG)).held == frozenset()
    assert (await first.take("a", LONG)).held == frozenset(ALL)


async def test_relays_that_take_at_the_same_moment(kit: OutboxKit) -> None:
    """Eight relays take at the same moment, again and again: no shard is ever held twice."""
    outboxes = [await kit.open() for _ in range(8)]
    for _ in range(kit.pick(5, 50)):
        taken = await asyncio.gather(*(outbox.take(f"r{number}", LONG) for number, outbox in enumerate(outboxes)))
        held = [shard for each in taken for shard in each.held]
        assert len(held) == len(set(held)), held
        await asyncio.gather(
            *(
                outbox.give_up(f"r{number}", each.surplus)
                for number, (outbox, each) in enumerate(zip(outboxes, taken, strict=True))
            )
        )


async def test_every_relay_works(kit: OutboxKit) -> None:
    """Three relays on a stream of events with many keys: each sends some, order per key, nothing twice."""
    app = await kit.app()
    relays = [kit.relay() for _ in range(3)]
    for relay in relays:
        await kit.relaying(relay)
    number = 0

    async def all_work() -> bool:
        nonlocal number
        for key in range(32):
            await kit.commit(app, f"key-{key}")
            number += 1
        return all(relay.relayed for relay in relays)

    await eventually(all_work, kit.patience, "one relay has nothing to do")
    await kit.wire.until(number)
    kit.in_order()
    assert sum(relay.relayed for relay in relays) == number == len(kit.wire.sent)


async def test_a_relay_that_comes_gets_work_while_the_other_is_busy(kit: OutboxKit) -> None:
    """A relay with a backlog that takes long hands shards over to one that comes, in the middle of its work; order per
    key, nothing twice."""
    app = await kit.app()
    count = 3_000
    for key in range(60):
        await kit.commit(app, f"key-{key}", count // 60)

    async def slowly(outbound: object) -> None:
        await asyncio.sleep(0.002)

    kit.wire.before = slowly
    first, second = kit.relay(batch=50), kit.relay(batch=50)
    await kit.relaying(first)
    await kit.wire.until(100)
    await kit.relaying(second)
    await kit.wire.when(lambda: second.relayed, lambda: f"the second one has sent nothing, the first {first.relayed}")
    assert first.relayed < count / 2
    kit.wire.before = None
    await kit.wire.until(count)
    kit.in_order()
    assert len(await kit.wire.quiet(0.3)) == count


async def test_a_relay_that_is_closed_hands_over_at_once(kit: OutboxKit) -> None:
    """A closed relay's shards are with others long before its lease would have ended."""
    app = await kit.app()
    first = await kit.relaying(kit.relay(lease=30.0))
    await kit.relaying(kit.relay(lease=3.0))
    await kit.commit(app, "k")
    await kit.wire.until(1)
    begun = time.monotonic()
    await first.close()
    for key in range(32):
        await kit.commit(app, f"key-{key}")
    await kit.wire.until(33)
    assert time.monotonic() - begun < 10.0
    kit.in_order()


async def test_one_object_is_opened_by_one_relay(kit: OutboxKit) -> None:
    """A second relay on the same object is refused, and the first one goes on; after its end the object may be opened
    again."""
    from anybroker.errors import StateError

    outbox = kit.outbox()
    await outbox.open()
    with pytest.raises(StateError):
        await outbox.open()
    assert (await outbox.take("a", LONG)).held == frozenset(ALL)
    await outbox.close()
    await outbox.open()
    await outbox.take("a", LONG)
    await outbox.close()


async def test_a_relay_needs_a_bus(kit: OutboxKit) -> None:
    """StateError without one, ConfigError in two."""
    from anybroker import Bus, MemoryBroker
    from anybroker.errors import ConfigError, StateError

    relay = kit.relay()
    with pytest.raises(StateError, match=r"bus\.add"):
        await relay.start()
    Bus(MemoryBroker(), source="a").add(relay)
    with pytest.raises(ConfigError):
        Bus(MemoryBroker(), source="b").add(relay)


async def test_a_bus_starts_and_stops_its_relay_again(kit: OutboxKit) -> None:
    """A Bus that is closed and started again relays again."""
    app = await kit.app()
    bus = await kit.relaying()
    await kit.commit(app, "k")
    await kit.wire.until(1)
    await bus.close()
    await kit.commit(app, "k")
    await bus.__aenter__()
    await kit.wire.until(2)
    kit.in_order()
