"""Reading a handler: what its parameters ask for, which event types it takes, and how to call it.

The signature is read once, when the handler is subscribed. What cannot be served is a ``ConfigError`` there that names
the parameter, not a failure on the first message.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import entry_points
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import PydanticUserError

from ..cloudevents.event import Event
from ..codec.annotations import declared_type, members, show
from ..codec.port import Decode
from ..codec.pydantic_json import PydanticJson
from ..config.registry import load_entry
from ..delivery import Delivery
from ..errors import ConfigError, HandlerExit
from ..idempotency._store import Transaction
from ..idempotency._transaction import current_transaction
from ..kit.uncancelled import uncancelled
from .annotations import signature
from .provide import ProvidedStack, Providers

__all__ = ["HandlerSpec", "Parameter", "Wants", "caller", "invoker", "leftover", "read_handler"]

_TRANSACTIONS = "anybroker.transactions"
"""Entry points of Transactions, by the full name of a class that they serve; see ``Transaction.given``."""
Handler = Callable[[Delivery], Awaitable[None]]
Decoders = Callable[[Any], Decode]
"""From a payload's annotation to what makes such payloads of events."""


def _check_json(annotation: object) -> None:
    """ConfigError for what the built-in codec cannot decode into."""
    PydanticJson().decoder(annotation, "")


class Wants(Enum):
    """What a parameter is given."""

    PAYLOAD = "payload"
    EVENT = "event"
    TYPED_EVENT = "typed event"
    DELIVERY = "delivery"
    PROVIDED = "provided"
    TRANSACTION = "transaction"
    PAYLOADS = "list of payloads"
    EVENTS = "list of events"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a handler."""

    name: str
    wants: Wants
    type: Any = None
    keyword: bool = False
    served: Any = None
    """Where it is not annotated with the Transaction itself: the annotation that the Transaction serves."""


@dataclass(frozen=True)
class HandlerSpec:
    """A handler as it was read."""

    function: Callable[..., Any]
    name: str
    """Module-free qualified name: part of the idempotency key and of derived ids, so it must stay the same."""
    parameters: tuple[Parameter, ...]
    types: frozenset[str]
    """The event types it takes; empty: every type."""
    payload: Any
    """The payload's annotation; None where it asks for none."""
    is_async: bool
    """Called on the event loop: it is ``async def``, or wraps one; all else is called in a thread."""
    is_batch: bool

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f"handler {self.name}"

    @property
    def asks_for_transaction(self) -> bool:
        """Whether a parameter is the idempotency store's transaction."""
        return any(parameter.wants is Wants.TRANSACTION for parameter in self.parameters)


