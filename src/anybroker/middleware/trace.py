"""Tracing: W3C context in and out, with the OpenTelemetry API only.

The context itself is read and copied on in :mod:`anybroker.engine.context`; without an OpenTelemetry SDK that is all.
Names: OpenTelemetry semantic conventions for messaging spans.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import context as otel_context
from opentelemetry import propagate
from opentelemetry import trace as otel
from opentelemetry.trace import SpanKind, Status, StatusCode

from ..adapter import Foreign
from ..delivery import Delivery
from ..engine.context import LONGEST_ID, incoming
from ..errors import Retry
from ._base import BuiltIn, Chain, Handler

__all__ = ["inject", "trace", "tracing"]


def tracing() -> bool:
    """Whether somebody listens: an OpenTelemetry SDK is set up. Asked when a Bus starts."""
    provider = otel.get_tracer_provider()
    return not isinstance(provider, otel.ProxyTracerProvider | otel.NoOpTracerProvider)


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
                        span.set_attribute("messaging.message.id", delivery.event.id[:LONGEST_ID])
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
