"""Spans by OpenTelemetry's conventions for messaging and for CloudEvents, with its API only.

``docs/tracing.md`` has the table of them. A Bus has :class:`Spans` where an OpenTelemetry SDK was set up when it
started; without one nothing here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from ..adapter import BrokerUrl, Foreign, Inbound, Outbound
from ..cloudevents.event import Event
from ..delivery import Delivery, current_cause
from ..errors import text_of
from ..printable import logger
from .context import CONTEXT_HEADERS, LONGEST_ID, incoming, incoming_of
from .seldom import Seldom
from .starting import cancelled_from_outside

if TYPE_CHECKING:
    from ..capabilities import Capabilities

__all__ = ["SCHEMA", "Publication", "Spans", "end", "failed", "some_failed", "spans_of", "start_failed"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions that the names here are those of."""
SYSTEM = "messaging.system"
DESTINATION = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
MESSAGE_ID = "messaging.message.id"
CONVERSATION = "messaging.message.conversation_id"
BATCH_COUNT = "messaging.batch.message_count"
SERVER, PORT = "server.address", "server.port"
EVENT_ID, EVENT_SOURCE, EVENT_TYPE = "cloudevents.event_id", "cloudevents.event_source", "cloudevents.event_type"
ERROR_TYPE = "error.type"
HANDLER, ATTEMPT, COPY = "anybroker.handler", "anybroker.attempt", "anybroker.copy"

_MOST_LINKS = 128
"""Links of one receive or send span: what an SDK keeps unless it is told otherwise."""
_MOST_RECORDED = 8
"""Exceptions recorded on the span of one batch."""
_COPIES = {"dead": "dead_letter", "release": "release", "replay": "replay"}
"""By the first word of a copy's hop."""

_log = logger("anybroker.observe")
_say = Seldom()

Attributes: TypeAlias = dict[str, str | int]


def spans_of(capabilities: Capabilities, url: BrokerUrl | None) -> Spans | None:
    """None where nobody listens: no OpenTelemetry SDK is set up. Asked when a Bus starts. ``url``: the broker's."""
    provider = otel.get_tracer_provider()
    if isinstance(provider, otel.ProxyTracerProvider | otel.NoOpTracerProvider):
        return None
    constant: Attributes = {SYSTEM: capabilities.system}
    if url is not None and len(url.hosts) == 1:
        ((host, port),) = url.hosts
        constant[SERVER] = host
        if port is not None:
            constant[PORT] = port
    return Spans(constant)