def handler_name(function: Callable[..., Any]) -> str:
    """The name of a handler: its qualified name, or its class's for a callable object."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__


def read_handler(
    function: Callable[..., Any],
    *,
    providers: Providers,
    types_given: str | Iterable[str] | None = None,
    batch: bool = False,
    name: str | None = None,
    check: Callable[[object], None] = _check_json,
) -> HandlerSpec:
    """Read the signature. Raises ConfigError with the parameter named.

    ``check`` raises ConfigError for a payload's annotation that cannot be decoded into.
    """
    name = name or handler_name(function)
    where = f"handler {name}"
    if not callable(function):
        raise ConfigError(where, f"{function!r} is not callable", "Decorate a function.")
    forms = _forms(function)
    target = forms[-1]  # whose signature it is
    try:
        parameters_of = signature(function)
        hints = get_type_hints(target, include_extras=True)
    except NameError as exc:
        raise ConfigError(
            where, f"an annotation cannot be resolved: {exc}", "Import the type at module level, outside TYPE_CHECKING."
        ) from exc
    except (TypeError, ValueError) as exc:
        raise ConfigError(where, f"its signature cannot be read: {exc}", "Use a function with annotations.") from exc
    parameters: list[Parameter] = []
    for parameter in parameters_of.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(
                f"{where}, parameter {parameter}", "cannot be served", "Name each parameter and annotate it."
            )
        annotation = hints.get(parameter.name)
        has_default = parameter.default is not parameter.empty
        if annotation is None:
            if has_default:
                continue
            raise ConfigError(
                f"{where}, parameter {parameter.name!r}",
                "has no annotation",
                "Annotate it: a payload model, Event, Event[Model], Delivery, or a type registered with bus.provide().",
            )
        read = _read_parameter(where, parameter.name, annotation, providers, batch, check)
        if read is None:
            if has_default:
                continue
            raise ConfigError(
                f"{where}, parameter {parameter.name!r}",
                f"of type {show(annotation)} cannot be served",
                "Use a pydantic model (or what pydantic can validate) for the payload, Event, Event[Model], Delivery, "
                f"or register the type: bus.provide({show(annotation)}, factory).",
            )
        keyword = parameter.kind is parameter.KEYWORD_ONLY
        parameters.append(Parameter(read.name, read.wants, read.type, keyword, read.served))
    _check_together(where, parameters, batch)
    payload = next((p.type for p in parameters if p.wants in _WITH_PAYLOAD and p.type is not None), None)
    types_read = _types(where, types_given, payload)
    is_async = any(map(inspect.iscoroutinefunction, forms))
    # A coroutine function around a generator may consume it; a generator function, or a plain one around it, does not.
    made = [form for form in forms if inspect.isasyncgenfunction(form) or inspect.isgeneratorfunction(form)]
    if made and not inspect.iscoroutinefunction(forms[0]):
        raise ConfigError(where, "is a generator", "A handler is a function that ends: 'async def' without yield.")
    for read in parameters:
        if read.served is not None:
            read.type.check(read.served, is_async, f"{where}, parameter {read.name!r}")
    return HandlerSpec(function, name, tuple(parameters), types_read, payload, is_async, batch)


def _forms(function: Any) -> list[Any]:
    """What a call runs into, outermost first: the callable or its ``__call__``, what that wraps, and so on inwards."""
    forms: list[Any] = []
    form = function
    while len(forms) < 100:  # a wrapper may wrap itself
        if isinstance(form, partial):
            form = form.func
            continue
        wrapped = getattr(form, "__wrapped__", None)
        if inspect.isroutine(form) or inspect.isclass(form) or inspect.iscoroutinefunction(form):
            forms.append(form)
        else:
            forms.append(call := type(form).__call__)
            wrapped = wrapped or getattr(call, "__wrapped__", None)
        if wrapped is None:
            return forms
        form = wrapped
    return forms


_WITH_PAYLOAD = (Wants.PAYLOAD, Wants.TYPED_EVENT, Wants.PAYLOADS, Wants.EVENTS)


def _read_parameter(
    where: str, name: str, annotation: Any, providers: Providers, batch: bool, check: Callable[[object], None]
) -> Parameter | None:
    if annotation in providers:
        return Parameter(name, Wants.PROVIDED, annotation)
    if annotation is Delivery:
        return Parameter(name, Wants.DELIVERY)
    if annotation is Event:
        return Parameter(name, Wants.EVENT)
    if isinstance(annotation, type) and issubclass(annotation, Transaction):
        return Parameter(name, Wants.TRANSACTION, annotation)
    origin = get_origin(annotation)
    if origin is Event:
        (item,) = get_args(annotation)
        _check_payload(where, name, item, check)
        return Parameter(name, Wants.TYPED_EVENT, item)
    if batch and origin in (list, Sequence):
        (item,) = get_args(annotation)
        if item is Event:
            return Parameter(name, Wants.EVENTS)
        if get_origin(item) is Event:
            (inner,) = get_args(item)
            _check_payload(where, name, inner, check)
            return Parameter(name, Wants.EVENTS, inner)
        _check_payload(where, name, item, check)
        return Parameter(name, Wants.PAYLOADS, item)
    try:
        _check_payload(where, name, annotation, check)
    except ConfigError as exc:
        if isinstance(exc.__cause__, PydanticUserError) and exc.__cause__.code != "schema-for-unknown-type":
            raise  # a type that pydantic knows, with a reason that helps
        transaction = _serving(annotation, f"{where}, parameter {name!r}")
        return None if transaction is None else Parameter(name, Wants.TRANSACTION, transaction, served=annotation)
    return Parameter(name, Wants.PAYLOAD, annotation)


def _serving(annotation: Any, where: str) -> Any:
    """The Transaction that serves this annotation, a class of a client library or one that derives from it, or None."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type):
        entries = {entry.name: entry for entry in entry_points(group=_TRANSACTIONS)}
        for base in kind.__mro__:
            if (entry := entries.get(f"{base.__module__}.{base.__qualname__}")) is not None:
                return load_entry(entry, where, show(annotation))
    return None


def _check_payload(where: str, name: str, annotation: Any, check: Callable[[object], None]) -> None:
    try:
        check(annotation)
    except ConfigError as exc:
        raise ConfigError(f"{where}, parameter {name!r}", exc.problem, exc.remedy) from exc.__cause__


