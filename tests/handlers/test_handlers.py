"""Handlers: what a signature may ask for, what is said where it cannot be served, and which handler an event gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field
from tests.handlers.orders import PLACED, Placed, handle
from typing_extensions import TypedDict

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, event_type
from anybroker.errors import DecodeError
from anybroker.handlers import read_handler
from anybroker.handlers.provide import Providers
from anybroker.middleware import dead_letter, retry
from anybroker.testing import settled

if TYPE_CHECKING:
    from decimal import Decimal


@event_type("order.cancelled.v1")
class Cancelled(BaseModel):
    order_id: str


class Unnamed(BaseModel):
    order_id: str


@dataclass
class Plain:
    order_id: str


class Typed(TypedDict):
    order_id: str


class Clock:
    pass


# ------------------------------------------------------------------------------------------- every parameter form


def test_the_forms_together(bus: Bus, run: Any) -> None:
    seen: dict[str, Any] = {}

    @bus.subscribe("orders", group="billing", name="charge")
    async def charge(
        delivery: Delivery,
        typed: Event[Placed],
        event: Event,
        *,
        order: Placed,
        clock: Clock | None = None,
        note="none",  # type: ignore[no-untyped-def]
    ) -> None:
        seen.update(delivery=delivery, typed=typed, event=event, order=order, kept=(clock, note))

    assert run(handle(bus, PLACED)) == []
    assert seen["order"] == seen["typed"].data == PLACED
    assert isinstance(seen["typed"].data, Placed)
    assert seen["event"] == seen["typed"]
    assert seen["delivery"].handler == "charge"
    assert seen["delivery"].attempt == 1
    assert (seen["delivery"].topic, seen["delivery"].group) == ("orders", "billing")
    assert seen["kept"] == (None, "none")


@pytest.mark.parametrize(
    ("annotation", "payload", "expected"),
    [
        (Placed, PLACED, PLACED),
        (Plain, Plain("o-1"), Plain("o-1")),
        (Typed, {"order_id": "o-1"}, {"order_id": "o-1"}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (int, 7, 7),
        (str, "seven", "seven"),
        (list[int], [1, 2], [1, 2]),
        (None | int, None, None),
        (bytes, b"\x00raw", b"\x00raw"),
        (bytes, {"a": 1}, b'{"a":1}'),
        (Annotated[int, Field(gt=5)], 7, 7),
        (Placed | Cancelled, Cancelled(order_id="o-2"), Cancelled(order_id="o-2")),
        (Any, {"a": [1, None]}, {"a": [1, None]}),
    ],
    ids=str,
)
def test_payloads(bus: Bus, run: Any, annotation: Any, payload: Any, expected: Any) -> None:
    seen: list[Any] = []

    async def charge(order: Any) -> None:
        seen.append(order)

    charge.__annotations__["order"] = annotation
    bus.subscribe("orders", group="billing")(charge)
    kind = None if isinstance(payload, Placed | Cancelled) else "thing.v1"
    letters = run(handle(bus, payload, type=kind))
    assert [letter.reason for letter in letters] == []
    assert seen == [expected]
    assert type(seen[0]) is type(expected)


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (
            b"{",
            {"datacontenttype": "application/json"},
            "undecodable: the data is not a valid Placed: data: Invalid JSON",
        ),
        (b"\xff\xfe", {}, "undecodable: the data is not a valid Placed: "),
        ({"cents": 1}, {}, "undecodable: the data is not a valid Placed: order_id: Field required"),
        (None, {}, "undecodable: the data is not a valid Placed: data: Input should be an object"),
        ("ABSENT", {}, "undecodable: the event has no data, and the handler asks for Placed"),
    ],
)
def test_what_does_not_fit_is_dead_lettered_at_once(bus: Bus, run: Any, data: Any, options: Any, reason: str) -> None:
    starts: list[Placed] = []

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=9)
    async def charge(order: Placed) -> None:
        starts.append(order)

    payload = () if data == "ABSENT" else (data,)

    async def main() -> Any:
        async with bus:
            await bus.publish("orders", *payload, type="order.placed.v1", **options)
            await settled(bus)
            return await bus.dead_letters("orders", "billing").list(1)

    (letter,) = run(main())
    assert starts == []
    assert letter.reason.startswith(reason)


def test_the_decode_error_shows_no_data(run: Any, bus: Bus) -> None:
    caught: list[DecodeError] = []

    class Watching(dead_letter):
        def bind(self, call_next: Any, chain: Any) -> Any:
            async def watch(delivery: Delivery) -> None:
                try:
                    await call_next(delivery)
                except DecodeError as exc:
                    caught.append(exc)

            return watch

    @bus.subscribe("orders", group="billing")
    @Watching()
    async def charge(order: Placed) -> None: ...

    run(handle(bus, {"order_id": "card 4111", "cents": "4111 1111"}, type="order.placed.v1"))
    assert "4111" not in str(caught[0])
    assert caught[0].__cause__ is None


def test_methods_callables_partials_and_wrapped_functions(run: Any) -> None:
    seen: list[str] = []

    class Service:
        async def charge(self, order: Placed) -> None:
            seen.append(f"method {order.cents}")

        async def __call__(self, order: Placed, event: Event) -> None:
            seen.append(f"object {order.cents}")

    def logged(function: Any) -> Any:
        @wraps(function)
        async def inner(*args: Any, **kwargs: Any) -> None:
            seen.append("wrapped")
            await function(*args, **kwargs)

        return inner

    @logged
    async def charge(order: Placed) -> None:
        seen.append(f"function {order.cents}")

    bus = Bus(MemoryBroker(), source="shop")
    bus.subscribe("orders", group="a", name="method")(Service().charge)
    bus.subscribe("orders", group="b", name="object")(Service())
    bus.subscribe("orders", group="c")(charge)
    run(handle(bus, PLACED))
    assert sorted(seen) == ["function 999", "method 999", "object 999", "wrapped"]
    names = [entry.spec.name for subscription in bus.subscriptions for entry in subscription._entries]
    assert names[:2] == ["method", "object"]
    assert names[2].endswith("charge")


def test_a_partial_with_a_name(run: Any, bus: Bus) -> None:
    seen: list[Any] = []

    async def charge(rate: int, order: Placed) -> None:
        seen.append((rate, order.cents))

    bus.subscribe("orders", group="billing", name="charge")(partial(charge, 3))
    assert run(handle(bus, PLACED)) == []
    assert seen == [(3, 999)]


# ------------------------------------------------------------------------------------------------ signature errors


def spec_of(function: Any, batch: bool = False, **options: Any) -> Any:
    return read_handler(function, providers=Providers(), batch=batch, **options)


async def _no_annotation(order) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001, RUF100
async def _cannot(clock: Clock) -> None: ...
async def _two(order: Placed, other: Unnamed) -> None: ...
async def _args(*orders: Placed) -> None: ...
async def _kwargs(**orders: Placed) -> None: ...
async def _unresolved(order: Decimal) -> None: ...
async def _generator(order: Placed) -> AsyncIterator[int]:
    yield 1


async def _half_declared(order: Placed | Unnamed) -> None: ...
async def _event_of_clock(event: Event[Clock]) -> None: ...
async def _defaulted_payload(order: Placed, limit: int = 7) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            _no_annotation,
            "handler _no_annotation, parameter 'order': has no annotation. Annotate it: a payload model, Event, "
            "Event[Model], Delivery, or a type registered with bus.provide().",
        ),
        (
            _cannot,
            "handler _cannot, parameter 'clock': of type Clock cannot be served. Use a pydantic model (or what "
            "pydantic can validate) for the payload, Event, Event[Model], Delivery, or register the type: "
            "bus.provide(Clock, factory).",
        ),
        (
            _two,
            "handler _two, parameter 'other': is a second payload beside 'order'. An event has one payload: put both "
            "into one model, or register one of the types with bus.provide().",
        ),
        (_args, "handler _args, parameter *orders: 'Placed': cannot be served. Name each parameter and annotate it."),
        (_kwargs, "handler _kwargs, parameter **orders: 'Placed': cannot be served."),
        (
            _unresolved,
            "handler _unresolved: an annotation cannot be resolved: name 'Decimal' is not defined. "
            "Import the type at module level, outside TYPE_CHECKING.",
        ),
        (
            _generator,
            "handler _generator: is a generator. A handler is a function that ends: 'async def' without yield.",
        ),
        (
            _half_declared,
            "handler _half_declared: its payload is a union in which Unnamed has no declared event type. Decorate each "
            "member with @event_type(…), or give type= at the subscription.",
        ),
        (_event_of_clock, "handler _event_of_clock, parameter 'event': pydantic cannot validate Clock: "),
        (_defaulted_payload, "handler _defaulted_payload, parameter 'limit': is a second payload beside 'order'."),
        (7, "handler int: 7 is not callable. Decorate a function."),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_signature_errors_name_the_parameter(function: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(function)
    assert str(caught.value).startswith(text)


async def _no_list(order: Placed) -> None: ...
async def _one_event(orders: list[Placed], event: Event) -> None: ...
async def _one_delivery(orders: list[Placed], delivery: Delivery) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            _no_list,
            "handler _no_list: is subscribed with batch= but takes no list. Annotate a parameter list[Model] or "
            "list[Event].",
        ),
        (
            _one_event,
            "handler _one_event, parameter 'event': asks for one event in a batch handler. Ask for list[Event] or "
            "list[Event[Model]].",
        ),
        (_one_delivery, "handler _one_delivery, parameter 'delivery': asks for one event in a batch handler"),
    ],
)
def test_signature_errors_of_batch_handlers(function: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(function, batch=True)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("types", [(), [""], "", [7]])
def test_types_that_name_nothing(types: Any) -> None:
    with pytest.raises(ConfigError, match=r"handler _cannot_but_default, type=: .* names no event type"):
        spec_of(_cannot_but_default, types_given=types)


async def _cannot_but_default(clock: Clock | None = None, order: int = 0) -> None: ...


def test_what_has_a_default_may_stay_unserved() -> None:
    assert [parameter.name for parameter in spec_of(_cannot_but_default).parameters] == ["order"]


def test_an_error_at_subscribe_leaves_nothing_behind(bus: Bus) -> None:
    with pytest.raises(ConfigError):
        bus.subscribe("orders", group="billing")(_cannot)
    assert bus.subscriptions == ()
    bus.subscribe("orders", group="billing")(_no_list)
    assert len(bus.subscriptions) == 1


# --------------------------------------------------------------------------------------------------------- dispatch


def test_events_go_to_the_handler_of_their_type(bus: Bus, run: Any) -> None:
    seen: list[tuple[str, Any]] = []
    subscription = bus.subscription("orders", group="billing")

    @subscription.on
    async def placed(order: Placed) -> None:
        seen.append(("placed", order.cents))

    @subscription.on(type=["other.v1", "other.v2"])
    async def other(event: Event) -> None:
        seen.append(("other", event.type))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", PLACED, key="k")
            for kind in ("other.v1", "other.v2", "unknown.v1"):
                await bus.publish("orders", 1, type=kind, key="k")
            await settled(bus)

    run(main())
    assert seen == [("placed", 999), ("other", "other.v1"), ("other", "other.v2")]
    assert subscription.stats.unhandled == 1
    assert subscription.stats.acked == 4


def test_a_handler_without_types_takes_the_rest(bus: Bus, run: Any) -> None:
    seen: list[str] = []
    subscription = bus.subscription("orders", group="billing")
    subscription.on(_noting(seen, "placed"), type="order.placed.v1", name="placed")
    subscription.on(_noting(seen, "rest"), name="rest")
    run(handle(bus, 1, 2, type="unknown.v1"))
    assert seen == ["rest", "rest"]


def _noting(seen: list[str], name: str) -> Any:
    async def note(event: Event) -> None:
        seen.append(name)

    return note


def test_two_handlers_of_one_type(bus: Bus) -> None:
    subscription = bus.subscription("orders", group="billing")
    subscription.on(_noting([], "a"), type=["a.v1", "b.v1"], name="first")
    with pytest.raises(ConfigError) as caught:
        subscription.on(_noting([], "b"), type="b.v1", name="second")
    assert str(caught.value) == (
        "subscription orders/billing, handler second: takes the event type 'b.v1', and so does first. "
        "Give each its own type=, or put them into different groups."
    )
    subscription.on(_noting([], "c"), name="third")
    with pytest.raises(ConfigError, match="handler fourth: takes every event type, and so does third"):
        subscription.on(_noting([], "d"), name="fourth")
    with pytest.raises(ConfigError, match=r"handler first: is there already\. Give one of them a name="):
        subscription.on(_noting([], "e"), type="e.v1", name="first")


def test_subscribe_is_for_one_handler(bus: Bus) -> None:
    bus.subscribe("orders", group="billing")(_no_list)
    with pytest.raises(ConfigError) as caught:
        bus.subscribe("orders", group="billing")
    assert str(caught.value) == (
        "subscription orders/billing: is there already. For several handlers: "
        "sub = bus.subscription('orders', group='billing'), then @sub.on for each."
    )


def test_a_union_is_decoded_by_type(bus: Bus, run: Any) -> None:
    seen: list[Any] = []

    @bus.subscribe("orders", group="billing")
    async def charge(order: Placed | Cancelled) -> None:
        seen.append(order)

    run(handle(bus, Cancelled(order_id="1"), PLACED))
    assert seen == [Cancelled(order_id="1"), PLACED]
