"""What handlers may ask for besides the event: values that the user registered under a type."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any, Literal, TypeAlias, TypeVar

from ..errors import ConfigError

__all__ = ["Provided", "Providers"]

_T = TypeVar("_T")
Scope = Literal["process", "delivery"]


class ProvidedStack(AsyncExitStack):
    """Ends what was provided to one start of a handler. An exception always propagates: if a context manager could
    swallow it, the event would be acknowledged."""

    async def __aexit__(self, *details: Any) -> Literal[False]:
        """Ends all of them, and lets the exception through."""
        await super().__aexit__(*details)
        return False


Provided: TypeAlias = _T | Awaitable[_T] | AbstractContextManager[_T] | AbstractAsyncContextManager[_T]
"""What a factory may return: the value, an awaitable of it, or a context manager that gives it."""


class Providers:
    """Factories by type. A factory returns the value, an awaitable of it, or a context manager around it."""

    def __init__(self) -> None:
        self._factories: dict[Any, tuple[Callable[[], Any], Scope]] = {}
        self._values: dict[Any, Any] = {}

    def register(self, kind: Any, factory: Callable[[], Any], scope: Scope) -> None:
        """Raises ConfigError for a second factory of the type, or one that cannot be called."""
        if kind in self._factories:
            raise ConfigError(f"bus.provide({kind!r})", "is registered already", "Register each type once.")
        if not callable(factory):
            raise ConfigError(
                f"bus.provide({kind!r})", "the factory is not callable", "Give a function without arguments."
            )
        if inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory):
            decorator = "asynccontextmanager" if inspect.isasyncgenfunction(factory) else "contextmanager"
            raise ConfigError(
                f"bus.provide({kind!r})",
                "the factory is a generator function, which does not return the value",
                f"Decorate it with @contextlib.{decorator}.",
            )
        if scope not in ("process", "delivery"):
            raise ConfigError(
                f"bus.provide({kind!r}, scope=)", f"{scope!r} is not a scope", "Use 'process' or 'delivery'."
            )
        self._factories[kind] = (factory, scope)

    def __contains__(self, kind: Any) -> bool:
        try:
            return kind in self._factories
        except TypeError:  # an annotation that cannot be hashed was never registered
            return False

    async def start(self, stack: AsyncExitStack) -> None:
        """Create the values that live as long as the Bus; the stack ends them."""
        for kind, (factory, scope) in self._factories.items():
            if scope == "process":
                self._values[kind] = await _make(factory, stack)

    async def get(self, kind: Any, stack: AsyncExitStack) -> Any:
        """The process's value, or one for this delivery that the stack ends."""
        if kind in self._values:
            return self._values[kind]
        return await _make(self._factories[kind][0], stack)


async def _make(factory: Callable[[], Any], stack: AsyncExitStack) -> Any:
    value = factory()
    if inspect.isawaitable(value):
        value = await value
    while inspect.iscoroutine(value):  # an 'async def' that forgot an await: a coroutine is never the value
        value = await value
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError(f"the factory {factory!r} returned a generator: decorate it with @contextlib.contextmanager")
    if isinstance(value, AbstractAsyncContextManager):
        return await stack.enter_async_context(value)
    if isinstance(value, AbstractContextManager):
        return stack.enter_context(value)
    return value
