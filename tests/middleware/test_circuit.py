"""Pausing while what a handler depends on is down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.middleware.quick_time import run_quickly

from anybroker import Bus, ConfigError, Delivery, Event, Reject, Retry
from anybroker.idempotency import MemoryStore
from anybroker.middleware import Circuit, circuit, concurrency, dead_letter, idempotent, retry
from anybroker.testing import settled


def now() -> float:
    return asyncio.get_running_loop().time()


class Api:
    """What a handler depends on."""

    def __init__(self) -> None:
        self.down = True
        self.error: type[Exception] = ConnectionError
        self.starts: list[tuple[float, int, int]] = []
        self.done: list[int] = []

    async def __call__(self, delivery: Delivery) -> None:
        number: int = delivery.event.data
        self.starts.append((now(), number, delivery.attempt))
        await asyncio.sleep(0.001)
        if self.down:
            raise self.error("down")
        self.done.append(number)


async def publish(bus: Bus, count: int, first: int = 0, **options: Any) -> None:
    for number in range(first, first + count):
        await bus.publish("orders", number, type="order.v1", **options)


def serve(bus: Bus, api: Api, *layers: Any, attempts: int = 5, **options: Any) -> Any:
    subscription = bus.subscription("orders", group="billing", **options)

    @subscription.on(middleware=[retry(attempts, first=0.01, cap=0.02), *layers])
    async def charge(delivery: Delivery) -> None:
        await api(delivery)

    return subscription


def test_an_outage_uses_up_no_attempts_and_pauses_the_subscription(
    bus: Bus, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "anybroker")
    api = Api()
    subscription = serve(bus, api, circuit(failures=5, within=10, probe=5, name="payments"), max_in_flight=5)

    async def test() -> None:
        async with bus:
            await publish(bus, 100)
            await until(lambda: subscription.circuits["payments"])
            opened = now()
            await asyncio.sleep(1)
            starts, held = len(api.starts), subscription.buffered
            assert 5 <= starts < 10  # those that ran already may end
            assert subscription.state == "paused"
            assert subscription.stats.acked == 0
            assert "circuit 'payments' is open: ConnectionError: down" in subscription.problem
            health = bus.health()
            assert health.ready
            assert "payments" in health.subscriptions[0].problem
            await publish(bus, 100, first=100)
            await asyncio.sleep(34)  # probes after 5, 15, and 35 seconds
            assert subscription.buffered == held
            assert len(api.starts) - starts == 2
            probes = [round(at - opened) for at, _, _ in api.starts[starts:]]
            assert probes == [5, 15]
            api.down = False
            await settled(bus, deadline=120)
            assert subscription.problem is None
            assert not subscription.circuits["payments"]
            assert subscription.state == "running"
            assert (subscription.stats.dead_lettered, subscription.stats.circuits_opened) == (0, 1)

    run_quickly(test())
    assert sorted(api.done) == list(range(200))
    assert max(attempt for _, _, attempt in api.starts) == 2  # one start of each of the first ones counted
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "circuit" in record.getMessage()]
    assert [level for level, _ in said].count("ERROR") == 1
    assert said[0][0] == "ERROR"
    assert "the last with ConnectionError: down" in said[0][1]
    assert said[-1][1].startswith("the circuit 'payments' closes, after 35.")
    assert sum("half-open" in text for _, text in said) == 3


def test_probes_wait_longer_and_longer_up_to_a_limit(bus: Bus, until: Any) -> None:
    api = Api()
    serve(bus, api, circuit(failures=1, within=1, probe=2, longest_probe=10))

    async def test() -> None:
        async with bus:
            await publish(bus, 50)
            await until(lambda: api.starts)
            before = len(api.starts)
            begun = now()
            await asyncio.sleep(50)
            waits = [round(at - begun) for at, _, _ in api.starts if at > begun + 1]
            assert waits == [2, 6, 14, 24, 34, 44]
            assert before <= len(api.starts) - 6
            tried = [number for at, number, _ in api.starts if at > begun + 1]
            assert len(set(tried)) == 6  # each time another one

    run_quickly(test())


def test_failures_that_are_few_or_far_apart_do_not_open_it(bus: Bus) -> None:
    seen = 0

    @bus.subscribe("orders", group="billing", max_in_flight=1)
    @retry(attempts=1)
    @circuit(failures=3, within=1.0, name="c")
    async def charge(number: int) -> None:
        nonlocal seen
        seen += 1
        await asyncio.sleep(0.01 if number < 100 else 0.6)
        if number >= 100 or (
            number < 90 and number % 3 == 0
        ):  # a third of those that are quick; one in 0.6 s of those that are slow
            raise ValueError("no")

    async def test() -> None:
        async with bus:
            await publish(bus, 120)
            await settled(bus, deadline=60)
            assert bus.subscriptions[0].stats.circuits_opened == 0

    run_quickly(test())
    assert seen == 120


def test_without_a_share_the_failures_alone_count(bus: Bus, until: Any) -> None:
    @bus.subscribe("orders", group="billing", max_in_flight=1)
    @retry(attempts=1)
    @circuit(failures=3, within=10, share=0, name="c")
    async def charge(number: int) -> None:
        if number % 10 == 0:
            raise ValueError("no")

    async def test() -> None:
        async with bus:
            await publish(bus, 100)
            await until(lambda: bus.subscriptions[0].circuits["c"])
            assert bus.subscriptions[0].stats.started < 40

    run_quickly(test())


@pytest.mark.parametrize(
    ("on", "error", "opens"),
    [
        (ConnectionError, ConnectionError, True),
        (ConnectionError, ConnectionResetError, True),
        (ConnectionError, ValueError, False),
        ((ValueError, OSError), ConnectionError, True),
        (lambda error: "down" in str(error), ValueError, True),
        (lambda error: "up" in str(error), ValueError, False),
        (Exception, Reject, False),
        (Exception, lambda _: Retry(reason="busy"), True),
    ],
)
def test_what_counts(bus: Bus, on: Any, error: Any, opens: bool) -> None:
    api = Api()
    api.error = error
    subscription = serve(bus, api, circuit(failures=3, within=10, on=on, name="c"), attempts=1)

    async def test() -> None:
        async with bus:
            await publish(bus, 20)
            await asyncio.sleep(1)
            assert subscription.circuits["c"] is opens
            assert subscription.stats.dead_lettered == (20 if not opens else subscription.stats.dead_lettered)

    run_quickly(test())


def test_what_cannot_be_decoded_does_not_count(bus: Bus, handled: Any) -> None:
    @bus.subscribe("orders", group="billing")
    @circuit(failures=1, name="c")
    async def charge(_: int) -> None: ...

    assert len(run_quickly(handled(bus, *["no number"] * 5))) == 5
    assert bus.subscriptions[0].stats.circuits_opened == 0


def test_the_cause_of_a_retry_is_what_counts(bus: Bus) -> None:
    @bus.subscribe("orders", group="billing")
    @circuit(failures=2, on=ConnectionError, name="c")
    async def charge(_: int) -> None:
        raise Retry(after=0.01) from ConnectionError("down")

    async def test() -> None:
        async with bus:
            await publish(bus, 5)
            await asyncio.sleep(0.5)
            assert bus.subscriptions[0].circuits["c"]

    run_quickly(test())


def test_a_shared_circuit_pauses_all_its_handlers_and_no_other(bus: Bus, until: Any) -> None:
    payments = Circuit("payments-api", failures=3, within=10, probe=5, on=ConnectionError)
    api = Api()
    refunds: list[int] = []
    notes: list[int] = []
    billing = serve(bus, api, circuit(payments))
    other = bus.subscription("orders", group="refunds")

    @other.on(type="order.v1")
    @circuit(payments)
    async def refund(delivery: Delivery) -> None:
        refunds.append(delivery.event.data)
        if api.down:
            await asyncio.Event().wait()

    @other.on(type="note.v1")
    async def note(number: int) -> None:
        notes.append(number)

    async def test() -> None:
        async with bus:
            await publish(bus, 20)
            await until(lambda: payments.is_open)
            assert billing.state == "paused"
            assert other.state == "running"  # notes go on
            assert billing.problem
            assert other.problem
            begun = len(refunds)
            await publish(bus, 20, first=20)
            for number in range(10):
                await bus.publish("orders", number, type="note.v1")
            await until(lambda: len(notes) == 10)
            assert len(refunds) == begun
            assert "payments-api" in repr(payments)

    run_quickly(test())
    assert payments.is_open


def test_it_closes_for_all_that_share_it(bus: Bus, until: Any) -> None:
    payments = Circuit("payments-api", failures=3, within=10, probe=5)
    api = Api()
    refunds: list[int] = []
    billing = serve(bus, api, circuit(payments), attempts=1000)

    async def refund(number: int) -> None:
        refunds.append(number)

    async def test() -> None:
        async with bus:
            await publish(bus, 20)
            await until(lambda: payments.is_open)
            other = bus.subscription("orders", group="refunds")
            other.on(refund, middleware=[circuit(payments)])
            await bus.add(other)  # its circuit is open before it has started anything
            assert other.state == "paused"
            await publish(bus, 20, first=20)
            await asyncio.sleep(2)
            assert refunds == []
            api.down = False
            await settled(bus, deadline=60)
            assert payments.state == "closed"
            assert (billing.problem, other.problem) == (None, None)

    run_quickly(test())
    assert sorted(refunds) == list(range(20, 40))
    assert sorted(api.done) == list(range(40))


def test_ordered_keys_keep_their_order_through_an_outage(bus: Bus, until: Any) -> None:
    api = Api()
    api.down = False
    subscription = serve(bus, api, circuit(failures=3, within=10, probe=1, name="c"))

    async def test() -> None:
        async with bus:
            for number in range(90):
                await bus.publish("orders", number, type="order.v1", key=f"k{number % 3}")
                if number == 40:
                    api.down = True
                await asyncio.sleep(0.01)
            await until(lambda: subscription.circuits["c"])
            await asyncio.sleep(10)
            api.down = False
            await settled(bus, deadline=60)

    run_quickly(test())
    for lane in range(3):
        assert [number for number in api.done if number % 3 == lane] == list(range(lane, 90, 3))


def test_closing_does_not_wait_for_it_and_it_outlasts_a_restart(bus: Bus, until: Any) -> None:
    payments = Circuit("payments-api", failures=3, within=10, probe=5)
    api = Api()
    subscription = serve(bus, api, circuit(payments), attempts=50)

    async def first() -> None:
        async with bus:
            await publish(bus, 20)
            await until(lambda: payments.is_open)
            await asyncio.sleep(0.1)
            before = now()
        assert now() - before < 1.0
        assert subscription.stats.returned + subscription.stats.dead_lettered == 20

    async def second() -> None:
        api.down = False
        starts = len(api.starts)
        async with bus:
            assert subscription.problem
            await asyncio.sleep(1)
            assert len(api.starts) == starts
            await settled(bus, deadline=60)
            assert subscription.problem is None

    run_quickly(first())
    run_quickly(second())  # another event loop, whose clock begins anew
    assert sorted(api.done) == list(range(20))


def test_an_event_that_fails_as_a_probe_gives_way_to_others(bus: Bus, until: Any) -> None:
    """Else one bad event that opened the circuit would keep it open."""
    done: list[int] = []

    @bus.subscribe("orders", group="billing", max_in_flight=1)
    @retry(attempts=100, first=0.01, cap=0.01)
    @circuit(failures=3, within=10, probe=1, name="c")
    async def charge(number: int) -> None:
        if number == 0:
            raise ValueError("this one only")
        done.append(number)

    async def test() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            await publish(bus, 1)
            await until(lambda: subscription.circuits["c"])
            await asyncio.sleep(5)
            assert subscription.circuits["c"]
            await publish(bus, 3, first=1)
            await until(lambda: len(done) == 3)
            assert subscription.stats.dead_lettered == 0

    run_quickly(test())


def test_a_probe_that_says_nothing_is_followed_by_another(bus: Bus, until: Any) -> None:
    api = Api()
    store = MemoryStore()
    done: list[int] = []

    @bus.subscribe("orders", group="billing", max_in_flight=1, middleware=[idempotent(store)])
    @dead_letter()
    @retry(attempts=1)
    @circuit(failures=1, within=10, probe=1, name="c")
    async def charge(event: Event[Any]) -> None:
        if event.data == 1:
            raise ConnectionError("down")
        if event.data == 2:
            raise Reject("nonsense")
        done.append(event.data)

    async def test() -> None:
        async with bus:
            (subscription,) = bus.subscriptions
            await bus.publish("orders", 0, type="order.v1", id="first")
            await until(lambda: done == [0])
            await publish(bus, 1, first=1)
            await until(lambda: subscription.circuits["c"])
            await bus.publish("orders", 0, type="order.v1", id="first")  # a copy, which does not reach the handler
            await publish(bus, 1, first=2)
            await until(lambda: subscription.stats.suppressed == 1)
            await until(lambda: subscription.stats.dead_lettered == 2)
            assert subscription.circuits["c"]
            await publish(bus, 1, first=3)
            await until(lambda: done == [0, 3])
            assert not subscription.circuits["c"]

    assert not api.done
    run_quickly(test())


def test_it_works_inside_of_concurrency(bus: Bus, until: Any) -> None:
    api = Api()
    subscription = serve(bus, api, concurrency(2), circuit(failures=2, within=10, probe=1, name="c"))

    async def test() -> None:
        async with bus:
            await publish(bus, 50)
            await until(lambda: subscription.circuits["c"])
            await asyncio.sleep(6)
            api.down = False
            await settled(bus, deadline=60)

    run_quickly(test())
    assert sorted(api.done) == list(range(50))


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"failures": 0}, "failures="),
        ({"failures": True}, "failures="),
        ({"within": 0}, "within="),
        ({"probe": -1}, "probe="),
        ({"longest_probe": float("inf")}, "longest_probe="),
        ({"share": 1.5}, "share="),
        ({"on": ["no class"]}, "on="),
    ],
)
def test_wrong_settings_are_refused(options: Any, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"circuit\({setting}\)"):
        circuit(**options)
    with pytest.raises(ConfigError, match=rf"circuit\({setting}\)"):
        Circuit("c", **options)


def test_a_shared_one_has_its_settings_itself() -> None:
    with pytest.raises(ConfigError, match="beside a shared Circuit"):
        circuit(Circuit("c"), failures=7)
    with pytest.raises(ConfigError, match="is not a Circuit"):
        circuit("c")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not a name"):
        Circuit("")