class Spans:
    """Makes the spans of one Bus."""

    def __init__(self, constant: Mapping[str, str | int]) -> None:
        """``constant``: the attributes that all of them have."""
        self._tracer = otel.get_tracer("anybroker", _version(), schema_url=SCHEMA)
        self._constant = constant

    def attributes(self, operation: str, topic: str, group: str | None = None) -> Attributes:
        """What is known of an operation before there is an event."""
        of_group: Attributes = {} if group is None else {GROUP: group}
        named: Attributes = {DESTINATION: topic, OPERATION_NAME: operation, OPERATION_TYPE: operation}
        return {**self._constant, **named, **of_group}

    def _start(self, name: str, **facts: Any) -> Span:
        """Begin a span; one that records nothing where the SDK fails."""
        try:
            return self._tracer.start_span(name, **facts)
        except Exception:  # noqa: BLE001 - a sampler's or a span processor's
            _complain("beginning a span")
            return otel.INVALID_SPAN

    # ------------------------------------------------------------------------------------------------------ publishing

    def publish(self, operation: str, topic: str, event: Event[Any], headers: Mapping[str, str]) -> Publication:
        """Begin a ``send`` span; or a ``create`` span, where something else sends. A context that the caller has put
        into the headers is the event's: it stays, and the span links it."""
        cause = current_cause()
        inherited = {} if cause is None else incoming(cause)
        given = _given(headers, inherited)
        span = self._start(
            f"{operation} {topic}",
            kind=SpanKind.PRODUCER if given is None else SpanKind.CLIENT,
            attributes={**self.attributes(operation, topic), **_of_event(event)},
            links=None if given is None else [Link(given)],
        )
        return Publication(span, event, given is not None, inherited.get("baggage"))

    def send_batch(self, topic: str, created: Sequence[Publication]) -> Span:
        """Begin the ``send`` span of several events, which links what each was created in."""
        links = [Link(each.span.get_span_context(), {MESSAGE_ID: _id_of(each.event)}) for each in created[:_MOST_LINKS]]
        attributes = {**self.attributes("send", topic), BATCH_COUNT: len(created)}
        return self._start(f"send {topic}", kind=SpanKind.CLIENT, attributes=attributes, links=links)

    @contextmanager
    def copy(self, outbound: Outbound, cause: Context | None) -> Iterator[None]:
        """Around the sending of a dead letter, a release or a replay. It keeps the context that its headers have, so
        this span links it. ``cause``: what the span is a child of; None: what the caller does."""
        context = _span_context(_extracted(_w3c(outbound.headers or {})))
        copied = {COPY: _COPIES.get(outbound.hop.partition("|")[0], "copy")}
        span = self._start(
            f"send {outbound.topic}",
            context=cause,
            kind=SpanKind.CLIENT,
            attributes={
                **self.attributes("send", outbound.topic, outbound.group),
                **copied,
                **_of_event(outbound.event),
            },
            links=[Link(context)] if context.is_valid else None,
        )
        try:
            yield
        except BaseException as exc:
            failed(span, exc)
            raise
        finally:
            end(span)

    # ------------------------------------------------------------------------------------------------------- consuming

    def received(self, topic: str, group: str, batch: Sequence[Inbound]) -> None:
        """A ``receive`` span, which is over at once: the broker has handed these events over."""
        attributes = {**self.attributes("receive", topic, group), BATCH_COUNT: len(batch)}
        links = [
            Link(context, _message(inbound.event))
            for inbound in batch[:_MOST_LINKS]
            if (context := _span_context(_extracted(incoming_of(inbound)))).is_valid
        ]
        end(
            self._start(f"receive {topic}", context=Context(), kind=SpanKind.CLIENT, attributes=attributes, links=links)
        )

    def process(self, name: str, constant: Attributes, delivery: Delivery) -> tuple[Span, Context]:
        """Begin the span of one start, and the context that its handler runs in: a child of the publisher's, which it
        also links, as it does the start before it."""
        parent = _extracted(incoming(delivery))
        producer = _span_context(parent)
        links = [Link(producer)] if producer.is_valid else []
        links += _previous(delivery)
        span = self._start(
            name,
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**constant, **_of_event(delivery.event), ATTEMPT: delivery.attempt},
            links=links,
        )
        _note(span, delivery)
        return span, otel.set_span_in_context(span, parent)

    def process_batch(self, name: str, constant: Attributes, deliveries: Sequence[Delivery]) -> Span:
        """Begin the span of one call of a batch handler. It has no parent, and links what each event came in."""
        links = [link for delivery in deliveries for link in _previous(delivery)]
        for delivery in deliveries:  # last: where an SDK keeps fewer links, it drops the first ones
            context = _span_context(_extracted(incoming(delivery)))
            if context.is_valid:
                links.append(Link(context, {**_message(delivery.event), ATTEMPT: delivery.attempt}))
        attributes = {**constant, BATCH_COUNT: len(deliveries)}
        span = self._start(name, context=Context(), kind=SpanKind.CONSUMER, attributes=attributes, links=links)
        for delivery in deliveries:
            _note(span, delivery)
        return span

    # ---------------------------------------------------------------------------------------------------- what follows

    def after(self, delivery: Delivery) -> Context:
        """What follows a start is a child of it; of the publisher, where nothing was started."""
        span = delivery.last_span
        if span is None:
            return _extracted(incoming(delivery))
        return otel.set_span_in_context(otel.NonRecordingSpan(span), Context())

    def carry(self, delivery: Delivery, headers: dict[str, str]) -> None:
        """Let a copy of the delivery go on from its last start."""
        if delivery.last_span is None:
            return
        carrier: dict[str, str] = {}
        _inject(carrier, self.after(delivery))
        if "traceparent" in carrier:
            headers.pop("tracestate", None)
            headers.update(_w3c(carrier))


class Publication:
    """One event on its way out, and its span."""

    __slots__ = ("_given", "_inherited", "event", "is_of_batch", "span")

    def __init__(self, span: Span, event: Event[Any], given: bool, inherited: str | None) -> None:
        """``given``: its headers have a context from the caller. ``inherited``: the baggage of its cause."""
        self.span = span
        self.event = event
        self._given = given
        self._inherited = inherited
        self.is_of_batch = False
        """Whether the span is over once the event is handed to the sender: another one lasts until the confirmation."""

    def inject(self, event: Event[Any], headers: dict[str, str]) -> None:
        """Write the context of the span over that of the cause, and so the baggage, where what runs now has changed it:
        what the propagator writes need not be the same to the letter. What the caller has written stays. ``event``: as
        the publish middleware left it."""
        if event is not self.event:
            self.event = event
            _set(self.span, _of_event(event))
        carrier: dict[str, str] = {}
        _inject(carrier, otel.set_span_in_context(self.span))
        written = headers.get("baggage")
        if written is not None:
            if written != self._inherited or _baggage(written) == baggage.get_all():
                carrier.pop("baggage", None)
            else:
                del headers["baggage"]
        if self._given:
            carrier = {name: value for name, value in carrier.items() if name == "baggage"}
        elif "traceparent" in carrier:
            headers.pop("tracestate", None)
        headers.update(carrier)

    @contextmanager
    def current(self) -> Iterator[None]:
        """What runs in here runs in the span, which has failed if it fails, and is over with it."""
        token = otel_context.attach(otel.set_span_in_context(self.span))
        try:
            yield
        except BaseException as exc:
            if self.span.is_recording():  # else it is over already: the event was created
                failed(self.span, exc)
            raise
        finally:
            otel_context.detach(token)
            self.end()

    def end(self) -> None:
        """The span is over. Idempotent."""
        if self.span.is_recording():
            end(self.span)


