"""What a middleware is, and how a handler's chain is put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isroutine
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from ..capabilities import Capabilities
from ..delivery import Delivery
from ..engine.starting import contained
from ..errors import ConfigError
from ..stats import SubscriptionStats

if TYPE_CHECKING:
    from ..handlers.signature import HandlerSpec
    from ..idempotency._stores import Stores

__all__ = ["BuiltIn", "Chain", "Handler", "Middleware", "attached", "compose"]

Handler = Callable[[Delivery], Awaitable[None]]
"""Success is returning; failure is raising."""
Middleware = Callable[[Handler], Handler]
"""Composed once, when the subscription starts; nothing is built per message."""

_F = TypeVar("_F", bound=Callable[..., Any])
_ATTACHED = "__anybroker_middleware__"


class SendDeadLetter(Protocol):
    """Publishes the delivery to its dead-letter topic, confirmed; raises BrokerError if that fails."""

    async def __call__(self, delivery: Delivery, error: Exception, /) -> None: ...


@dataclass(frozen=True)
class Chain:
    """What a built-in middleware may know about the subscription and the handler it is composed for."""

    topic: str
    group: str
    ordered: bool
    handler: HandlerSpec
    capabilities: Capabilities
    stats: SubscriptionStats
    dead_letter: SendDeadLetter
    recovered: Callable[[Delivery], None]
    lease: float
    stores: Stores
    problem: Callable[[str | None], None]
    """Says why the handler cannot go on now; None: it can again."""
    giving_up: Callable[[], bool] = lambda: False
    """Whether the engine is cancelling the handlers: a CancelledError is its own then, else the handler's."""


class BuiltIn:
    """A middleware of the library: it has a kind, and a fixed place in the chain (0 is the outermost).

    An instance decorates a handler (``@retry(attempts=5)``), which attaches it and returns the function itself, or is
    an item of ``Bus(middleware=[…])`` and of ``subscribe(middleware=[…])``.
    """

    kind: ClassVar[str]
    place: ClassVar[int]
    waits_after: ClassVar[bool] = False
    """Whether it awaits something after a handler that it has not looked at the cancellation of."""

    def __new__(cls, *arguments: Any, **_: Any) -> Self:
        """Says so where the brackets are missing."""
        if len(arguments) == 1 and isroutine(arguments[0]):
            raise ConfigError(f"@{cls.kind}", "is written without brackets", f"Write @{cls.kind}().")
        return super().__new__(cls)

    def __call__(self, function: _F, /) -> _F:
        """Attach to a handler. The function stays directly callable."""
        attach(function, self)
        return function

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler. Raises ConfigError for what this subscription cannot have."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")


def attach(function: Callable[..., Any], middleware: Any) -> None:
    """Note a middleware on the function, as the outermost so far."""
    if not callable(function):
        raise ConfigError(f"@{kind_of(middleware)}", f"decorates {function!r}", "Put it above a handler function.")
    try:
        setattr(function, _ATTACHED, (middleware, *attached(function)))
    except AttributeError as exc:
        raise ConfigError(
            f"@{kind_of(middleware)}",
            f"cannot be attached to {function!r}",
            "Give it at the subscription instead: subscribe(…, middleware=[…]).",
        ) from exc


def attached(function: Callable[..., Any]) -> tuple[Any, ...]:
    """The middleware that decorators attached to the function, outermost first."""
    found: tuple[Any, ...] = getattr(function, _ATTACHED, ())
    return found


def kind_of(middleware: Any) -> str:
    """The name of a middleware in messages."""
    if isinstance(middleware, BuiltIn):
        return middleware.kind
    return getattr(middleware, "__name__", type(middleware).__name__)


def _check_order(where: str, stack: Sequence[Any]) -> None:
    """Built-ins stand in their fixed order, each once."""
    built_in = [item for item in stack if isinstance(item, BuiltIn)]
    kinds = [item.kind for item in built_in]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigError(where, f"has @{kind} twice", "Keep one of them.")
    right = sorted(built_in, key=lambda item: item.place)
    if right != built_in:
        order = "\n".join(f"    @{item.kind}(…)" for item in right)
        raise ConfigError(
            where,
            f"its decorators stand in the order {', '.join('@' + kind for kind in kinds)}",
            f"The right order, outermost first, is:\n{order}\n    async def {where.rsplit(' ', 1)[-1]}(…)",
        )


_PER_ATTEMPT = 3
"""The Bus's own functions run inside the built-ins up to this place: around each attempt."""


def compose(
    innermost: Handler, chain: Chain, stack: Sequence[Any], bus: Sequence[Any], defaults: Sequence[BuiltIn]
) -> Handler:
    """The handler's chain: what is stacked on it, then what the Bus has, then the defaults; one of each kind."""
    where = f"handler {chain.handler.name}"
    _check_order(where, stack)
    _check_order("Bus(middleware=)", bus)
    result = list(stack)
    present = {item.kind for item in stack if isinstance(item, BuiltIn)}
    for source in (bus, defaults):
        for item in source:
            if isinstance(item, BuiltIn) and item.kind not in present:
                present.add(item.kind)
                result.insert(_place_for(result, item.place), item)
    functions = [item for item in bus if not isinstance(item, BuiltIn)]
    at = _place_for(result, _PER_ATTEMPT + 1)
    result[at:at] = functions
    if chain.handler.asks_for_transaction and not any(getattr(item, "kind", "") == "idempotent" for item in result):
        raise ConfigError(
            where,
            "asks for a transaction, and has no @idempotent(store)",
            "Put @idempotent(store) above it, with the store whose transaction the effect shares.",
        )
    waits_after = any(getattr(item, "waits_after", True) for item in result)
    handler = contained(innermost, chain.giving_up) if waits_after else innermost
    for item in reversed(result):
        handler = item.bind(handler, chain) if isinstance(item, BuiltIn) else item.wrap(handler)
    return handler


def _place_for(stack: Sequence[Any], place: int) -> int:
    """Behind the last built-in that belongs outside of it."""
    at = 0
    for index, item in enumerate(stack):
        if isinstance(item, BuiltIn) and item.place < place:
            at = index + 1
    return at