def _check_together(where: str, parameters: list[Parameter], batch: bool) -> None:
    kinds = [parameter.wants for parameter in parameters]
    payloads = [parameter for parameter in parameters if parameter.wants in (Wants.PAYLOAD, Wants.PAYLOADS)]
    if len(payloads) > 1:
        first, second = payloads[0], payloads[1]
        raise ConfigError(
            f"{where}, parameter {second.name!r}",
            f"is a second payload beside {first.name!r}",
            "An event has one payload: put both into one model, or register one of the types with bus.provide().",
        )
    transactions = [parameter for parameter in parameters if parameter.wants is Wants.TRANSACTION]
    if len(transactions) > 1:
        raise ConfigError(
            f"{where}, parameter {transactions[1].name!r}",
            f"asks for the transaction a second time, beside {transactions[0].name!r}",
            "Ask for one of the two, and reach the other through it.",
        )
    if batch:
        if Wants.PAYLOADS not in kinds and Wants.EVENTS not in kinds:
            raise ConfigError(
                where, "is subscribed with batch= but takes no list", "Annotate a parameter list[Model] or list[Event]."
            )
        if Wants.TRANSACTION in kinds:
            raise ConfigError(
                where, "asks for a transaction in a batch handler", "Take one event at a time: leave batch= out."
            )
        if single := [p for p in parameters if p.wants in (Wants.EVENT, Wants.TYPED_EVENT, Wants.DELIVERY)]:
            raise ConfigError(
                f"{where}, parameter {single[0].name!r}",
                "asks for one event in a batch handler",
                "Ask for list[Event] or list[Event[Model]].",
            )


def _types(where: str, given: str | Iterable[str] | None, payload: Any) -> frozenset[str]:
    if given is not None:
        names = frozenset((given,) if isinstance(given, str) else given)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"{where}, type=", f"{given!r} names no event type", "Give a type, or several.")
        return names
    declared = [declared_type(member) for member in members(payload)] if payload is not None else []
    if declared and all(declared):
        return frozenset(name for name in declared if name)
    if any(declared):
        missing = [show(m) for m, name in zip(members(payload), declared, strict=True) if not name]
        raise ConfigError(
            where,
            f"its payload is a union in which {', '.join(missing)} has no declared event type",
            "Decorate each member with @event_type(…), or give type= at the subscription.",
        )
    return frozenset()


# ------------------------------------------------------------------------------------------------------------- call


def invoker(spec: HandlerSpec, providers: Providers, executor: Executor | None, decoders: Decoders) -> Handler:
    """The innermost handler: decode what is asked for and call the function."""
    if not spec.is_async:
        return _in_thread(spec, providers, executor, decoders)
    function = caller(spec)
    where = spec.where
    wants = tuple(parameter.wants for parameter in spec.parameters)
    plain = not any(parameter.keyword for parameter in spec.parameters) and not _skips(spec)
    if plain and wants == (Wants.PAYLOAD,):
        decode = decoders(spec.parameters[0].type)

        async def payload_only(delivery: Delivery) -> None:
            if (result := await function(decode(delivery.event))) is not None:
                await leftover(where, result)

        return payload_only
    if plain and wants == (Wants.PAYLOAD, Wants.EVENT):
        decode = decoders(spec.parameters[0].type)

        async def payload_and_event(delivery: Delivery) -> None:
            event = delivery.event
            if (result := await function(decode(event), event)) is not None:
                await leftover(where, result)

        return payload_and_event
    gather = _arguments(spec, decoders)
    if Wants.PROVIDED not in wants:

        async def call(delivery: Delivery) -> None:
            args, kwargs = gather(delivery)
            if (result := await function(*args, **kwargs)) is not None:
                await leftover(where, result)

        return call

    async def call_with_provided(delivery: Delivery) -> None:
        async with ProvidedStack() as stack:
            args, kwargs = gather(delivery)
            await _fill(spec, providers, stack, args, kwargs)
            if (result := await function(*args, **kwargs)) is not None:
                await leftover(where, result)

    return call_with_provided


def caller(spec: HandlerSpec) -> Callable[..., Awaitable[Any]]:
    """The function of a handler that is called on the loop, as something whose call is awaitable for certain."""
    function, where = spec.function, spec.where
    if inspect.iscoroutinefunction(_forms(function)[0]):
        return function

    async def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not inspect.isawaitable(result):
            await leftover(where, result)
            raise TypeError(
                f"{where}: the wrapper around an 'async def' returned {type(result).__name__}, so nothing of the "
                "handler was awaited. Return what the wrapped function returns, or make the wrapper 'async def'"
            )
        return await result

    return call


