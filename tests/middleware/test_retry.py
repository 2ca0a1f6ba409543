"""How often, when and where a handler is started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from anybroker import (
    AnybrokerError,
    Bus,
    CapabilityError,
    ConfigError,
    Delivery,
    EventError,
    MemoryBroker,
    Reject,
    Retry,
)
from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker.middleware import dead_letter, retry
from anybroker.middleware.retry import AttemptsExhausted, Uncounted
from anybroker.testing import AdapterWrapper, settled

quick = retry(attempts=3, first=0.001, cap=0.003)


def failing(bus: Bus, error: Callable[[], Exception], *decorators: Any, **options: Any) -> list[int]:
    """A handler that always fails; the attempts that it saw."""
    attempts: list[int] = []

    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise error()

    for decorator in reversed(decorators):
        charge = decorator(charge)
    bus.subscribe("orders", group="billing", name="charge", **options)(charge)
    return attempts


# -------------------------------------------------------------------------------------------------------- how often


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_so_many_starts_and_then_a_dead_letter(bus: Bus, run: Any, handled: Any, attempts: int, ordered: bool) -> None:
    seen = failing(bus, lambda: OSError("no"), dead_letter(), retry(attempts, first=0.001, cap=0.002), ordered=ordered)
    (letter,) = run(handled(bus, {"order": 1}))
    assert seen == list(range(1, attempts + 1))
    assert letter.attempts == attempts
    assert letter.reason == "OSError: no"
    stats = bus.subscriptions[0].stats
    assert (stats.started, stats.retried, stats.acked) == (attempts, attempts - 1, 1)


def test_a_handler_without_decorators_has_five_starts_and_dead_letters(
    bus: Bus, run: Any, handled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.engine.backoff.random", lambda: 0.001)
    seen = failing(bus, lambda: OSError("no"))
    (letter,) = run(handled(bus, 1))
    assert seen == [1, 2, 3, 4, 5]
    assert letter.attempts == 5


def test_what_stands_at_the_handler_replaces_what_the_bus_has(run: Any, handled: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", middleware=[retry(attempts=9, first=0.0, cap=0.0)])
    own = failing(bus, lambda: OSError("no"), retry(attempts=2, first=0.0, cap=0.0))
    run(handled(bus, 1))
    assert own == [1, 2]
    bus = Bus(MemoryBroker(), source="shop", middleware=[retry(attempts=3, first=0.0, cap=0.0)])
    common = failing(bus, lambda: OSError("no"))
    run(handled(bus, 1))
    assert common == [1, 2, 3]


def test_what_stands_at_the_subscription_is_between_the_two(run: Any, handled: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", middleware=[retry(attempts=9, first=0.0, cap=0.0)])
    seen = failing(bus, lambda: OSError("no"), middleware=[retry(attempts=4, first=0.0, cap=0.0)])
    run(handled(bus, 1))
    assert seen == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------ what is retried


@pytest.mark.parametrize(
    ("options", "error", "starts"),
    [
        ({"on": OSError}, OSError("x"), 3),
        ({"on": OSError}, ConnectionResetError("a subclass"), 3),
        ({"on": OSError}, ValueError("x"), 1),
        ({"on": (OSError, KeyError)}, KeyError("x"), 3),
        ({"on": [OSError]}, OSError("a list will do"), 3),
        ({"give_up_on": ValueError}, ValueError("x"), 1),
        ({"give_up_on": ValueError}, OSError("x"), 3),
        ({"on": OSError, "give_up_on": ConnectionError}, ConnectionResetError("x"), 1),
        ({}, Reject("never"), 1),
        ({"on": Reject}, Reject("never, whatever is said"), 1),
        ({"on": ()}, OSError("x"), 1),
    ],
)
def test_which_exceptions(bus: Bus, run: Any, handled: Any, options: Any, error: Exception, starts: int) -> None:
    seen = failing(bus, lambda: error, dead_letter(), retry(3, first=0.0, cap=0.0, **options))
    (letter,) = run(handled(bus, 1))
    assert len(seen) == letter.attempts == starts


class Status(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def is_unavailable(exc: Exception) -> bool:
    return exc.status >= 500  # type: ignore[attr-defined, no-any-return] # raises where there is none


async def is_async(exc: Exception) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "error", "starts"),
    [
        ({"on": is_unavailable}, Status(503), 3),
        ({"on": is_unavailable}, Status(404), 1),
        ({"on": (is_unavailable, OSError)}, OSError("a class beside a function"), 3),
        ({"give_up_on": is_unavailable}, Status(503), 1),
        ({"give_up_on": is_unavailable}, Status(404), 3),
        ({"per": {OSError: retry(2, delays=0)}}, OSError("x"), 2),
        ({"per": {OSError: retry(2, delays=0)}}, ValueError("x"), 3),
        ({"per": {OSError: retry(2, delays=0)}}, ConnectionResetError("a subclass"), 2),
        ({"per": {ConnectionError: retry(4, delays=0), OSError: retry(2)}}, ConnectionResetError("the first"), 4),
        ({"per": {(KeyError, is_unavailable): retry(2, delays=0)}}, Status(500), 2),
        ({"per": {OSError: retry(delays=[0, 0], then=retry(2, delays=0))}}, OSError("x"), 5),
        ({"per": {OSError: retry(2, delays=0)}, "on": ValueError}, OSError("what on does not name"), 2),
        ({"per": {OSError: retry(5)}, "give_up_on": OSError}, OSError("x"), 1),
        ({"per": {EventError: retry(5)}}, EventError("never"), 1),
        ({"per": {OSError: retry(9)}}, Retry(after=0.0), 3),
    ],
)
def test_which_policy(bus: Bus, run: Any, handled: Any, options: Any, error: Exception, starts: int) -> None:
    seen = failing(bus, lambda: error, dead_letter(), retry(3, first=0.0, cap=0.0, **options))
    (letter,) = run(handled(bus, 1))
    assert len(seen) == letter.attempts == starts


def test_a_function_that_raises_does_not_match_and_is_logged_once(
    bus: Bus, run: Any, handled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = failing(bus, lambda: OSError("no"), retry(3, first=0.0, cap=0.0, give_up_on=is_unavailable))
    run(handled(bus, 1, 2))
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]
    assert [each.getMessage() for each in caplog.records if "retry(give_up_on=)" in each.getMessage()] == [
        "retry(give_up_on=): the function is_unavailable failed with AttributeError, which counts as false. This is "
        "said once"
    ]


def test_an_async_function_would_always_match() -> None:
    with pytest.raises(ConfigError, match=r"retry\(on=\): <function is_async .* is neither"):
        retry(on=is_async)


class Order(BaseModel):
    cents: int


def test_what_does_not_validate_is_never_retried(bus: Bus, run: Any, handled: Any) -> None:
    starts: list[Order] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=5, on=Exception)
    async def charge(order: Order) -> None:
        starts.append(order)

    letters = run(handled(bus, {"cents": "many, and a secret"}, b"{"))
    assert starts == []
    assert bus.subscriptions[0].stats.retried == 0
    assert [letter.attempts for letter in letters] == [1, 1]
    assert letters[0].reason == "undecodable: the data is not a valid Order: cents: " + (
        "Input should be a valid integer, unable to parse string as an integer"
    )
    assert "secret" not in str(letters[0].headers)


def test_asking_for_another_start(bus: Bus, run: Any, handled: Any) -> None:
    seen = failing(bus, lambda: Retry(after=0.0, reason="the bank sleeps"), dead_letter(), quick)
    (letter,) = run(handled(bus, 1))
    assert seen == [1, 2, 3]
    assert letter.reason == "AttemptsExhausted: no attempt left of 3: the bank sleeps"


def test_a_wait_that_the_handler_asks_for(bus: Bus, run: Any, handled: Any) -> None:
    times: list[float] = []

    @bus.subscribe("orders", group="billing")
    @quick
    async def charge(number: int) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Retry(after=0.15)

    assert run(handled(bus, 1)) == []
    assert times[1] - times[0] >= 0.149


# ------------------------------------------------------------------------------------------------------------ when


class Asked(Exception):
    pass


def waits_of(
    middleware: retry,
    attempts: int,
    draws: list[float],
    monkeypatch: pytest.MonkeyPatch,
    first_failed: float | None = None,
) -> list[float]:
    """What the middleware tells the engine to wait after each start."""
    capabilities = Capabilities(
        adapter="test",
        acknowledgement=Acknowledgement.PER_MESSAGE,
        durable=Support.ABSENT,
        processes=Support.ABSENT,
    )
    chain: Any = SimpleNamespace(
        ordered=True,
        capabilities=capabilities,
        handler=SimpleNamespace(name="charge"),
        giving_up=lambda: False,
    )

    async def fails(delivery: Delivery) -> None:
        raise Asked

    handler = middleware.bind(fails, chain)
    monkeypatch.setattr("anybroker.engine.backoff.random", iter(draws * attempts).__next__)
    waits = []
    for attempt in range(1, attempts + 1):
        delivery: Any = SimpleNamespace(attempt=attempt, inbound=SimpleNamespace(inlet=False))
        if first_failed is not None:
            delivery.first_failed = first_failed
        with pytest.raises(Retry) as caught:
            asyncio.run(handler(delivery))  # type: ignore[arg-type] # the chain's are coroutines
        assert caught.value.after is not None
        assert caught.value.counted
        waits.append(caught.value.after)
    return waits


def test_the_bound_of_the_wait_grows_up_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = waits_of(retry(attempts=99, first=0.5, factor=3.0, cap=10.0), 6, [1.0], monkeypatch)
    assert waits == [0.5, 1.5, 4.5, 10.0, 10.0, 10.0]


def test_the_wait_is_drawn_from_all_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits_of(retry(attempts=9, first=1.0, factor=1.0), 3, [0.0, 0.25, 0.999], monkeypatch) == [0.0, 0.25, 0.999]


def test_the_last_attempt_raises_what_the_handler_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Asked):
        waits_of(retry(attempts=2), 2, [0.5], monkeypatch)


def test_what_is_put_off_passes_through_uncounted(bus: Bus, run: Any, handled: Any) -> None:
    """Even on the last attempt; and it does not lower the number of starts that are left."""
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) < 4:
            raise Uncounted(0.001, "the store is away")

    assert run(handled(bus, 1)) == []
    assert attempts == [1, 1, 1, 1]
    stats = bus.subscriptions[0].stats
    assert (stats.postponed, stats.retried, stats.started, stats.acked) == (3, 0, 1, 1)


def test_delays_are_as_given_and_the_last_one_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits_of(retry(delays=[1, 10.5, 60]), 3, [0.5], monkeypatch) == [1.0, 10.5, 60.0]
    assert waits_of(retry(6, delays=[1, 2]), 5, [0.5], monkeypatch) == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert waits_of(retry(delays=3), 4, [0.5], monkeypatch) == [3.0] * 4


@pytest.mark.parametrize(
    ("policy", "starts"),
    [
        (retry(delays=[1, 10, 60]), 4),
        (retry(3, delays=[1, 10, 60]), 3),
        (retry(delays=1), 5),
        (retry(), 5),
        (retry(3, then=retry(5)), 8),
        (retry(3, then=retry(delays=[1, 2])), 5),
        (retry(3, then=retry()), 8),
        (retry(2, then=retry(1, then=retry(delays=[7]))), 4),
        (retry(for_=60, attempts=2), 2),
        (retry(for_=60, delays=[1, 1]), 3),
    ],
)
def test_how_many_starts_a_policy_has(policy: retry, starts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waits_of(policy, starts - 1, [0.5], monkeypatch)
    with pytest.raises(Asked):
        waits_of(policy, starts, [0.5], monkeypatch)


def test_each_level_has_its_own_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = retry(3, first=0.1, then=retry(2, delays=[60, 300], then=retry(3, first=1.0, factor=2.0)))
    assert waits_of(policy, 7, [1.0], monkeypatch) == pytest.approx([0.1, 0.3, 60.0, 300.0, 1.0, 2.0, 4.0])


def test_in_time_there_is_no_other_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker.middleware.schedule.time.time", lambda: 1000.0)
    assert waits_of(retry(for_=600, delays=1), 500, [0.5], monkeypatch) == [1.0] * 500
    assert waits_of(retry(2, for_=600, then=retry(delays=[7], then=retry(delays=5))), 50, [0.5], monkeypatch)[1:3] == [
        7.0,
        5.0,
    ]


@pytest.mark.parametrize(
    ("first", "wait", "given_up"), [(400.0, 0.0, False), (400.0, 0.5, True), (401.0, 1.0, False), (None, 601.0, True)]
)
def test_no_wait_ends_after_the_budget_in_time(
    first: float | None, wait: float, given_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.middleware.schedule.time.time", lambda: 1000.0)
    policy = retry(for_=600, delays=wait)
    if given_up:
        with pytest.raises(Asked):
            waits_of(policy, 1, [0.5], monkeypatch, first)
    else:
        assert waits_of(policy, 1, [0.5], monkeypatch, first) == [wait]


def test_a_start_that_was_asked_for_and_has_no_time_left(bus: Bus, run: Any, handled: Any) -> None:
    seen = failing(bus, lambda: Retry(after=61, reason="the bank sleeps"), dead_letter(), retry(for_=60))
    (letter,) = run(handled(bus, 1))
    assert seen == [1]
    assert letter.reason == "AttemptsExhausted: no attempt left within 60 s of the first failure: the bank sleeps"


@pytest.mark.parametrize(
    ("options", "wait"),
    [({}, 7.0), ({"longest_after": 3}, 3.0), ({"retry_after": False}, 0.25), ({"longest_after": 0}, 0.0)],
)
def test_what_a_server_asks_for(options: Any, wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asked, "headers", {"Retry-After": "7"}, raising=False)
    assert waits_of(retry(first=0.5, **options), 1, [0.5], monkeypatch) == [wait]


# ----------------------------------------------------------------------------------------------------------- where


def test_hold_keeps_the_key_closed_and_the_others_open(bus: Bus, run: Any) -> None:
    seen: list[tuple[str, int]] = []

    @bus.subscribe("orders", group="billing")
    @quick
    async def charge(item: tuple[str, int], delivery: Delivery) -> None:
        key, number = item
        seen.append((key, number))
        if key == "bad" and delivery.attempt < 3 and number == 0:
            raise OSError("no")

    async def main() -> None:
        async with bus:
            for number in range(5):
                for key in ("bad", "good"):
                    await bus.publish("orders", (key, number), type="order.v1", key=key)
            await settled(bus)

    run(main())
    assert [item for item in seen if item[0] == "good"] == [("good", number) for number in range(5)]
    assert [item for item in seen if item[0] == "bad"] == [("bad", 0)] * 3 + [("bad", number) for number in range(1, 5)]


def test_release_gives_the_event_back_with_its_count(bus: Bus, run: Any, handled: Any) -> None:
    seen = failing(bus, lambda: OSError("no"), dead_letter(), quick, ordered=False)
    (letter,) = run(handled(bus, 1, key="k"))
    assert seen == [1, 2, 3]
    assert letter.attempts == 3
    assert bus.subscriptions[0].stats.released == 2


@pytest.mark.parametrize("where", ["outside", "in then"])
def test_a_second_level_that_releases_is_refused_on_an_ordered_subscription_unless_confirmed(
    bus: Bus, run: Any, handled: Any, where: str
) -> None:
    failing(bus, lambda: OSError("no"), retry(2, then=retry(1, mode="release")))
    with pytest.raises(ConfigError, match=r"retry\(mode='release'\) on handler charge: .* is ordered"):
        run(handled(bus, 1))
    confirmed = Bus(MemoryBroker(), source="shop")
    policy = retry(
        2,
        first=0.001,
        then=retry(1, mode="release", first=0.001, gives_up_order=where == "in then"),
        gives_up_order=where == "outside",
    )
    seen = failing(confirmed, lambda: OSError("no"), policy)
    run(handled(confirmed, 1))
    assert seen == [1, 2, 3]
    assert confirmed.subscriptions[0].stats.released == 1


@pytest.mark.parametrize(("ordered", "released"), [(True, 0), (False, 2)])
def test_of_two_levels_the_first_holds_and_the_second_releases_where_there_is_no_order(
    bus: Bus, run: Any, handled: Any, ordered: bool, released: int
) -> None:
    seen = failing(bus, lambda: OSError("no"), retry(3, first=0.001, then=retry(2, first=0.001)), ordered=ordered)
    run(handled(bus, 1))
    assert seen == [1, 2, 3, 4, 5]
    assert bus.subscriptions[0].stats.released == released


def test_a_released_event_with_a_budget_in_time_is_a_copy_that_says_when_it_failed_first(
    bus: Bus, run: Any, handled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers: list[Any] = []

    @bus.subscribe("orders", group="billing", ordered=False)
    @retry(3, delays=0.001, for_=60)
    async def charge(delivery: Delivery) -> None:
        headers.append(delivery.inbound.headers.get("anybroker-first-failure"))
        raise OSError("no")

    begun = time.time()
    run(handled(bus, 1))
    first, second, third = headers
    assert first is None
    assert second == third
    assert begun - 0.001 <= float(second) <= time.time()


def test_hold_can_be_asked_for_on_an_unordered_subscription(bus: Bus, run: Any, handled: Any) -> None:
    seen = failing(bus, lambda: OSError("no"), retry(3, mode="hold", first=0.001), ordered=False)
    run(handled(bus, 1))
    assert seen == [1, 2, 3]
    assert bus.subscriptions[0].stats.released == 0


def test_release_on_an_ordered_subscription_is_refused_unless_confirmed(bus: Bus, run: Any, handled: Any) -> None:
    failing(bus, lambda: OSError("no"), retry(mode="release"))
    with pytest.raises(ConfigError) as caught:
        run(handled(bus, 1))
    assert str(caught.value) == (
        "retry(mode='release') on handler charge: the subscription orders/billing is ordered, and a released event "
        "loses its place. Use mode='hold', subscribe with ordered=False, or confirm with gives_up_order=True."
    )
    confirmed = Bus(MemoryBroker(), source="shop")
    seen = failing(confirmed, lambda: OSError("no"), retry(3, mode="release", first=0.001, gives_up_order=True))
    run(handled(confirmed, 1))
    assert seen == [1, 2, 3]
    assert confirmed.subscriptions[0].stats.released == 2


class Releaseless:
    """A broker that cannot release."""

    def make_adapter(self, context: Any) -> Any:
        adapter = AdapterWrapper(MemoryBroker().make_adapter(context))
        adapter.capabilities = replace(adapter.capabilities, release=Support.ABSENT)
        return adapter


def test_where_the_broker_cannot_release(run: Any, handled: Any) -> None:
    bus = Bus(Releaseless(), source="shop")
    failing(bus, lambda: OSError("no"), retry(mode="release"), ordered=False)
    with pytest.raises(CapabilityError) as caught:
        run(handled(bus, 1))
    assert str(caught.value) == "retry(mode='release'): the memory adapter has no 'release'. Use mode='hold'."
    bus = Bus(Releaseless(), source="shop")
    seen = failing(bus, lambda: OSError("no"), quick, ordered=False)
    run(handled(bus, 1))
    assert seen == [1, 2, 3]


def test_a_wait_ends_at_shutdown_without_using_up_an_attempt(run: Any, until: Any) -> None:
    broker = MemoryBroker()
    attempts: list[int] = []

    def service() -> Bus:
        bus = Bus(broker, source="shop")

        @bus.subscribe("orders", group="billing")
        @retry(attempts=3, first=30.0, factor=1.0)
        async def charge(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if len(attempts) == 1:
                raise Retry(after=60.0)

        return bus

    async def main() -> None:
        first = service()
        await first.start()
        await first.publish("orders", 1, type="order.v1")
        await until(lambda: first.subscriptions[0].stats.retried)
        begin = asyncio.get_running_loop().time()
        await first.close()
        assert asyncio.get_running_loop().time() - begin < 2.0
        async with service() as second:
            await settled(second)

    run(main())
    assert attempts == [1, 2]


# ------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"attempts": 0}, "retry(attempts=): 0 is not a number of starts. Use 1 (no retry) or more."),
        ({"attempts": True}, "retry(attempts=): True is not a number of starts"),
        ({"attempts": 2.5}, "retry(attempts=): 2.5 is not a number of starts"),
        ({"mode": "wait"}, "retry(mode=): 'wait' is not a mode. Use 'hold' or 'release'."),
        ({"first": -1}, "retry(first=): -1 is not a number of seconds. Use 0 or more."),
        ({"first": float("nan")}, "retry(first=): nan is not a number of seconds"),
        ({"cap": float("inf")}, "retry(cap=): inf is not a number of seconds"),
        ({"factor": 0.5}, "retry(factor=): 0.5 makes waits shorter. Use 1 or more."),
        ({"on": "OSError"}, "retry(on=): 'O' is neither an exception class nor a function. Give classes, such as"),
        ({"on": [OSError("x")]}, "retry(on=): OSError('x') is neither an exception class nor a function"),
        ({"give_up_on": int}, "retry(give_up_on=): <class 'int'> is neither an exception class nor a function"),
        ({"on": KeyboardInterrupt}, "retry(on=): <class 'KeyboardInterrupt'> is neither an exception class nor a"),
        ({"per": {int: retry()}}, "retry(per=): <class 'int'> is neither an exception class nor a function"),
        ({"per": {OSError: 3}}, "retry(per=): 3 is not a retry. Give retry(…)."),
        ({"per": {OSError: retry(on=OSError)}}, "retry(per=): has on, give_up_on or per of its own"),
        ({"then": 60}, "retry(then=): 60 is not a retry"),
        ({"then": retry(give_up_on=OSError)}, "retry(then=): has on, give_up_on or per of its own"),
        ({"then": retry(for_=60)}, "retry(then=): has for_ of its own. Give for_ to the outer retry: it bounds both."),
        ({"delays": []}, "retry(delays=): is empty. Give a number of seconds, or a list of them."),
        ({"delays": -1}, "retry(delays=): -1 is not a number of seconds. Use 0 or more."),
        ({"delays": [1, "2"]}, "retry(delays=): '2' is not a number of seconds"),
        ({"delays": "60"}, "retry(delays=): '6' is not a number of seconds"),
        ({"delays": 1, "cap": 60.0}, "retry(delays=): is given with first, factor or cap"),
        ({"for_": float("inf")}, "retry(for_=): inf is not a number of seconds"),
        ({"longest_after": True}, "retry(longest_after=): True is not a number of seconds"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        retry(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize("after", [-1, float("inf"), float("nan")])
def test_a_senseless_wait(after: float) -> None:
    with pytest.raises(ConfigError, match=r"Retry\(after=\): .* is not a number of seconds of 0 or more"):
        Retry(after=after)


def test_the_exhausted_error_is_one_of_ours() -> None:
    assert issubclass(AttemptsExhausted, AnybrokerError)
