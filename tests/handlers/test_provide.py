"""What handlers are provided with: its forms, its scopes, and factories that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from tests.handlers.orders import handle

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker
from anybroker.middleware import retry


class Clock:
    pass


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
    with pytest.raises(ConfigError, match=r"'request' is not a scope\. Use 'process' or 'delivery'"):
        bus.provide(Connection, Connection, scope="request")  # type: ignore[arg-type] # that is what is refused