def end(span: Span) -> None:
    """The span is over."""
    try:
        span.end()
    except Exception:  # noqa: BLE001 - a span processor's
        _complain("ending a span")


def failed(span: Span, error: BaseException, description: str | None = None) -> None:
    """Record what the operation of this span failed with."""
    kind = type(error).__qualname__
    _record(span, error, {})
    _set(span, {ERROR_TYPE: kind}, kind if description is None else description)


def some_failed(span: Span, failures: Sequence[tuple[object, BaseException]], count: int) -> None:
    """Record what some events of a batch failed with, the first of them by name: pairs of the event and its error."""
    if not failures:
        return
    for event, error in failures[:_MOST_RECORDED]:
        _record(span, error, _message(event))
    _set(span, {ERROR_TYPE: type(failures[0][1]).__qualname__}, f"{len(failures)} of {count} failed")


def _record(span: Span, error: BaseException, attributes: dict[str, str]) -> None:
    try:
        span.record_exception(error, attributes=attributes)
    except KeyboardInterrupt:  # a signal came just now
        raise
    except BaseException:  # noqa: BLE001 - its own text failed, and what happens to the event must not hang on that
        facts = {"exception.type": type(error).__qualname__, "exception.message": text_of(error)}
        try:
            span.add_event("exception", facts)
        except Exception:  # noqa: BLE001 - the SDK's
            _complain("recording an exception")


def _set(span: Span, attributes: Attributes, problem: str | None = None) -> None:
    """``problem``: what the span has failed with."""
    try:
        span.set_attributes(attributes)
        if problem is not None:
            span.set_status(Status(StatusCode.ERROR, problem))
    except Exception:  # noqa: BLE001 - the SDK's
        _complain("describing a span")


def _complain(what: str) -> None:
    """The tracing of the program has failed. What is traced goes on: a handler must not run again because of that."""
    if times := _say():
        _log.exception("OpenTelemetry failed at %s (%d times since this was said last)", what, times)


def start_failed(span: Span, error: BaseException, giving_up: Callable[[], bool]) -> None:
    """A start has raised this. If the engine has ended it, the handler did not fail, and the event comes again."""
    if not cancelled_from_outside(error, giving_up):
        failed(span, error)
        return
    _set(span, {ERROR_TYPE: type(error).__qualname__}, "cut off")


def _version() -> str | None:
    try:
        return version("anybroker")
    except PackageNotFoundError:
        return None


def _extracted(carrier: dict[str, str]) -> Context:
    """The context that came with an event, and nothing of the one here, which is that of the Bus's start."""
    try:
        return propagate.extract(carrier, Context())
    except Exception:  # noqa: BLE001 - a propagator's
        _complain("reading a context")
        return Context()


def _inject(carrier: dict[str, str], context: Context) -> None:
    try:
        propagate.inject(carrier, context)
    except Exception:  # noqa: BLE001 - a propagator's
        _complain("writing a context")
        carrier.clear()


def _baggage(written: str) -> Mapping[str, object]:
    return baggage.get_all(_extracted({"baggage": written}))


def _span_context(context: Context) -> SpanContext:
    return otel.get_current_span(context).get_span_context()


def _note(span: Span, delivery: Delivery) -> None:
    """The start that :meth:`Spans.after`, and the next start, go on from."""
    context = span.get_span_context()
    if context.is_valid:
        delivery.span_context = context


def _previous(delivery: Delivery) -> list[Link]:
    return [] if delivery.last_span is None else [Link(delivery.last_span, {ATTEMPT: delivery.attempt - 1})]


def _w3c(headers: Mapping[str, str]) -> dict[str, str]:
    """The trace, without the baggage."""
    return {name: headers[name] for name in CONTEXT_HEADERS[:2] if name in headers}


def _given(headers: Mapping[str, str], inherited: Mapping[str, str]) -> SpanContext | None:
    """The context that the caller has put into the headers; None where there is none but that of the cause."""
    if "traceparent" not in headers or headers["traceparent"] == inherited.get("traceparent"):
        return None
    context = _span_context(_extracted(_w3c(headers)))
    return context if context.is_valid else None


def _id_of(event: Event[Any]) -> str:
    return event.id[:LONGEST_ID]


def _message(event: object) -> dict[str, str]:
    return {} if not isinstance(event, Event) else {MESSAGE_ID: _id_of(event)}


def _of_event(event: Event[Any] | Foreign) -> Attributes:
    """Its key is left out: it may name a person."""
    if isinstance(event, Foreign):
        return {}
    id_ = _id_of(event)
    attributes: Attributes = {
        MESSAGE_ID: id_,
        EVENT_ID: id_,
        EVENT_SOURCE: event.source[:LONGEST_ID],
        EVENT_TYPE: event.type[:LONGEST_ID],
    }
    correlation = event._attributes.get("correlationid")
    if isinstance(correlation, str) and 0 < len(correlation) <= LONGEST_ID:
        attributes[CONVERSATION] = correlation
    return attributes
