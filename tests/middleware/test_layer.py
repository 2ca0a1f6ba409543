"""A third party's layers: what the built-ins have, a class of one's own has too."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybroker import Bus, ConfigError, Delivery, MemoryBroker, Retry
from anybroker.middleware import (
    Chain,
    Handler,
    Layer,
    Uncounted,
    cancelled_from_outside,
    dead_letter,
    deadline,
    idempotent,
    middleware,
    retry,
    retry_budget,
    timeout,
    trace,
)
from anybroker.middleware.compose import arrange
from anybroker.middleware.layer import kind_of


class noting(Layer):  # noqa: N801 - used as a decorator
    """Notes its kind when it is entered."""

    kind = "noting"
    after = "retry"
    before = "timeout"

    def __init__(self, seen: list[str] | None = None) -> None:
        self.seen = [] if seen is None else seen

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        async def run(delivery: Delivery) -> None:
            self.seen.append(self.kind)
            await call_next(delivery)

        return run


class tenant(noting):  # noqa: N801
    kind = "tenant"
    after: Any = ()
    before = "trace"


class quota(noting):  # noqa: N801
    kind = "quota"
    after: Any = ("tenant", "dead_letter")
    before = "retry"


class plain(noting):  # noqa: N801
    """Without a place."""

    kind = "plain"
    after: Any = ()
    before: Any = ()


@middleware
async def audit(delivery: Delivery, call_next: Handler) -> None:
    await call_next(delivery)


def arranged(*stack: Any, bus: Any = (), subscription: Any = ()) -> list[str]:
    return [kind_of(item) for item in arrange("handler charge", stack, {"subscribe": subscription, "Bus": bus})]


DEFAULT = ["trace", "dead_letter", "retry"]


class TestPlaces:
    def test_between_two_built_ins(self) -> None:
        assert arranged(timeout(1), bus=[noting()]) == [*DEFAULT, "noting", "timeout"]

    def test_of_one_that_is_not_there_it_holds_for_what_is_further_out_or_in(self) -> None:
        assert arranged(idempotent(), bus=[noting()]) == [*DEFAULT, "noting", "idempotent"]

    def test_as_far_out_as_it_may(self) -> None:
        assert arranged(bus=[tenant()]) == ["tenant", *DEFAULT]

    def test_by_the_kind_of_another_third_party(self) -> None:
        expected = ["tenant", "trace", "dead_letter", "quota", "retry"]
        assert arranged(bus=[tenant(), quota()]) == expected
        assert arranged(tenant(), bus=[quota()]) == expected
        assert arranged(quota(), bus=[tenant()]) == expected

    def test_without_a_place_a_layer_is_put_where_functions_are(self) -> None:
        assert arranged(timeout(1), bus=[audit, plain(), audit]) == [*DEFAULT, "audit", "plain", "audit", "timeout"]

    def test_those_of_one_place_stay_in_their_order(self) -> None:
        class first(noting):  # noqa: N801
            kind = "first"

        assert arranged(bus=[noting(), first(), audit]) == [*DEFAULT, "noting", "first", "audit"]
        assert arranged(bus=[first(), noting(), audit]) == [*DEFAULT, "first", "noting", "audit"]

    def test_at_a_handler_it_stands_where_it_is_written(self) -> None:
        assert arranged(audit, retry(), audit, noting(), timeout(1)) == [
            *("trace", "dead_letter", "audit", "retry", "audit", "noting", "timeout")
        ]
        assert arranged(plain(), timeout(1)) == [*DEFAULT, "plain", "timeout"]

    def test_the_handlers_own_replaces_the_subscriptions_and_that_one_the_buss(self) -> None:
        own, shared, common = noting(), noting(), noting()

        def used(*stack: Any, subscription: Any = ()) -> list[Any]:
            items = arrange("handler charge", stack, {"subscribe": subscription, "Bus": [common]})
            return [item for item in items if kind_of(item) == "noting"]

        assert used(own, subscription=[shared]) == [own]
        assert used(subscription=[shared]) == [shared]
        assert used() == [common]

    def test_one_with_the_kind_of_a_built_in_takes_its_place(self) -> None:
        class patient(noting):  # noqa: N801
            kind = "retry"
            after: Any = ()
            before: Any = ()

        assert arranged(timeout(1), bus=[patient()]) == [*DEFAULT, "timeout"]
        items = arrange("handler charge", [], {"Bus": [patient()]})
        assert isinstance(items[2], patient)

    def test_an_instance_may_choose(self) -> None:
        chosen = plain()
        chosen.after = "dead_letter"
        chosen.before = "retry"
        assert arranged(bus=[chosen]) == ["trace", "dead_letter", "plain", "retry"]


class TestErrors:
    def test_the_wrong_order_at_a_handler_shows_the_right_one(self) -> None:
        with pytest.raises(ConfigError) as caught:
            arranged(noting(), audit, retry(), tenant())
        assert str(caught.value) == (
            "handler charge: its decorators stand in the order @noting, @retry, @tenant. "
            "The right order, outermost first, is:\n"
            "    @tenant(…)\n"
            "    @retry(…)\n"
            "    @noting(…)\n"
            "    async def charge(…)"
        )

    def test_the_wrong_order_in_a_list(self) -> None:
        with pytest.raises(ConfigError) as caught:
            arranged(bus=[noting(), retry()])
        assert str(caught.value) == (
            "Bus: its decorators stand in the order @noting, @retry. "
            "The right order, outermost first, is:\nmiddleware=[retry(…), noting(…)]"
        )

    @pytest.mark.parametrize("where", ["stack", "subscription", "bus"])
    def test_two_of_one_kind(self, where: str) -> None:
        stack = [noting(), noting()] if where == "stack" else []
        lists = {} if where == "stack" else {where: [noting(), noting()]}
        with pytest.raises(ConfigError, match=r"has @noting twice\. Keep one of them"):
            arranged(*stack, **lists)

    def test_an_unknown_place(self) -> None:
        wrong = noting()
        wrong.before = ("timeout", "idempotant")
        with pytest.raises(ConfigError) as caught:
            arranged(wrong)
        assert str(caught.value).startswith(
            "handler charge: @noting stands before 'idempotant', which is not a middleware. "
            "Did you mean 'idempotent'? Known: "
        )

    def test_a_place_that_is_not_text(self) -> None:
        wrong = noting()
        wrong.after = 3  # type: ignore[assignment] # that is what is refused
        with pytest.raises(ConfigError, match="middleware noting, after: 3 is not text"):
            arranged(wrong)

    def test_a_circle(self) -> None:
        wrong = noting()
        wrong.after, wrong.before = "idempotent", "retry"
        with pytest.raises(ConfigError) as caught:
            arranged(bus=[wrong])
        assert str(caught.value) == (
            "handler charge: its middleware stands in a circle: "
            "@retry inside @noting inside @idempotent inside @timeout inside @circuit inside @concurrency "
            "inside @retry. Change before or after of one of them."
        )

    def test_one_that_stands_before_itself(self) -> None:
        wrong = noting()
        wrong.before = "noting"
        with pytest.raises(ConfigError, match="in a circle: @noting inside @noting"):
            arranged(wrong)

    def test_no_kind(self) -> None:
        class nameless(Layer):  # noqa: N801
            pass

        with pytest.raises(ConfigError, match=r'middleware nameless: has no kind\. Write: kind = "nameless"\.'):
            nameless()

    def test_no_brackets(self) -> None:
        with pytest.raises(ConfigError, match=r"@noting: is written without brackets\. Write @noting\(\)"):

            @noting  # type: ignore[arg-type] # that is what is refused
            async def charge(number: int) -> None: ...

    def test_bind_that_returns_no_handler(self, bus: Bus, run: Any, handled: Any) -> None:
        class lazy(Layer):  # noqa: N801
            kind = "lazy"

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                return None  # type: ignore[return-value] # that is what is refused

        @bus.subscribe("orders", group="billing")
        @lazy()
        async def charge(number: int) -> None: ...

        with pytest.raises(ConfigError, match="middleware lazy: returned None instead of a handler"):
            run(handled(bus))

    def test_a_class_that_only_looks_like_one(self) -> None:
        class Duck:
            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                return call_next

        with pytest.raises(ConfigError, match="middleware="):
            Bus(MemoryBroker(), source="shop", middleware=[Duck()])


class TestWhatItCanDo:
    def test_it_runs_for_each_attempt_inside_of_retry(self, run: Any, handled: Any) -> None:
        seen: list[str] = []
        bus = Bus(MemoryBroker(), source="shop", middleware=[tenant(seen), noting(seen)])

        @bus.subscribe("orders", group="billing")
        @retry(attempts=2, first=0.0)
        async def charge(delivery: Delivery) -> None:
            seen.append("handler")
            if delivery.attempt == 1:
                raise OSError("no")

        assert run(handled(bus, 1)) == []
        assert seen == ["tenant", "noting", "handler"] * 2

    def test_the_chain_says_what_it_is_bound_to(self, bus: Bus, run: Any, handled: Any) -> None:
        chains: list[Chain] = []

        class looking(Layer):  # noqa: N801
            kind = "looking"

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                chains.append(chain)
                if not chain.handler.is_async:
                    raise ConfigError("looking()", f"on {chain.handler.where}, which is a plain 'def'")
                return call_next

        @bus.subscribe("orders", group="billing", ordered=False)
        @looking()
        async def charge(number: int) -> None: ...

        run(handled(bus, 1, 2))
        (chain,) = chains  # bound once, not once an event
        assert (chain.topic, chain.group, chain.ordered) == ("orders", "billing", False)
        assert (chain.handler.payload, chain.capabilities.adapter) == (int, "memory")
        assert chain.stats is bus.subscriptions[0].stats
        assert chain.lease == bus.settings.lease

    def test_what_bind_refuses_is_an_error_at_the_start(self, bus: Bus, run: Any, handled: Any) -> None:
        class durable_only(Layer):  # noqa: N801
            kind = "durable_only"

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                chain.capabilities.require("durable", setting="@durable_only()", remedy="Use a durable broker.")
                return call_next

        @bus.subscribe("orders", group="billing")
        @durable_only()
        async def charge(number: int) -> None: ...

        with pytest.raises(ConfigError, match=r"@durable_only\(\)"):
            run(handled(bus))

    def test_it_can_dead_letter_and_count(self, bus: Bus, run: Any, handled: Any) -> None:
        class only_small(Layer):  # noqa: N801
            kind = "only_small"
            before = "dead_letter"
            waits_after = False

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    if delivery.event.data > 10:
                        await chain.dead_letter(delivery, ValueError("too much"))
                        chain.stats.dead_lettered += 1
                        return
                    await call_next(delivery)

                return run

        handled_numbers: list[int] = []

        @bus.subscribe("orders", group="billing")
        @only_small()
        async def charge(number: int) -> None:
            handled_numbers.append(number)

        (letter,) = run(handled(bus, 7, 70))
        assert handled_numbers == [7]
        assert letter.reason == "ValueError: too much"

    def test_it_can_put_an_event_off_without_an_attempt_and_report_why(self, bus: Bus, run: Any, handled: Any) -> None:
        problems: list[str | None] = []
        attempts: list[int] = []

        class circuit(Layer):  # noqa: N801
            kind = "circuit"
            after = "retry"
            opened = 3

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    if self.opened:
                        self.opened -= 1
                        chain.problem("the circuit is open")
                        problems.append(bus.subscriptions[0].problem)
                        raise Uncounted(0.0, "the circuit is open")
                    chain.problem(None)
                    problems.append(bus.subscriptions[0].problem)
                    await call_next(delivery)

                return run

        @bus.subscribe("orders", group="billing")
        @retry(attempts=1)
        @circuit()
        async def charge(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)

        assert run(handled(bus, 1)) == []
        assert attempts == [1]
        assert problems == ["the circuit is open"] * 3 + [None]

    def test_a_cancellation_that_the_handler_left_behind_does_not_hit_what_it_awaits(
        self, bus: Bus, run: Any, handled: Any
    ) -> None:
        ended: list[str] = []

        class closing(Layer):  # noqa: N801
            kind = "closing"

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    await call_next(delivery)
                    await asyncio.sleep(0)
                    ended.append("well")

                return run

        @bus.subscribe("orders", group="billing")
        @closing()
        async def charge(number: int) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

        assert run(handled(bus, 1)) == []
        assert ended == ["well"]

    def test_one_that_catches_everything_can_tell_whose_cancellation_it_is(
        self, bus: Bus, run: Any, handled: Any
    ) -> None:
        class again(Layer):  # noqa: N801
            kind = "again"
            after = "retry"

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    try:
                        await call_next(delivery)
                    except BaseException as exc:
                        if cancelled_from_outside(exc, chain.giving_up):
                            raise
                        raise Retry(0.0, type(exc).__name__) from exc

                return run

        attempts: list[int] = []

        @bus.subscribe("orders", group="billing")
        @again()
        async def charge(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                raise asyncio.CancelledError  # its own
            if delivery.attempt == 2:
                raise SystemExit(3)

        assert run(handled(bus, 1)) == []
        assert attempts == [1, 2, 3]

    def test_the_decorated_function_stays_directly_callable(self) -> None:
        @noting()
        async def charge(number: int) -> int:
            return number + 1

        assert asyncio.run(charge(1)) == 2


BUILT_IN = [trace, dead_letter, retry_budget, deadline, retry, lambda: timeout(1), idempotent]
NAMES = ["trace", "dead_letter", "retry_budget", "deadline", "retry", "timeout", "idempotent"]


@given(st.data())
def test_whatever_the_places_the_chain_keeps_them(data: st.DataObject) -> None:
    """Any layers, some at the handler and some at the Bus: all are there, and each stands where it says."""
    kinds = ["noting", "tenant", "quota", "plain"]
    line = list(NAMES)
    for kind in kinds:
        line.insert(data.draw(st.integers(0, len(line))), kind)
    layers: dict[str, Layer] = {}
    for cls in (noting, tenant, quota, plain):
        layer = layers[cls.kind] = cls()
        at = line.index(cls.kind)
        layer.after = data.draw(st.lists(st.sampled_from(line[:at]), max_size=2)) if at else ()
        layer.before = data.draw(st.lists(st.sampled_from(line[at + 1 :]), max_size=2)) if line[at + 1 :] else ()
    for name, make in zip(NAMES, BUILT_IN, strict=True):
        layers[name] = make()
    stack = data.draw(st.sets(st.sampled_from(line)))
    bus = data.draw(st.sets(st.sampled_from(line)))
    result = arranged(
        *(layers[kind] for kind in line if kind in stack), bus=[layers[kind] for kind in line if kind in bus]
    )
    assert sorted(result) == sorted({*stack, *bus, "trace", "dead_letter", "retry"})
    assert [kind for kind in result if kind in stack] == [kind for kind in line if kind in stack]
    assert [kind for kind in result if kind in NAMES] == [kind for kind in NAMES if kind in result]
    for kind in result:
        for outer in layers[kind].after:
            assert outer not in result or result.index(outer) < result.index(kind)
        for inner in layers[kind].before:
            assert inner not in result or result.index(kind) < result.index(inner)
