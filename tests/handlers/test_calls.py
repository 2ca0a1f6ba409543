"""Calling a handler: what it returns is awaited, and what it raises is a failed start, whatever form either has."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper, wraps
from typing import Any

import pytest
from pydantic import BaseModel

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker
from anybroker.handlers import read_handler
from anybroker.handlers.provide import Providers
from anybroker.middleware import Handler, dead_letter, middleware, publish_middleware, retry
from anybroker.testing import settled


class Order(BaseModel):
    number: int


class Clock:
    pass


class Connection:
    pass


ran: list[int] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


async def handled(bus: Bus, *numbers: int) -> list[str]:
    """Publishes to "orders", waits until all is settled; the reasons of the dead letters of "billing"."""
    async with bus:
        for number in numbers or (1,):
            await bus.publish("orders", Order(number=number), type="order.v1")
        await settled(bus)
        count = bus.subscriptions[0].stats.dead_lettered
        letters = await bus.dead_letters("orders", "billing").list(count) if count else []
        return [letter.reason for letter in letters]


async def work(order: Order) -> None:
    await asyncio.sleep(0)
    ran.append(order.number)


def plain_wrapper_with_wraps() -> Any:
    @wraps(work)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    return inner


def plain_wrapper_with_its_own_annotations() -> Any:
    def inner(order: Order) -> Any:
        return work(order)

    return inner


def async_wrapper_around_a_def() -> Any:
    def bookkeeping(order: Order) -> None:
        """What is wrapped."""

    @wraps(bookkeeping)
    async def inner(order: Order) -> None:
        await work(order)

    return inner


def async_wrapper_that_forgets_the_await() -> Any:
    @wraps(work)
    async def inner(order: Order) -> Any:
        return work(order)

    return inner


class PlainCall:
    def __call__(self, order: Order) -> Coroutine[Any, Any, None]:
        return work(order)


class AsyncCall:
    async def __call__(self, order: Order) -> None:
        await work(order)


class ObjectThatWraps:
    """As decorators are that are classes."""

    def __init__(self, function: Any) -> None:
        self.function = function
        update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class AnAwaitable:
    def __init__(self, order: Order) -> None:
        self.order = order

    def __await__(self) -> Any:
        return work(self.order).__await__()


def def_that_returns_an_awaitable() -> Any:
    def inner(order: Order) -> AnAwaitable:
        return AnAwaitable(order)

    return inner


def async_def_that_returns_a_task() -> Any:
    async def inner(order: Order) -> Any:
        return asyncio.create_task(work(order))

    return inner


def async_def_with_the_delivery_that_forgets_the_await() -> Any:
    async def inner(delivery: Delivery) -> Any:
        return work(Order.model_validate(delivery.event.data))

    return inner


def with_what_is_provided() -> Any:
    def inner(order: Order, clock: Clock) -> Any:
        return work(order)

    return inner


FORMS: dict[str, Callable[[], Any]] = {
    "plain wrapper with wraps": plain_wrapper_with_wraps,
    "plain wrapper with its own annotations": plain_wrapper_with_its_own_annotations,
    "async wrapper around a def": async_wrapper_around_a_def,
    "async wrapper that forgets the await": async_wrapper_that_forgets_the_await,
    "object with a plain __call__": PlainCall,
    "object with an async __call__": AsyncCall,
    "object that wraps": lambda: ObjectThatWraps(work),
    "partial of an async def": lambda: partial(work),
    "partial of a plain wrapper": lambda: partial(plain_wrapper_with_its_own_annotations()),
    "partial of a wrapper with wraps": lambda: partial(plain_wrapper_with_wraps()),
    "partial of an object with a plain __call__": lambda: partial(PlainCall()),
    "partial of an object with an async __call__": lambda: partial(AsyncCall()),
    "def that returns an awaitable": def_that_returns_an_awaitable,
    "async def that returns a task": async_def_that_returns_a_task,
    "async def with the delivery that forgets the await": async_def_with_the_delivery_that_forgets_the_await,
    "with what is provided": with_what_is_provided,
}


@pytest.mark.parametrize("form", FORMS)
def test_what_a_call_returns_is_awaited(bus: Bus, run: Any, form: str) -> None:
    bus.provide(Clock, Clock)
    bus.subscribe("orders", group="billing", name="charge")(FORMS[form]())
    assert run(handled(bus, 1, 2)) == []
    assert sorted(ran) == [1, 2]


async def work_on_all(orders: list[Order]) -> None:
    await asyncio.sleep(0)
    ran.extend(order.number for order in orders)


def batch_wrapper() -> Any:
    @wraps(work_on_all)
    def inner(orders: list[Order]) -> Any:
        return work_on_all(orders)

    return inner


def batch_that_forgets_the_await() -> Any:
    async def inner(orders: list[Order]) -> Any:
        return work_on_all(orders)

    return inner


@pytest.mark.parametrize("form", [batch_wrapper, batch_that_forgets_the_await, lambda: partial(work_on_all)])
def test_what_a_batch_call_returns_is_awaited(bus: Bus, run: Any, form: Any) -> None:
    bus.subscribe("orders", group="billing", name="charge", batch=2, within=0.05)(form())
    assert run(handled(bus, 1, 2)) == []
    assert sorted(ran) == [1, 2]


def test_a_wrapper_that_does_not_return_what_it_called_is_a_failure(bus: Bus, run: Any) -> None:
    @wraps(work)
    def inner(order: Order) -> None:
        work(order).close()

    bus.subscribe("orders", group="billing", name="charge", middleware=[retry(attempts=1)])(inner)
    assert run(handled(bus)) == [
        "TypeError: handler charge: the wrapper around an 'async def' returned NoneType, so nothing of the handler was "
        "awaited. Return what the wrapped function returns, or make the wrapper 'async def'"
    ]


def generator_from_a_def() -> Any:
    def steps(order: Order) -> Iterator[int]:
        yield order.number

    def inner(order: Order) -> Any:
        return steps(order)

    return inner


def generator_from_an_async_def() -> Any:
    async def steps(order: Order) -> AsyncIterator[int]:
        yield order.number

    async def inner(order: Order) -> Any:
        return steps(order)

    return inner


@pytest.mark.parametrize("form", [generator_from_a_def, generator_from_an_async_def])
def test_a_generator_is_a_failure(bus: Bus, run: Any, form: Any) -> None:
    bus.subscribe("orders", group="billing", name="charge", middleware=[retry(attempts=1)])(form())
    (reason,) = run(handled(bus))
    assert reason.startswith("TypeError: handler charge: returned a generator, of which nothing has run")


def test_generator_functions_are_refused_unless_a_coroutine_function_consumes_them() -> None:
    async def steps(order: Order) -> AsyncIterator[int]:
        yield order.number

    @wraps(steps)
    def passes_on(order: Order) -> Any:
        return steps(order)

    @wraps(steps)
    async def consumes(order: Order) -> None:
        async for _ in steps(order):
            pass

    for function in (steps, passes_on, partial(steps)):
        with pytest.raises(ConfigError, match="is a generator"):
            read_handler(function, providers=Providers(), name="charge")
    assert read_handler(consumes, providers=Providers()).is_async


# ------------------------------------------------------------------------------------------------ what it raises


class Odd(BaseException):
    pass


RAISED = [
    (StopIteration("x"), "HandlerExit: handler charge raised StopIteration: x"),
    (StopAsyncIteration(), "HandlerExit: handler charge raised StopAsyncIteration"),
    (SystemExit(3), "HandlerExit: handler charge raised SystemExit: 3"),
    (KeyboardInterrupt(), "HandlerExit: handler charge raised KeyboardInterrupt"),
    (GeneratorExit(), "HandlerExit: handler charge raised GeneratorExit"),
    (asyncio.CancelledError(), "HandlerExit: handler charge raised CancelledError"),
    (Odd("x"), "HandlerExit: handler charge raised Odd: x"),
    (concurrent.futures.CancelledError(), "CancelledError: "),
    (concurrent.futures.InvalidStateError("x"), "InvalidStateError: x"),
]


@pytest.mark.parametrize(("raised", "reason"), RAISED, ids=lambda value: type(value).__name__)
def test_whatever_a_plain_def_raises_is_a_failed_start(bus: Bus, run: Any, raised: Any, reason: str) -> None:
    starts: list[int] = []

    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @retry(attempts=2, first=0.0)
    def charge(order: Order, delivery: Delivery) -> None:
        starts.append(delivery.attempt)
        if order.number == 1:
            raise raised
        ran.append(order.number)

    assert run(handled(bus, 1, 2)) == [reason]
    assert (sorted(starts), ran) == ([1, 1, 2], [2])


# ------------------------------------------------------------------------------------------- parameters by name


def test_a_parameter_that_keeps_its_default_shifts_nothing(bus: Bus, run: Any) -> None:
    seen: list[Any] = []

    @bus.subscribe("orders", group="billing", name="one")
    async def one(clock=None, order: Order = None) -> None:  # type: ignore[no-untyped-def, assignment] # what is tested
        seen.append((clock, order))

    @bus.subscribe("orders", group="b", name="two")
    async def two(order: Order, clock=None, event: Event = None) -> None:  # type: ignore[no-untyped-def, assignment]
        seen.append((clock, order, event.type))

    @bus.subscribe("orders", group="c", name="three")
    async def three(clock=None, order: Order = None, event: Event = None) -> None:  # type: ignore[no-untyped-def, assignment]
        seen.append((clock, order, event.type))

    @bus.subscribe("orders", group="d", name="four")
    def four(clock=None, order: Order = None) -> None:  # type: ignore[no-untyped-def, assignment]
        seen.append((clock, order))

    @bus.subscribe("orders", group="e", name="five")
    async def five(clock=None, delivery: Delivery = None) -> None:  # type: ignore[no-untyped-def, assignment]
        seen.append((clock, delivery.event.type))

    @bus.subscribe("orders", group="f", name="six", batch=1)
    async def six(clock=None, orders: list[Order] = ()) -> None:  # type: ignore[no-untyped-def, assignment]
        seen.append((clock, *orders))

    assert run(handled(bus)) == []
    order = Order(number=1)
    assert sorted(seen, key=repr) == sorted(
        [
            *[(None, order)] * 3,
            *[(None, order, "order.v1")] * 2,
            (None, "order.v1"),
        ],
        key=repr,
    )


# ------------------------------------------------------------------------------------------------ what is provided


def test_what_is_provided_cannot_swallow_the_handlers_failure(run: Any) -> None:
    @contextmanager
    def forgiving() -> Iterator[Connection]:
        try:
            yield Connection()
        except OSError:
            pass  # returning here tells 'with' that the exception is dealt with

    async def charge(order: Order, connection: Connection) -> None:
        raise OSError("no")

    def reserve(order: Order, connection: Connection) -> None:
        raise OSError("no")

    async def charge_all(orders: list[Order], connection: Connection) -> None:
        raise OSError("no")

    options: dict[Any, dict[str, Any]] = {charge: {}, reserve: {}, charge_all: {"batch": 1}}
    for function, more in options.items():
        bus = Bus(MemoryBroker(), source="shop")
        bus.provide(Connection, forgiving, scope="delivery")
        bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)], **more)(function)
        assert run(handled(bus)) == ["OSError: no"], function


def test_factories_that_are_generators_are_refused(bus: Bus) -> None:
    def session() -> Iterator[Connection]:
        yield Connection()

    async def async_session() -> AsyncIterator[Connection]:
        yield Connection()

    with pytest.raises(
        ConfigError,
        match=r"generator function.* Decorate it with @contextlib\.context",
    ):
        bus.provide(Connection, session)
    with pytest.raises(ConfigError, match=r"Decorate it with @contextlib\.asynccontextmanager"):
        bus.provide(Connection, async_session)


def test_a_factory_that_forgets_the_await_gives_the_value(bus: Bus, run: Any) -> None:
    seen: list[Any] = []

    async def connect() -> Connection:
        return Connection()

    async def forgets() -> Any:
        return connect()

    def steps() -> Any:
        return (Clock() for _ in range(1))

    bus.provide(Connection, forgets, scope="delivery")
    bus.provide(Clock, steps, scope="delivery")

    @bus.subscribe("orders", group="stock")
    async def reserve(order: Order, connection: Connection) -> None:
        seen.append(type(connection))

    @bus.subscribe("orders", group="billing")
    @retry(attempts=1)
    async def charge(order: Order, clock: Clock) -> None:
        seen.append(type(clock))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", Order(number=1), type="order.v1")
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert "returned a generator" in letter.reason

    run(main())
    assert seen == [Connection]


# ---------------------------------------------------------------------------------------------------- middleware


@middleware
async def returns_instead_of_awaiting(delivery: Delivery, call_next: Handler) -> Any:
    return call_next(delivery)


def plain_composer(call_next: Handler) -> Handler:
    async def handler(delivery: Delivery) -> Any:
        return call_next(delivery)

    return handler


@pytest.mark.parametrize("item", [returns_instead_of_awaiting, plain_composer])
def test_a_middleware_that_returns_the_call_has_it_awaited(run: Any, item: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", middleware=[item])
    bus.subscribe("orders", group="billing")(work)
    assert run(handled(bus)) == []
    assert ran == [1]


def test_a_middleware_that_calls_and_forgets_is_a_failure(run: Any) -> None:
    @middleware
    async def forgets(delivery: Delivery, call_next: Handler) -> None:
        call_next(delivery)

    bus = Bus(MemoryBroker(), source="shop", middleware=[forgets])
    bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])(work)
    assert run(handled(bus)) == ["TypeError: middleware forgets: called call_next(delivery) and did not await it"]
    assert ran == []


def test_a_plain_middleware_that_makes_no_handler_is_refused_at_the_start(run: Any) -> None:
    def broken(call_next: Handler) -> Any:
        """Forgets to return."""

    bus = Bus(MemoryBroker(), source="shop", middleware=[broken])
    bus.subscribe("orders", group="billing")(work)
    with pytest.raises(ConfigError, match=r"middleware broken: returned None instead of a handler"):
        run(bus.start())


def test_a_publish_middleware_that_returns_the_call_has_it_awaited(run: Any) -> None:
    @publish_middleware
    async def stamp(outgoing: Any, call_next: Any) -> Any:
        return call_next(outgoing)

    bus = Bus(MemoryBroker(), source="shop", publish_middleware=[stamp])
    bus.subscribe("orders", group="billing")(work)
    assert run(handled(bus)) == []
    assert ran == [1]


def test_a_publish_middleware_that_returns_no_receipt_is_said(run: Any) -> None:
    @publish_middleware
    async def stamp(outgoing: Any, call_next: Any) -> Any:
        await call_next(outgoing)

    async def main() -> None:
        async with Bus(MemoryBroker(), source="shop", publish_middleware=[stamp]) as bus:
            with pytest.raises(TypeError, match="publish middleware stamp returned NoneType where a Receipt is needed"):
                await bus.publish("orders", 1, type="order.v1")

    run(main())
