"""The middleware, on a Bus in memory: copies, claims, failures, leases, a store that is down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, Receipt, Reject, Retry
from anybroker.idempotency import DONE, Busy, Claim, MemoryStore, SqliteStore, Store
from anybroker.middleware import dead_letter, idempotent, retry, timeout
from anybroker.testing import FaultyBroker, Recorder, duplicate, settled

Run = Callable[[Coroutine[Any, Any, None]], None]
quick = retry(attempts=3, first=0.001, cap=0.005)


async def publish(bus: Bus, number: int, copies: int = 1, **options: Any) -> None:
    """That many events with the same id, as a publisher does that is unsure."""
    for _ in range(copies):
        receipt = await bus.publish("orders", number, type="order.v1", id=f"o-{number}", **options)
        assert isinstance(receipt, Receipt)


def key(number: int, handler: str = "charge", group: str = "billing", source: str = "shop") -> Any:
    return (group, handler, source, f"o-{number}")


# --------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("ordered", [True, False])
def test_three_copies_one_effect(run: Run, store: Store, ordered: bool) -> None:
    effects: list[int] = []
    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"ordered": ordered}})

    @bus.subscribe("orders", group="billing")
    @idempotent(store)
    async def charge(number: int) -> None:
        effects.append(number)

    async def main() -> None:
        async with bus:
            for number in range(20):
                await publish(bus, number, copies=3, key="customer")
            await settled(bus)
            (subscription,) = bus.subscriptions
            assert subscription.stats.suppressed == 40
            assert subscription.stats.acked == 60
            assert subscription.stats.dead_lettered == 0

    run(main())
    assert sorted(effects) == list(range(20))


def test_copies_that_the_broker_makes(run: Run) -> None:
    effects: list[int] = []
    bus = Bus(FaultyBroker(MemoryBroker(), duplicate(every=2)), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None:
        effects.append(number)

    async def main() -> None:
        async with bus:
            for number in range(50):
                await publish(bus, number)
            await settled(bus)

    run(main())
    assert effects == list(range(50))


def test_copies_at_the_same_moment_one_effect_and_no_ack_before_it(run: Run, store: Store, until: Any) -> None:
    effects: list[int] = []
    running, go = asyncio.Event(), asyncio.Event()
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent(store)
    async def charge(number: int) -> None:
        running.set()
        await go.wait()
        effects.append(number)

    async def main() -> None:
        async with bus:
            await publish(bus, 1, copies=5)  # without a key: all of them at once
            await running.wait()
            (subscription,) = bus.subscriptions
            await until(lambda: subscription.stats.postponed >= 4)
            assert subscription.stats.acked == 0
            assert (await bus.backlog("orders", "billing")).in_flight == 5
            go.set()
            await settled(bus)
            assert subscription.stats.suppressed == 4
            assert subscription.stats.started == 1
            assert subscription.stats.retried == 0

    run(main())
    assert effects == [1]


def test_two_services_share_a_store(run: Run, until: Any) -> None:
    """The copy is with another one while the first one works: it waits, uncounted, and is suppressed in the end."""
    effects: list[str] = []
    broker, store = MemoryBroker(), MemoryStore()
    running, go = asyncio.Event(), asyncio.Event()

    def service(name: str) -> Bus:
        bus = Bus(broker, source="shop", idempotency=store)

        @bus.subscribe(name, group="billing", name="charge")
        @idempotent()
        async def charge(event: Event) -> None:
            running.set()
            await go.wait()
            effects.append(name)

        return bus

    async def main() -> None:
        async with service("east") as east, service("west") as west:
            await east.publish("east", 1, type="order.v1", id="1")
            await running.wait()
            await east.publish("west", 1, type="order.v1", id="1")
            await until(lambda: west.subscriptions[0].stats.postponed)
            go.set()
            await settled(east)
            await settled(west)
            stats = west.subscriptions[0].stats
            assert (stats.suppressed, stats.retried, stats.started, stats.acked) == (1, 0, 0, 1)

    run(main())
    assert effects == ["east"]


def test_groups_and_handlers_remember_apart(run: Run) -> None:
    effects: list[str] = []
    bus = Bus(MemoryBroker(), source="shop", idempotency=MemoryStore())

    def handler(name: str) -> Callable[[int], Coroutine[Any, Any, None]]:
        async def handle(number: int) -> None:
            effects.append(name)

        return handle

    for group in ("billing", "stock"):
        subscription = bus.subscription("orders", group=group)
        for kind in ("order.v1", "order.v2"):
            name = f"{group} {kind}"
            subscription.on(handler(name), type=kind, name=kind, middleware=[idempotent()])

    async def main() -> None:
        async with bus:
            for kind in ("order.v1", "order.v2"):
                for source in ("shop", "web"):
                    for _ in range(2):
                        await bus.publish("orders", 1, type=kind, id="1", source=source)
            await settled(bus)

    run(main())
    assert sorted(effects) == sorted(
        2 * [f"{group} {kind}" for group in ("billing", "stock") for kind in ("order.v1", "order.v2")]
    )


def test_a_key_of_ones_own(run: Run) -> None:
    effects: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent(key=lambda event: event.subject or "")
    async def charge(number: int) -> None:
        effects.append(number)

    async def main() -> None:
        async with bus:
            for number, subject in enumerate(["a", "b", "a", None]):
                await bus.publish("orders", number, type="order.v1", subject=subject)
            await settled(bus)
            letters = await bus.dead_letters("orders", "billing").list(1)
            assert [letter.reason for letter in letters] == [
                "idempotent(key=): the function returned an empty string where a string is needed"
            ]

    run(main())
    assert effects == [0, 1]


def test_for_every_handler_of_a_bus(run: Run) -> None:
    effects: list[str] = []
    bus = Bus(MemoryBroker(), source="shop", middleware=[idempotent()])

    for group in ("billing", "stock"):

        @bus.subscribe("orders", group=group, name=group)
        async def handle(event: Event, delivery: Delivery) -> None:
            effects.append(delivery.group)

    async def main() -> None:
        async with bus:
            await publish(bus, 1, copies=3)
            await settled(bus)

    run(main())
    assert sorted(effects) == ["billing", "stock"]


def test_the_handler_stays_directly_callable() -> None:
    @idempotent()
    async def charge(number: int) -> int:
        return number + 1

    assert asyncio.run(charge(1)) == 2


# ------------------------------------------------------------------------------------------------------- failures


def test_a_failure_releases_the_claim_and_counts_the_attempt(run: Run) -> None:
    attempts: list[int] = []
    store = MemoryStore()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing", name="charge")
    @quick
    @idempotent()
    async def charge(event: Event, number: int) -> None:
        assert not await done(store, number)
        attempts.append(number)
        if len(attempts) < 3:
            raise OSError("not yet")

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert await done(store, 1)
            assert bus.subscriptions[0].stats.retried == 2

    run(main())
    assert attempts == [1, 1, 1]


async def done(store: Store, number: int) -> bool:
    """Whether it is marked; leaves no claim behind."""
    there = await store.claim(key(number), "test", 20.0, 60.0)
    if isinstance(there, Claim):
        await store.release(there)
    return there is DONE


def test_a_dead_letter_is_not_done_and_its_replay_runs(run: Run) -> None:
    effects: list[int] = []
    broken = True
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @quick
    @idempotent()
    async def charge(number: int) -> None:
        if broken:
            raise Reject("the bank says no")
        effects.append(number)

    async def main() -> None:
        nonlocal broken
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            broken = False
            (letter,) = await bus.dead_letters("orders", "billing").replay(limit=1)
            assert letter.id == "o-1"
            await settled(bus)
            await publish(bus, 1)
            await settled(bus)
            assert bus.subscriptions[0].stats.suppressed == 1

    run(main())
    assert effects == [1]


def test_a_handler_that_runs_into_its_time_out_releases_the_claim(run: Run) -> None:
    effects: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @quick
    @timeout(0.02)
    @idempotent()
    async def charge(number: int) -> None:
        effects.append(number)
        if len(effects) == 1:
            await asyncio.Event().wait()

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert bus.subscriptions[0].stats.retried == 1

    run(main())
    assert effects == [1, 1]


def test_a_handler_that_asks_for_another_start_releases_the_claim(run: Run) -> None:
    effects: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None:
        effects.append(number)
        if len(effects) == 1:
            raise Retry(after=0)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)

    run(main())
    assert effects == [1, 1]


@pytest.mark.parametrize("drain", [0.0, 0.05])
def test_shutdown_cancels_and_releases_so_that_the_next_one_starts_at_once(
    run: Run, store: Store, drain: float
) -> None:
    effects: list[str] = []
    broker = MemoryBroker()
    running = asyncio.Event()

    def service(name: str) -> Bus:
        bus = Bus(broker, source="shop", idempotency=store)

        @bus.subscribe("orders", group="billing", name="charge")
        @idempotent()
        async def charge(number: int) -> None:
            running.set()
            if name == "first":
                await asyncio.Event().wait()
            effects.append(name)

        return bus

    async def main() -> None:
        await store.open()  # a store in memory lives as long as it is held; the other is not closed in between
        first = service("first")
        await first.start()
        await publish(first, 1)
        await running.wait()
        await first.close(drain)
        async with service("second") as second:
            await settled(second, deadline=3.0)  # the lease is 20 s
            assert second.subscriptions[0].stats.postponed == 0
        await store.close()

    run(main())
    assert effects == ["second"]


def test_a_batch_marks_what_did_not_fail(run: Run) -> None:
    from anybroker import BatchFailed

    calls: list[list[int]] = []
    bus = Bus(MemoryBroker(), source="shop", idempotency=MemoryStore())

    @bus.subscribe("orders", group="billing", batch=10, within=0.05)
    @quick
    @idempotent()
    async def charge(numbers: list[int]) -> None:
        calls.append(numbers)
        if len(calls) == 1:
            raise BatchFailed({1: OSError("no")})

    async def main() -> None:
        async with bus:
            for number in (1, 2, 3):
                await publish(bus, number, copies=1)
            await settled(bus)
            for number in (1, 2, 3):
                await publish(bus, number)
            await settled(bus)
            assert bus.subscriptions[0].stats.suppressed == 3

    run(main())
    assert calls == [[1, 2, 3], [2]]


def test_a_plain_def_handler(run: Run) -> None:
    effects: list[int] = []
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing")
    @idempotent()
    def charge(number: int) -> None:
        effects.append(number)

    async def main() -> None:
        async with bus:
            await publish(bus, 1, copies=3)
            await settled(bus)

    run(main())
    assert effects == [1]


# ------------------------------------------------------------------------------------------- crashes and leases


def test_the_mark_comes_after_the_handler_and_before_the_acknowledgement(run: Run, breakable: Any) -> None:
    order: list[str] = []
    store = breakable(MemoryStore())
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    async def note_mark(claim: Claim) -> None:
        order.append(f"marking, {bus.subscriptions[0].stats.acked} acknowledged")

    store.before["done"] = note_mark

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None:
        await asyncio.sleep(0)
        order.append("returned")

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)

    run(main())
    assert order == ["returned", "marking, 0 acknowledged"]


def test_a_crash_after_the_effect_and_before_the_mark_repeats_it_once(run: Run, breakable: Any, until: Any) -> None:
    """The bounded window: the first process ends with the mark unwritten, and the next one runs the handler again."""
    effects: list[str] = []
    broker, memory = MemoryBroker(), MemoryStore()
    broken = breakable(memory)

    def service(name: str, store: Store) -> Bus:
        bus = Bus(broker, source="shop", idempotency=store)

        @bus.subscribe("orders", group="billing", name="charge")
        @idempotent(lease=0.05)
        async def charge(number: int) -> None:
            effects.append(name)
            if name == "first":
                broken.down = True

        return bus

    async def main() -> None:
        first = service("first", broken)
        await first.start()
        await publish(first, 1)
        await until(lambda: first.problems)
        await first.close(0)
        async with service("second", memory) as second:
            await settled(second)
            await publish(second, 1, copies=2)
            await settled(second)
            assert second.subscriptions[0].stats.suppressed == 2

    run(main())
    assert effects == ["first", "second"]


def test_a_mark_that_got_lost_is_made_later_without_running_the_handler_again(run: Run, breakable: Any) -> None:
    effects: list[int] = []
    memory = MemoryStore()
    store = breakable(memory)
    store.fail_before = ["done"] * 3
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing", name="charge")
    @idempotent()
    async def charge(number: int) -> None:
        effects.append(number)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert await done(memory, 1)
            stats = bus.subscriptions[0].stats
            assert (stats.postponed, stats.retried, stats.suppressed, stats.acked) == (3, 0, 0, 1)
            assert bus.problems == {}

    run(main())
    assert effects == [1]


@pytest.mark.parametrize("call", ["claim", "done", "release"])
def test_an_answer_that_got_lost(run: Run, breakable: Any, call: str) -> None:
    """The store did the work but its answer was lost: nothing is lost, and nothing that was marked runs again."""
    effects: list[int] = []
    store = breakable(MemoryStore())
    store.fail_after = [call]
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing")
    @quick
    @idempotent(lease=0.05)
    async def charge(number: int) -> None:
        effects.append(number)
        if call == "release" and len(effects) == 1:
            raise OSError("no")

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert bus.problems == {}

    run(main())
    assert effects == ([1, 1] if call == "release" else [1])


def test_a_late_first_owner_is_fenced_and_acknowledges_nothing(run: Run, until: Any) -> None:
    """The first owner sleeps through its lease; the second one takes over, and what it does decides."""
    effects: list[str] = []
    broker, store = MemoryBroker(), MemoryStore()
    running = {"east": asyncio.Event(), "west": asyncio.Event()}
    go = {"east": asyncio.Event(), "west": asyncio.Event()}

    def service(name: str) -> Bus:
        bus = Bus(broker, source="shop", idempotency=store)

        @bus.subscribe(name, group="billing", name="charge")
        @quick
        @idempotent()
        async def charge(event: Event) -> None:
            running[name].set()
            await go[name].wait()
            effects.append(name)

        return bus

    async def main() -> None:
        async with service("east") as east, service("west") as west:
            first, second = east.subscriptions[0].stats, west.subscriptions[0].stats
            await east.publish("east", 1, type="order.v1", id="o-1")
            await running["east"].wait()
            (keeper,) = east._core.stores._keepers.values()
            claim = keeper.held.popitem()[0]  # its loop is stuck: nothing is extended
            claim.until = 0.0
            await west.publish("west", 1, type="order.v1", id="o-1")
            await running["west"].wait()
            go["east"].set()
            await until(lambda: first.postponed)
            assert effects == ["east"]
            assert first.acked == 0
            go["west"].set()
            await settled(east)
            await settled(west)
            assert (first.suppressed, first.retried, second.suppressed, second.acked) == (1, 0, 0, 1)
            assert await done(store, 1)

    run(main())
    assert effects == ["east", "west"]  # the window of an effect outside of the store's transaction


def test_when_the_second_owner_fails_the_first_ones_copy_is_still_there(run: Run) -> None:
    starts: list[str] = []
    store = MemoryStore()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing", name="charge")
    @idempotent()
    async def charge(number: int) -> None:
        starts.append("run")
        if len(starts) == 1:  # another one takes over meanwhile, and dies
            (keeper,) = bus._core.stores._keepers.values()
            next(iter(keeper.held)).until = 0.0
            claim = await store.claim(key(1), "other", 0.05, 60.0)
            assert isinstance(claim, Claim)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert await done(store, 1)
            assert bus.subscriptions[0].stats.retried == 0

    run(main())
    assert starts == ["run", "run"]


def test_a_claim_is_extended_while_its_handler_runs(run: Run, until: Any) -> None:
    """A handler runs for several leases, and nobody else gets its event."""
    effects: list[int] = []
    store = MemoryStore()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)
    running, go = asyncio.Event(), asyncio.Event()

    @bus.subscribe("orders", group="billing", name="charge")
    @idempotent(lease=0.3)
    async def charge(number: int) -> None:
        running.set()
        await go.wait()
        effects.append(number)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await running.wait()
            (keeper,) = bus._core.stores._keepers.values()
            (claim,) = keeper.held
            first = claim.until
            await until(lambda: claim.until >= first + 0.6)
            assert isinstance(await store.claim(key(1), "other", 0.3, 60.0), Busy)
            go.set()
            await settled(bus)
            assert keeper.lost == 0
            assert not keeper.held

    run(main())
    assert effects == [1]


def test_claims_are_extended_in_one_call(run: Run, breakable: Any) -> None:
    store = breakable(MemoryStore())
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)
    sizes: list[int] = []
    go = asyncio.Event()

    async def extended(claims: Any) -> None:
        sizes.append(len(claims))
        if len(claims) == 50:
            go.set()

    store.before["extend"] = extended

    @bus.subscribe("orders", group="billing")
    @idempotent(lease=0.15)
    async def charge(number: int) -> None:
        await go.wait()

    async def main() -> None:
        async with bus:
            for number in range(50):
                await publish(bus, number)
            await settled(bus)

    run(main())
    assert max(sizes) == 50


def test_claims_that_cannot_be_extended_are_tried_again(
    run: Run, breakable: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = breakable(MemoryStore())
    store.fail_before = ["extend"]
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing")
    @idempotent(lease=0.3)
    async def charge(number: int) -> None:
        await until(lambda: store.calls.count("extend") >= 2)

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            assert bus.subscriptions[0].stats.postponed == 0

    run(main())
    assert "1 claims could not be extended: extend did not get there" in caplog.text


def test_a_claim_that_is_lost_while_the_handler_runs_is_said(
    run: Run, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    store = MemoryStore()
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)
    lost = asyncio.Event()

    @bus.subscribe("orders", group="billing", name="charge")
    @idempotent(lease=0.05)
    async def charge(number: int) -> None:
        (keeper,) = bus._core.stores._keepers.values()
        if keeper.lost:
            return
        next(iter(keeper.held)).until = 0.0
        assert isinstance(await store.claim(key(1), "other", 0.05, 60.0), Claim)
        await until(lambda: keeper.lost)
        lost.set()

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await lost.wait()
            await settled(bus)

    run(main())
    assert "was taken over while its handler ran: its result will not count" in caplog.text


# -------------------------------------------------------------------------------------------- the store is down


def test_the_store_down_nothing_is_handled_and_nothing_acknowledged_until_it_is_back(
    run: Run, breakable: Any, caplog: pytest.LogCaptureFixture, until: Any
) -> None:
    caplog.set_level(logging.INFO, "anybroker")
    effects: list[tuple[int, int]] = []
    store = breakable(MemoryStore())
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @retry(attempts=1)
    @idempotent()
    async def charge(number: int, event: Event) -> None:
        effects.append((number, 1))

    async def main() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            store.down = True
            for number in range(10):
                await publish(bus, number, key=f"k{number % 3}")
            await until(lambda: subscription.stats.postponed >= 12)  # each key's first one, several times
            assert effects == []
            assert subscription.stats.acked == subscription.stats.dead_lettered == subscription.stats.retried == 0
            assert bus.problems == {"orders/billing": "the idempotency store failed: the store is away"}
            assert (await bus.backlog("orders", "billing")).lag == 10
            store.down = False
            await settled(bus)
            assert bus.problems == {}
            assert subscription.stats.dead_lettered == 0

    run(main())
    assert sorted(number for number, _ in effects) == list(range(10))
    assert (
        caplog.text.count("the idempotency store failed, nothing is handled until it is back: the store is away") == 1
    )
    assert caplog.text.count("the idempotency store answers again") == 1


def test_waits_for_the_store_end_at_shutdown_without_counting(run: Run, breakable: Any, until: Any) -> None:
    attempts: list[int] = []
    broker = MemoryBroker()
    store = breakable(MemoryStore())

    def service() -> Bus:
        bus = Bus(broker, source="shop", idempotency=store)

        @bus.subscribe("orders", group="billing", name="charge")
        @idempotent()
        async def charge(event: Event) -> None:
            from anybroker.delivery import current_delivery

            delivery = current_delivery.get()
            assert delivery is not None
            attempts.append(delivery.attempt)

        return bus

    async def main() -> None:
        first = service()
        await first.start()
        store.down = True
        await publish(first, 1)
        await until(lambda: first.subscriptions[0].stats.postponed >= 3)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await first.close()
        assert loop.time() - begin < 2.0
        store.down = False
        async with service() as second:
            await settled(second)

    run(main())
    assert attempts == [1]


def test_a_store_that_fails_to_release_leaves_the_failure_to_the_handler(run: Run, breakable: Any) -> None:
    starts: list[int] = []
    store = breakable(MemoryStore())
    store.fail_before = ["release"]
    bus = Bus(MemoryBroker(), source="shop", idempotency=store)

    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @quick
    @idempotent(lease=0.05)
    async def charge(number: int) -> None:
        starts.append(number)
        raise OSError(f"start {len(starts)}")

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert letter.attempts == 3
            assert letter.reason == "OSError: start 3"

    run(main())
    assert starts == [1, 1, 1]


# --------------------------------------------------------------------------------- what a second run publishes


def test_a_handler_that_crashes_between_its_publishes_publishes_the_same_ids_again(run: Run) -> None:
    """And so the next service handles each of them once."""
    runs: list[int] = []
    seen: list[str] = []
    bus = Bus(MemoryBroker(), source="shop", idempotency=MemoryStore())
    recorder = Recorder(bus, "invoices")

    @bus.subscribe("orders", group="billing")
    @quick
    @idempotent()
    async def charge(number: int) -> None:
        runs.append(number)
        await bus.publish("invoices", {"line": 1}, type="line.v1")
        if len(runs) == 1:
            raise OSError("crash between the two")
        await bus.publish("invoices", {"line": 2}, type="line.v1")

    @bus.subscribe("invoices", group="printer")
    @idempotent()
    async def print_invoice(line: dict[str, int], event: Event) -> None:
        seen.append(f"{line['line']} {event.id}")

    async def main() -> None:
        async with bus:
            await publish(bus, 1)
            await recorder.wait(3)
            await settled(bus)

    run(main())
    ids = [event.id for event in recorder.events]
    assert [event.data["line"] for event in recorder.events] == [1, 1, 2]
    assert ids[0] == ids[1] != ids[2]
    assert seen == [f"1 {ids[0]}", f"2 {ids[2]}"]
    assert {event["causationid"] for event in recorder.events} == {"o-1"}


# ------------------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: idempotent("shop.db"), r"idempotent\(store\): 'shop.db' is not an idempotency store. Give a store"),
        (lambda: idempotent(lease=0), r"idempotent\(lease=\): 0 is not a number of seconds over 0"),
        (lambda: idempotent(retain=float("inf")), r"idempotent\(retain=\): inf is not a number of seconds over 0"),
        (lambda: idempotent(key="subject"), r"idempotent\(key=\): 'subject' is not a function"),
    ],
)
def test_wrong_arguments(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_key_that_cannot_be_encoded_is_a_dead_letter_and_no_outage(kind: str, tmp_path: Path, run: Any) -> None:
    """An event that waiting does not help must not come again forever."""
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "store.db")
    bus = Bus(MemoryBroker(), source="shop")
    handled: list[int] = []

    def key(event: Event[Any]) -> str:
        return "\ud800" if event.data == 1 else str(event.data)

    @bus.subscribe("orders", group="billing")
    @retry(attempts=2, first=0.001)
    @idempotent(store, key=key)
    async def charge(number: int) -> None:
        handled.append(number)

    async def main() -> None:
        async with bus:
            for number in (1, 2, 3):
                await bus.publish("orders", number, type="order.v1", key="k")
            await settled(bus)
            assert bus.problems == {}
            assert bus.subscriptions[0].stats.dead_lettered == (1 if kind == "sqlite" else 0)

    run(main())
    assert handled == ([2, 3] if kind == "sqlite" else [1, 2, 3])
