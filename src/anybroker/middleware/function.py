"""Middleware as a function: ``@middleware async def audit(delivery, call_next): …``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from inspect import CORO_CREATED
from typing import Any, TypeAlias, TypeVar

from ..delivery import Delivery
from ..errors import ConfigError
from ..handlers.annotations import signature
from ..handlers.signature import leftover
from .layer import Handler, Layer, Middleware, attach

__all__ = ["AnyMiddleware", "FunctionMiddleware", "from_callable", "middleware"]

_F = TypeVar("_F", bound=Callable[..., object])


class FunctionMiddleware:
    """A middleware made of a function, or of a plain ``Handler -> Handler``; decorates handlers, or goes in a list."""

    def __init__(self, name: str, compose: Middleware) -> None:
        self.__name__ = name
        self._compose = compose

    def __call__(self, function: _F, /) -> _F:
        """Attach to a handler. The function stays directly callable."""
        attach(function, self)
        return function

    def wrap(self, call_next: Handler) -> Handler:
        """The composed handler. ConfigError where the function makes none."""
        where = f"middleware {self.__name__}"
        handler: Callable[[Delivery], Awaitable[Any]] = self._compose(call_next)
        given: object = handler
        if not callable(given):
            raise ConfigError(
                where, f"returned {given!r} instead of a handler", "Return 'async def handler(delivery)'."
            )

        async def run(delivery: Delivery) -> None:
            # A handler that returns what it should have awaited would have the event acknowledged unhandled.
            if (result := await handler(delivery)) is not None:
                await leftover(where, result)

        return run

    def __repr__(self) -> str:
        return f"<middleware {self.__name__}>"


def middleware(function: Callable[[Delivery, Handler], Awaitable[None]], /) -> FunctionMiddleware:
    """Make a middleware of ``async def name(delivery, call_next)``.

    It runs around every attempt: ``await call_next(delivery)`` goes on inwards; returning is success, raising is
    failure, and not calling it ends the delivery there. Raise :class:`~anybroker.errors.Reject` or
    :class:`~anybroker.errors.Retry` to say more.

    Raises ConfigError if the function is not ``async def`` or does not take two arguments.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(f"@middleware {name}", "is not 'async def'", "Write: async def name(delivery, call_next).")
    if len(signature(function).parameters) != 2:
        raise ConfigError(
            f"@middleware {name}", "does not take two arguments", "Write: async def name(delivery, call_next)."
        )

    def compose(call_next: Handler) -> Handler:
        async def run(delivery: Delivery) -> Any:
            made: Awaitable[None] | None = None

            def go(inwards: Delivery) -> Awaitable[None]:
                nonlocal made
                made = call_next(inwards)
                return made

            result: Any = await function(delivery, go)  # type: ignore[func-returns-value] # looked at, whatever it says
            if result is None and inspect.iscoroutine(made) and inspect.getcoroutinestate(made) == CORO_CREATED:
                made.close()
                raise TypeError(f"middleware {name}: called call_next(delivery) and did not await it")
            return result  # a coroutine if it forgot to await it: see wrap()

        return run

    return FunctionMiddleware(name, compose)


AnyMiddleware: TypeAlias = Layer | FunctionMiddleware | Middleware
"""What a list of middleware takes: a layer (``retry()``), what ``@middleware`` made, or a ``Handler -> Handler``."""


def from_callable(item: AnyMiddleware) -> Layer | FunctionMiddleware:
    """An item of a middleware list: ours as it is, a plain ``Handler -> Handler`` wrapped; else ConfigError."""
    if isinstance(item, Layer | FunctionMiddleware):
        return item
    if isinstance(item, type) or not callable(item):
        raise ConfigError(
            "middleware=", f"{item!r} is not a middleware", "Call it if it is a class or factory (retry(), not retry)."
        )
    if inspect.iscoroutinefunction(item):
        raise ConfigError(
            "middleware=",
            f"{getattr(item, '__name__', item)!r} is a bare 'async def'",
            "Decorate it with @middleware: async def name(delivery, call_next).",
        )
    return FunctionMiddleware(getattr(item, "__name__", type(item).__name__), item)
