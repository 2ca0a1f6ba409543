"""What a middleware is, and what it may know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from inspect import isroutine
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

from ..capabilities import Capabilities
from ..delivery import Delivery
from ..errors import ConfigError
from ..stats import SubscriptionStats

if TYPE_CHECKING:
    from ..engine.spans import Spans
    from ..handlers.signature import HandlerSpec
    from ..idempotency._stores import Stores

__all__ = [
    "Chain",
    "Handler",
    "Layer",
    "Middleware",
    "ReportsProblem",
    "SendDeadLetter",
    "attach",
    "attached",
    "kind_of",
    "kinds",
]

Handler = Callable[[Delivery], Awaitable[None]]
"""Success is returning; failure is raising."""
Middleware = Callable[[Handler], Handler]
"""Composed once, when the subscription starts; nothing is built per message."""

kinds: set[str] = set()
"""The kinds of all layers that were declared in this process: what ``before`` and ``after`` may name."""

_F = TypeVar("_F", bound=Callable[..., object])
_ATTACHED = "__anybroker_middleware__"


class SendDeadLetter(Protocol):
    """Publishes the delivery to its dead-letter topic, confirmed; raises BrokerError if that fails."""

    async def __call__(self, delivery: Delivery, error: Exception, /) -> None: ...


class ReportsProblem(Protocol):
    """Says why a handler cannot go on now; None: it can again. ``unavailable=True``: what it needs is away for every
    event, so the Bus is not ready (``bus.health()``). ``kind``: of the layer that says so, which has a problem of its
    own then."""

    def __call__(self, problem: str | None, /, *, unavailable: bool = False, kind: str = "") -> None: ...


def _fetch_on(_kind: str, _on: bool, /) -> None:
    """Where nothing is fetched."""


@dataclass(frozen=True)
class Chain:
    """What a :class:`Layer` may know about the subscription and the handler that it is bound to."""

    topic: str
    group: str
    ordered: bool
    """Whether events of one key are handled one at a time, in order."""
    handler: HandlerSpec
    """The handler as its signature was read: ``name``, ``types``, ``payload``, ``is_async``, ``is_batch``, …"""
    capabilities: Capabilities
    """What the broker can do. ``capabilities.require(…)`` refuses what it cannot."""
    stats: SubscriptionStats
    """The counters of the subscription. A layer that ends a delivery on its own counts it here."""
    dead_letter: SendDeadLetter
    """Publishes a delivery to the dead-letter topic of the group."""
    recovered: Callable[[Delivery], None]
    """Says that a delivery which had failed is finished, such as by a dead letter."""
    lease: float
    """Seconds that a delivery belongs to this member unless the lease is extended, which happens while it runs."""
    stores: Stores
    """The idempotency stores of the Bus."""
    problem: ReportsProblem
    """Reports why the handler cannot go on now: ``subscription.problem``, for health checks. None: it can again."""
    giving_up: Callable[[], bool] = lambda: False
    """Whether the engine is cancelling the handlers: a CancelledError is its own then, else the handler's."""
    hold_back: Callable[[str, bool], None] = _fetch_on
    """Says, with the kind of the layer, whether more events are of no use to the handler now. While that holds for all
    handlers of the subscription, it fetches nothing."""
    circuits: MutableMapping[str, Callable[[], bool]] = field(default_factory=dict)
    """The circuits of the subscription by name, each with whether it is open."""
    spans: Spans | None = None
    """Where an OpenTelemetry SDK is set up: what makes the spans of the Bus."""


class Layer:
    """A middleware that has a kind and a place in the chain, and knows what it is bound to.

    The built-ins are layers, and so is a class of your own::

        class slow(Layer):
            kind = "slow"
            after = "retry"      # inside of it: around each attempt
            before = "timeout"   # outside of it

            def __init__(self, seconds: float) -> None:
                self.seconds = seconds

            def bind(self, call_next: Handler, chain: Chain) -> Handler:
                async def run(delivery: Delivery) -> None:
                    begun = monotonic()
                    await call_next(delivery)
                    if monotonic() - begun > self.seconds:
                        log.warning("%s/%s: %s was slow", chain.topic, chain.group, chain.handler.name)

                return run

    An instance decorates a handler (``@slow(0.5)``), which attaches it and returns the function itself, or is an item
    of ``Bus(middleware=[…])`` and of ``subscribe(middleware=[…])``. A chain has one layer of each kind: the handler's,
    else the subscription's, else the Bus's, else the default. A layer of your own with the kind of a built-in takes the
    built-in's place.

    The built-ins stand in this order, outermost first: ``trace``, ``dead_letter``, ``retry_budget``, ``deadline``,
    ``retry``, ``concurrency``, ``rate_limit``, ``circuit``, ``timeout``, ``idempotent``. Decorators keep the order in
    which they are written, which has to agree with their places. A layer of the Bus or of the subscription is put as
    far out as its places allow; one without a place is put directly inside ``retry``.

    The constructor's own functions are passed by keyword: ``@name(function)`` is taken for ``@name`` without brackets.
    """

    kind: ClassVar[str]
    """What it is called in errors, and what ``before`` and ``after`` of others name."""
    after: str | Sequence[str] = ()
    """The kinds that stand outside of it, wherever they are in the same chain."""
    before: str | Sequence[str] = ()
    """The kinds that stand inside of it."""
    waits_after: ClassVar[bool] = True
    """Whether it awaits something after the handler has returned or raised. With True, a cancellation that the handler
    left behind cannot hit it; False saves a call for each event."""

    def __init_subclass__(cls) -> None:
        """Note the kind, so that others can name it."""
        if hasattr(cls, "kind"):
            kinds.add(cls.kind)

    def __new__(cls, *arguments: object, **_: object) -> Self:
        """Says so where the brackets or the kind are missing."""
        if not isinstance(getattr(cls, "kind", None), str) or not cls.kind:
            raise ConfigError(f"middleware {cls.__name__}", "has no kind", f'Write: kind = "{cls.__name__}".')
        if len(arguments) == 1 and isroutine(arguments[0]):
            raise ConfigError(f"@{cls.kind}", "is written without brackets", f"Write @{cls.kind}().")
        return super().__new__(cls)

    def __call__(self, function: _F, /) -> _F:
        """Attach to a handler. The function stays directly callable."""
        attach(function, self)
        return function

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler; called once for each handler when its subscription starts.

        What it returns is called for each start of the handler. It has to await ``call_next(delivery)``, which nothing
        checks: a delivery whose handler was not awaited counts as handled. Where a layer catches ``BaseException``, it
        raises what :func:`cancelled_from_outside` is true for.

        Raises ConfigError for what this subscription cannot have.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")


def attach(function: Callable[..., object], middleware: object) -> None:
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


def attached(function: Callable[..., object]) -> tuple[Any, ...]:
    """The middleware that decorators attached to the function, outermost first."""
    found: tuple[Any, ...] = getattr(function, _ATTACHED, ())
    return found


def kind_of(middleware: object) -> str:
    """The name of a middleware in messages."""
    if isinstance(middleware, Layer):
        return middleware.kind
    return getattr(middleware, "__name__", type(middleware).__name__)
