"""Handlers: what a signature may ask for, what is said where it cannot be served, and which handler an event gets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from anybroker import BatchFailed, Bus, ConfigError, Delivery, Event, MemoryBroker, StateError, event_type
from anybroker.errors import DecodeError
from anybroker.handlers import read_handler
from anybroker.handlers.provide import Providers
from anybroker.middleware import dead_letter, retry
from anybroker.testing import Recorder, settled

if TYPE_CHECKING:
    from decimal import Decimal


@event_type("order.placed.v1")
class Placed(BaseModel):
    order_id: str
    cents: int


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


PLACED = Placed(order_id="o-1", cents=999)


async def handle(bus: Bus, *payloads: Any, **options: Any) -> list[Any]:
    """Publishes to "orders", waits until all is done; the dead letters of "billing"."""
    async with bus:
        for payload in payloads:
            await bus.publish("orders", payload, **options)
        await settled(bus)
        count = bus.subscriptions[0].stats.dead_lettered
        return await bus.dead_letters("orders", "billing").list(count) if count else []


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
        (b"{", {"datacontenttype": "application/json"}, "undecodable: the data is no Placed: data: Invalid JSON"),
        (b"\xff\xfe", {}, "undecodable: the data is no Placed: "),
        ({"cents": 1}, {}, "undecodable: the data is no Placed: order_id: Field required"),
        (None, {}, "undecodable: the data is no Placed: data: Input should be an object"),
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


# ------------------------------------------------------------------------------------------------------------ batch


@pytest.mark.parametrize("form", ["payloads", "events", "typed events", "sequence"])
def test_batch_forms(bus: Bus, run: Any, form: str) -> None:
    seen: list[Any] = []
    annotation = {
        "payloads": list[Placed],
        "events": list[Event],
        "typed events": list[Event[Placed]],
        "sequence": Sequence[Placed],
    }[form]

    async def charge(orders: Any) -> None:
        seen.append(orders)

    charge.__annotations__["orders"] = annotation
    bus.subscribe("orders", group="billing", batch=3, within=0.05)(charge)
    payloads = [Placed(order_id=str(number), cents=number) for number in range(7)]
    assert run(handle(bus, *payloads)) == []
    assert [len(batch) for batch in seen] == [3, 3, 1]
    items = [item for batch in seen for item in batch]
    if form in ("payloads", "sequence"):
        assert items == payloads
    elif form == "typed events":
        assert [item.data for item in items] == payloads
    else:
        assert [item.data for item in items] == [payload.model_dump() for payload in payloads]


def test_of_a_batch_only_what_failed_is_retried(bus: Bus, run: Any) -> None:
    seen: list[list[int]] = []

    @bus.subscribe("orders", group="billing", batch=4, within=0.05)
    @retry(attempts=2, first=0.0)
    async def charge(numbers: list[int]) -> None:
        seen.append(numbers)
        failures = {index: OSError(f"no {number}") for index, number in enumerate(numbers) if number % 2}
        if failures:
            raise BatchFailed(failures)

    letters = run(handle(bus, 0, 1, 2, 3, type="number.v1"))
    assert seen[0] == [0, 1, 2, 3]
    assert sorted(number for batch in seen[1:] for number in batch) == [1, 3]
    assert sorted(letter.reason for letter in letters) == ["OSError: no 1", "OSError: no 3"]
    assert [letter.attempts for letter in letters] == [2, 2]


def test_an_item_that_cannot_be_decoded_is_not_in_the_batch(bus: Bus, run: Any) -> None:
    seen: list[list[int]] = []

    @bus.subscribe("orders", group="billing", batch=3, within=0.05)
    async def charge(numbers: list[int]) -> None:
        seen.append(numbers)

    (letter,) = run(handle(bus, 1, "two", 3, type="number.v1"))
    assert seen == [[1, 3]]
    assert letter.event.data == "two"


def test_a_failure_of_the_whole_batch_is_each_ones(bus: Bus, run: Any) -> None:
    starts: list[int] = []

    @bus.subscribe("orders", group="billing", batch=3, within=0.05)
    @retry(attempts=1)
    async def charge(numbers: list[int]) -> None:
        starts.append(len(numbers))
        raise OSError("all")

    letters = run(handle(bus, 1, 2, 3, type="number.v1"))
    assert starts == [3]
    assert len(letters) == 3


def test_failures_of_items_that_are_not_there(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=2, within=0.05)
    @retry(attempts=1)
    async def charge(numbers: list[int]) -> None:
        raise BatchFailed({5: OSError("no")})

    letters = run(handle(bus, 1, 2, type="number.v1"))
    assert {letter.reason for letter in letters} == {
        "ConfigError: BatchFailed(failures): names 5, and the batch has 2 items"
    }


def test_no_failures_is_no_failure() -> None:
    with pytest.raises(ConfigError, match=r"BatchFailed\(failures\): is empty. Return from the handler"):
        BatchFailed({})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 0}, "subscription orders/billing, batch=: 0 is no number of events of 1 or more"),
        ({"batch": True}, "batch=: True is no number"),
        ({"batch": 2, "within": 0}, "subscription orders/billing, within=: 0 is no number of seconds over 0"),
    ],
)
def test_wrong_batch_settings(bus: Bus, options: Any, text: str) -> None:
    async def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError) as caught:
        bus.subscribe("orders", group="billing", **options)(charge)
    assert text in str(caught.value)


def test_a_plain_def_batch_handler_is_refused(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=2, name="charge")
    def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"handler charge: is a plain 'def' with batch=\. Make it 'async def'"):
        run(bus.start())


def test_more_in_a_batch_than_in_flight(bus: Bus, run: Any) -> None:
    @bus.subscribe("orders", group="billing", batch=50, max_in_flight=10)
    async def charge(numbers: list[int]) -> None: ...

    with pytest.raises(ConfigError, match=r"max_in_flight=: 10 is less than batch=50. Raise it to the batch"):
        run(bus.start())


# -------------------------------------------------------------------------------------------------------- plain def


def test_a_plain_def_runs_in_a_thread_and_publishes_from_it(bus: Bus, run: Any) -> None:
    threads: list[int] = []
    recorder = Recorder(bus, "invoices")

    @bus.subscribe("orders", group="billing")
    def charge(order: Placed, event: Event, *, delivery: Delivery) -> None:
        threads.append(threading.get_ident())
        bus.from_thread.publish("invoices", {"cents": order.cents}, type="invoice.v1")

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("orders", PLACED)
            (invoice,) = await recorder.wait(1)
            assert receipt.event is not None
            assert invoice["causationid"] == receipt.event.id

    run(main())
    assert threads
    assert threads[0] != threading.get_ident()


def test_a_plain_def_that_fails_is_retried(bus: Bus, run: Any) -> None:
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=3, first=0.0)
    def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise OSError("no")

    (letter,) = run(handle(bus, 1, type="number.v1"))
    assert attempts == [1, 2, 3]
    assert letter.reason == "OSError: no"


def test_a_plain_def_keeps_its_event_until_it_returns(run: Any) -> None:
    """It cannot be cancelled: close waits for it although the drain time is over."""
    broker = MemoryBroker()
    running, go = threading.Event(), threading.Event()
    done: list[str] = []

    def service(name: str) -> Bus:
        bus = Bus(broker, source="shop")

        @bus.subscribe("orders", group="billing")
        def charge(number: int) -> None:
            running.set()
            assert go.wait(10)
            done.append(name)

        return bus

    async def main() -> None:
        bus = service("first")
        await bus.start()
        await bus.publish("orders", 1, type="number.v1")
        await asyncio.to_thread(running.wait, 10)
        closing = asyncio.create_task(bus.close(0))
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        go.set()
        await closing
        assert done == ["first"]

    run(main())


def test_from_thread_in_the_loops_own_thread_or_before_the_start(bus: Bus, run: Any) -> None:
    with pytest.raises(StateError, match="from_thread: the Bus is not started"):
        bus.from_thread.publish("orders", PLACED)

    async def main() -> None:
        async with bus:
            with pytest.raises(StateError, match=r"Use 'await bus\.publish"):
                bus.from_thread.publish("orders", PLACED)

    run(main())


# ---------------------------------------------------------------------------------------------------------- provide


class Connection:
    def __init__(self, name: str) -> None:
        self.name = name
        self.open = True


@pytest.mark.parametrize("scope", ["process", "delivery"])
@pytest.mark.parametrize("form", ["value", "awaitable", "context manager", "async context manager"])
def test_what_is_provided(run: Any, form: str, scope: Any) -> None:
    made: list[Connection] = []
    seen: list[tuple[Connection, bool]] = []

    def value() -> Connection:
        made.append(Connection(str(len(made))))
        return made[-1]

    async def awaitable() -> Connection:
        await asyncio.sleep(0)
        return value()

    @contextmanager
    def manager() -> Iterator[Connection]:
        connection = value()
        yield connection
        connection.open = False

    @asynccontextmanager
    async def async_manager() -> AsyncIterator[Connection]:
        connection = value()
        yield connection
        await asyncio.sleep(0)
        connection.open = False

    factories: dict[str, Callable[[], Any]] = {
        "value": value,
        "awaitable": awaitable,
        "context manager": manager,
        "async context manager": async_manager,
    }
    bus = Bus(MemoryBroker(), source="shop")
    bus.provide(Connection, factories[form], scope=scope)

    @bus.subscribe("orders", group="billing")
    async def charge(number: int, connection: Connection, event: Event) -> None:
        seen.append((connection, connection.open))

    @bus.subscribe("orders", group="stock")
    def reserve(connection: Connection, number: int) -> None:
        seen.append((connection, connection.open))

    assert run(handle(bus, 1, 2, type="number.v1")) == []
    assert len(seen) == 4
    assert all(was_open for _, was_open in seen)
    assert len(made) == (1 if scope == "process" else 4)
    assert [connection.open for connection in made] == ["manager" not in form] * len(made)


def test_what_is_provided_for_a_delivery_sees_its_failure(bus: Bus, run: Any) -> None:
    ends: list[str] = []

    @asynccontextmanager
    async def session() -> AsyncIterator[Connection]:
        try:
            yield Connection("x")
        except OSError:
            ends.append("rolled back")
            raise
        ends.append("committed")

    bus.provide(Connection, session, scope="delivery")

    @bus.subscribe("orders", group="billing")
    @retry(attempts=2, first=0.0)
    async def charge(connection: Connection, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise OSError("no")

    assert run(handle(bus, 1, type="number.v1")) == []
    assert ends == ["rolled back", "committed"]


def test_a_batch_handler_may_ask_for_what_is_provided(bus: Bus, run: Any) -> None:
    seen: list[Any] = []
    bus.provide(Clock, Clock)

    @bus.subscribe("orders", group="billing", batch=2, within=0.05)
    async def charge(clock: Clock, numbers: list[int]) -> None:
        seen.append((type(clock), numbers))

    run(handle(bus, 1, 2, type="number.v1"))
    assert seen == [(Clock, [1, 2])]


def test_a_factory_that_fails_is_the_handlers_failure(bus: Bus, run: Any) -> None:
    def broken() -> Connection:
        raise OSError("no database")

    bus.provide(Connection, broken, scope="delivery")

    @bus.subscribe("orders", group="billing")
    @retry(attempts=2, first=0.0)
    async def charge(connection: Connection) -> None: ...

    (letter,) = run(handle(bus, 1, type="number.v1"))
    assert (letter.reason, letter.attempts) == ("OSError: no database", 2)


def test_a_factory_of_the_process_that_fails_fails_the_start(bus: Bus, run: Any) -> None:
    def broken() -> Connection:
        raise OSError("no database")

    bus.provide(Connection, broken)
    with pytest.raises(OSError, match="no database"):
        run(bus.start())


def test_wrong_provisions(bus: Bus) -> None:
    bus.provide(Clock, Clock)
    with pytest.raises(ConfigError, match=r"is registered already\. Register each type once"):
        bus.provide(Clock, Clock)
    with pytest.raises(ConfigError, match=r"the factory is not callable\. Give a function without arguments"):
        bus.provide(Connection, 7)  # type: ignore[arg-type] # that is what is refused
    with pytest.raises(ConfigError, match=r"'request' is no scope\. Use 'process' or 'delivery'"):
        bus.provide(Connection, Connection, scope="request")  # type: ignore[arg-type] # that is what is refused
