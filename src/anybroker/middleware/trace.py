"""Tracing: W3C context in and out, with the OpenTelemetry API only.

``traceparent`` and ``tracestate`` as CloudEvents extensions keep the starting trace and are copied on; the hop's own
context travels in the transport headers of the same names, with ``baggage``. ``correlationid`` is copied from the
cause (or is the cause's id), ``causationid`` is the cause's id. Without an OpenTelemetry SDK the incoming context is
passed on as it is. Names: OpenTelemetry semantic conventions for messaging spans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry import trace as otel
from opentelemetry.trace import SpanKind, Status, StatusCode

from .._seldom import Seldom
from ..adapter import Foreign
from ..delivery import Delivery
from ..errors import Retry
from ..event import Event
from ..printable import logger
from ._base import BuiltIn, Chain, Handler

__all__ = ["CONTEXT_HEADERS", "caused", "trace", "tracing"]

CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
_PARENT = re.compile(r"([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,200})?")
"""Version, trace, parent, flags; versions after 00 may have more."""
_STATE = re.compile(r"[ -~]{1,512}")
_MOST_STATES = 32
"""Members of one state."""
_LONGEST_BAGGAGE, _MOST_BAGGAGE = 8192, 64
"""Bytes, and members, that everyone has to pass on."""
_LONGEST_ID = 1024
"""Characters of an event's id that is copied to what its handler publishes."""
_log = logger("anybroker")
_say = Seldom()


def tracing() -> bool:
    """Whether somebody listens: an OpenTelemetry SDK is set up. Asked when a Bus starts."""
    provider = otel.get_tracer_provider()
    return not isinstance(provider, otel.ProxyTracerProvider | otel.NoOpTracerProvider)


def incoming(delivery: Delivery) -> dict[str, str]:
    """The W3C context of a delivery: the hop's headers, else the event's own extensions. What the specifications do not
    allow is dropped: Trace Context (sections 3.2 and 3.3), Baggage (3.3)."""
    return _context(delivery.headers, delivery.event)


def _context(headers: Mapping[str, str], event: Event[Any] | Foreign) -> dict[str, str]:
    carrier = _trace(headers.get("traceparent"), headers.get("tracestate")) if headers else {}
    if not carrier and not isinstance(event, Foreign):
        carrier = starting(event)
    baggage = headers.get("baggage") if headers else None
    if baggage and len(baggage) <= _LONGEST_BAGGAGE and baggage.count(",") < _MOST_BAGGAGE and _is_text(baggage):
        carrier["baggage"] = baggage
    return carrier


def _is_text(value: str) -> bool:
    return value.isascii() and value.isprintable()


def starting(event: Event[Any]) -> dict[str, str]:
    """The trace that the event's own extensions name, as far as it is one."""
    return _trace(event.get("traceparent"), event.get("tracestate"))


def _trace(parent: object, state: object) -> dict[str, str]:
    found = _PARENT.fullmatch(parent) if isinstance(parent, str) else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[2] is not None):
        return {}  # without a parent its state says nothing
    parent = found[0]
    if isinstance(state, str) and _STATE.fullmatch(state) is not None and state.count(",") < _MOST_STATES:
        return {"traceparent": parent, "tracestate": state}
    return {"traceparent": parent}


def caused(cause: Delivery, extensions: dict[str, Any], headers: dict[str, str]) -> None:
    """Fill in what an event published while handling ``cause`` takes over from it. What is set already stays."""
    event = cause.event
    if isinstance(event, Foreign):
        return
    attributes = event._attributes
    id_: Any = attributes["id"]
    correlation = attributes.get("correlationid")
    dropped: list[str] = []
    if len(id_) > _LONGEST_ID:
        dropped.append("id")
        id_ = None
    else:
        extensions.setdefault("causationid", id_)
    if correlation and _is_too_long(correlation):
        dropped.append("correlationid")
        correlation = None
    if found := correlation or id_:
        extensions.setdefault("correlationid", found)
    hop = cause.headers
    if hop or "traceparent" in attributes or "tracestate" in attributes:
        carrier = _context(hop, event)
        start = starting(event)
        dropped += [name for name in CONTEXT_HEADERS if (value := hop.get(name)) and value != carrier.get(name)]
        dropped += [name for name in CONTEXT_HEADERS[:2] if attributes.get(name) and name not in start]
        if "traceparent" not in extensions and (start := start or carrier):
            for name in CONTEXT_HEADERS[:2]:
                if name in start:
                    extensions.setdefault(name, start[name])
        for name, value in carrier.items():
            headers.setdefault(name, value)
    if dropped:
        _tell(cause, dropped)


def _is_too_long(value: object) -> bool:
    return isinstance(value, str | bytes) and len(value) > _LONGEST_ID


def _tell(cause: Delivery, dropped: list[str]) -> None:
    if times := _say():
        _log.warning(
            "%s/%s: an event has a %s that is not valid, or too long to be copied to what its handler publishes: it is "
            "left out there (%d times since this was said last)",
            cause.topic,
            cause.group,
            " and a ".join(dict.fromkeys(dropped)),
            times,
        )


def inject(headers: dict[str, str]) -> None:
    """With an SDK: the current context, over what was taken from the cause."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    headers.update(carrier)


class trace(BuiltIn):  # noqa: N801 - used as a decorator
    """A consumer span around each start of the handler, child of the publisher's. In every chain by default."""

    kind = "trace"
    place = 0

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler; nothing is added where no OpenTelemetry SDK is set up when the Bus starts."""
        if not tracing():
            return call_next
        tracer = otel.get_tracer("anybroker")
        name = f"process {chain.topic}"
        constant: Mapping[str, str] = {
            "messaging.system": chain.capabilities.adapter,
            "messaging.destination.name": chain.topic,
            "messaging.consumer.group.name": chain.group,
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "anybroker.handler": chain.handler.name,
        }

        async def run(delivery: Delivery) -> None:
            parent = propagate.extract(incoming(delivery))
            token = otel_context.attach(parent)
            try:
                with tracer.start_as_current_span(
                    name,
                    kind=SpanKind.CONSUMER,
                    attributes=constant,
                    record_exception=False,
                    set_status_on_exception=False,
                ) as span:
                    if not isinstance(delivery.event, Foreign):
                        span.set_attribute("messaging.message.id", delivery.event.id[:_LONGEST_ID])
                        span.set_attribute("cloudevents.event_type", delivery.event.type)
                        span.set_attribute("cloudevents.event_source", delivery.event.source)
                    span.set_attribute("anybroker.attempt", delivery.attempt)
                    try:
                        await call_next(delivery)
                    except Retry as exc:
                        span.set_status(Status(StatusCode.ERROR, f"retry: {exc.reason}"))
                        raise
                    except Exception as exc:
                        span.set_status(Status(StatusCode.ERROR, type(exc).__name__))
                        span.set_attribute("error.type", type(exc).__qualname__)
                        raise
                    if delivery.verdict is not None:
                        span.set_status(Status(StatusCode.ERROR, "dead-lettered"))
                        span.set_attribute("error.type", type(delivery.verdict).__qualname__)
            finally:
                otel_context.detach(token)

        return run
