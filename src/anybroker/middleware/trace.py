"""Tracing: a span around each start of a handler. ``docs/tracing.md`` has the table of all spans.

Without an OpenTelemetry SDK the context is read and copied on in :mod:`anybroker.engine.context`, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import context as otel_context

from ..delivery import Delivery
from ..engine.spans import HANDLER, Spans, end, failed, start_failed
from ..engine.waiting import Waiting
from ..errors import Retry, cause_of
from .layer import Chain, Handler, Layer

__all__ = ["trace", "traced"]


class trace(Layer):  # noqa: N801 - used as a decorator
    """A span around each start of the handler, where an OpenTelemetry SDK is set up when the Bus starts. In every chain
    by default.

    It is a child of the publisher's span and links it; a retry also links the start before it. What the handler failed
    with is recorded. A batch handler has one span for each call, without a parent, that links all of its events.

    ``receive=True``: also a span for each hand-over from the broker, which links up to 128 of its events. The broker
    hands over ahead of the handlers, so that OpenTelemetry's conventions do not want this span; it shows in which
    portions events arrive.
    """

    kind = "trace"
    waits_after = False

    def __init__(self, *, receive: bool = False) -> None:
        self.receive = receive

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler; nothing is added where nothing is traced, and for a batch handler, whose calls are."""
        if chain.spans is None or chain.handler.is_batch:
            return call_next
        return traced(chain.spans, call_next, chain.topic, chain.group, chain.handler.name, chain.giving_up)


def traced(
    spans: Spans, call_next: Handler, topic: str, group: str, handler: str, giving_up: Callable[[], bool]
) -> Handler:
    """A handler that is called in a span. ``handler``: its name; empty where an event is dead-lettered without one."""
    name = f"process {topic}"
    constant = spans.attributes("process", topic, group)
    if handler:
        constant[HANDLER] = handler

    async def run(delivery: Delivery) -> None:
        span, context = spans.process(name, constant, delivery)
        token = otel_context.attach(context)
        try:
            await call_next(delivery)
            if delivery.verdict is not None:
                failed(span, delivery.verdict, "dead-lettered")
        except Retry as exc:
            cause = cause_of(exc)
            if cause is not None or not isinstance(exc, Waiting):  # what only waits for its turn has not failed
                failed(span, exc if cause is None else cause, f"retry: {exc.reason}")
            raise
        except BaseException as exc:
            start_failed(span, exc, giving_up)
            raise
        finally:
            otel_context.detach(token)
            end(span)

    return run