async def leftover(where: str, result: Any) -> None:
    """What a call returned that is not None: a coroutine or a future is awaited, a generator refused, the rest ignored.

    An 'async def' that forgets an ``await`` returns the work instead of doing it, and the event would be acknowledged.
    """
    while inspect.iscoroutine(result) or asyncio.isfuture(result):
        result = await result
    if inspect.isasyncgen(result) or inspect.isgenerator(result):
        raise TypeError(f"{where}: returned a generator, of which nothing has run. Use 'async def' without yield")


def _arguments(spec: HandlerSpec, decoders: Decoders) -> Callable[[Delivery], tuple[list[Any], dict[str, Any]]]:
    """A function from a delivery to the arguments; provided ones are left None."""
    makers = [
        (parameter.name if parameter.keyword else None, _maker(parameter, decoders)) for parameter in spec.parameters
    ]
    served = [parameter.name for parameter in spec.parameters]
    by_name = _skips(spec)

    def gather(delivery: Delivery) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for (keyword, make), name in zip(makers, served, strict=True):
            if keyword is not None or by_name:
                kwargs[keyword or name] = make(delivery)
            else:
                args.append(make(delivery))
        return args, kwargs

    return gather


def _skips(spec: HandlerSpec) -> bool:
    """Whether a parameter keeps its default before one that is served: then the served ones go by their names."""
    names = list(signature(spec.function).parameters)
    served = [parameter.name for parameter in spec.parameters]
    return served != names[: len(served)]


def _maker(parameter: Parameter, decoders: Decoders) -> Callable[[Delivery], Any]:
    match parameter.wants:
        case Wants.PAYLOAD:
            decode = decoders(parameter.type)
            return lambda delivery: decode(delivery.event)
        case Wants.TYPED_EVENT:
            decode_typed = decoders(parameter.type)
            return lambda delivery: delivery.event._with_data(decode_typed(delivery.event))
        case Wants.EVENT:
            return lambda delivery: delivery.event
        case Wants.DELIVERY:
            return lambda delivery: delivery
        case Wants.TRANSACTION:
            return lambda _delivery: current_transaction.get()
        case _:
            return lambda _delivery: None


async def _fill(
    spec: HandlerSpec, providers: Providers, stack: AsyncExitStack, args: list[Any], kwargs: dict[str, Any]
) -> None:
    for at, parameter in enumerate(spec.parameters):
        if parameter.wants is Wants.PROVIDED:
            value = await providers.get(parameter.type, stack)
            if parameter.name in kwargs:
                kwargs[parameter.name] = value
            else:
                args[at] = value


def _in_thread(spec: HandlerSpec, providers: Providers, executor: Executor | None, decoders: Decoders) -> Handler:
    """A plain ``def`` handler: it cannot be cancelled, so a cancelled wait lasts until it has returned.

    What it returns that is awaitable (it may be a class whose ``__call__`` is plain, or a wrapper that does not tell
    what it wraps) is awaited on the loop.
    """
    function, where = spec.function, spec.where
    gather = _arguments(spec, decoders)
    provided = any(parameter.wants is Wants.PROVIDED for parameter in spec.parameters)

    async def call(delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        async with ProvidedStack() as stack:
            args, kwargs = gather(delivery)
            if provided:
                await _fill(spec, providers, stack, args, kwargs)
            context = copy_context()
            result, raised = await uncancelled(
                loop.run_in_executor(executor, _contained, partial(context.run, function, *args, **kwargs))
            )
            if raised is not None:
                raise raised if _ordinary(raised) else HandlerExit(where, raised)
            if result is not None:
                await leftover(where, await result if inspect.isawaitable(result) else result)

    return call


def _contained(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """In the thread: what it returned, or raised. A future may not hold StopIteration, turns other exceptions into its
    own, and passes SystemExit on to the loop, which it ends."""
    try:
        return function(), None
    except BaseException as exc:  # noqa: BLE001 - raised again on the loop
        return None, exc


def _ordinary(exc: BaseException) -> bool:
    """Whether it can be raised in a coroutine and stays what it is."""
    return isinstance(exc, Exception) and not isinstance(exc, StopIteration | StopAsyncIteration)
