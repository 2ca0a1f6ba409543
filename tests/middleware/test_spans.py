"""Spans: the names of the conventions, what a publish and a start record, and that nothing runs without an SDK."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import cloudevents_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from anybroker import BatchFailed, Bus, Delivery, Event, MemoryBroker, Receipt, Reject, Retry
from anybroker.adapter import BrokerUrl, Outbound
from anybroker.engine import spans as module
from anybroker.engine.seldom import Seldom
from anybroker.errors import PublishOutcomeUnknown, Rejected
from anybroker.memory import MemoryAdapter
from anybroker.middleware import publish_middleware, retry
from anybroker.middleware.outgoing import Outgoing, PublishHandler
from anybroker.testing import FaultyBroker, fail, settled

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def of(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return sorted(
        (each for each in exporter.get_finished_spans() if each.name == name), key=lambda each: each.start_time
    )  # type: ignore[arg-type,return-value]


def one(exporter: InMemorySpanExporter, name: str) -> Any:
    (span,) = of(exporter, name)
    return span


def errors(span: Any) -> tuple[Any, ...]:
    """Its status, its description, its error.type, and the messages of the exceptions that it records."""
    return (
        span.status.status_code,
        span.status.description,
        (span.attributes or {}).get("error.type"),
        [event.attributes["exception.message"] for event in span.events],
    )


# ------------------------------------------------------------------------------------------------- the conventions


def conventional() -> set[str]:
    """Every attribute that the conventions have in the namespaces that we use, without those they have given up."""
    names: set[str] = set()
    for source in (messaging_attributes, cloudevents_attributes, error_attributes, server_attributes):
        text = Path(source.__file__ or "").read_text(encoding="utf-8")
        for name, docs in re.findall(r'^[A-Z_]+: Final = "([^"]+)"\n"""\n(.*?)"""', text, re.MULTILINE | re.DOTALL):
            if not docs.startswith("Deprecated"):
                names.add(name)
    return names


def test_every_name_is_one_of_the_conventions(run: Any, spans: InMemorySpanExporter) -> None:
    """What is not has our own namespace. Operations, kinds and the schema are those of the conventions too."""
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
    async def charge(event: Event) -> None:
        raise Reject("no")

    @bus.subscribe("many", group="billing", batch=2)
    async def sums(events: list[Event]) -> None: ...

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t", extensions={"correlationid": "saga-5"})
            await bus.publish_many("many", [Event.create(n, type="t", source="shop") for n in range(2)])
            await settled(bus)
            await bus.dead_letters("orders", "billing").replay()
            await settled(bus)

    run(main())
    finished = spans.get_finished_spans()
    used = {name for span in finished for name in span.attributes or {}}
    used |= {name for span in finished for link in span.links for name in link.attributes or {}}
    known = conventional()
    assert len(known) > 40
    ours = {"anybroker.handler", "anybroker.attempt", "anybroker.copy"}
    assert used - ours <= known
    assert used >= ours
    operations = {item.value for item in messaging_attributes.MessagingOperationTypeValues} - {"publish", "deliver"}
    kinds = {
        "create": {SpanKind.PRODUCER},
        "process": {SpanKind.CONSUMER},
        "send": {SpanKind.PRODUCER, SpanKind.CLIENT},
    }
    for span in finished:
        said = span.attributes or {}
        assert said["messaging.operation.type"] in operations
        assert span.name == f"{said['messaging.operation.name']} {said['messaging.destination.name']}"
        assert span.kind in kinds[str(said["messaging.operation.type"])]
        assert span.instrumentation_scope is not None
        assert (span.instrumentation_scope.name, span.instrumentation_scope.schema_url) == ("anybroker", module.SCHEMA)
    assert {(span.attributes or {}).get("messaging.message.conversation_id") for span in finished} == {"saga-5", None}


def test_the_constants_are_names_of_the_conventions() -> None:
    names = {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}
    own = {name for name in names if name.startswith(("anybroker.", "https:"))}
    assert len(own) == 4
    assert names - own <= conventional()
    assert module.SCHEMA in {schema.value for schema in Schemas}


def test_a_broker_that_the_conventions_know_has_their_name() -> None:
    known = {item.value for item in messaging_attributes.MessagingSystemValues}
    from anybroker_kafka import KafkaAdapter
    from anybroker_rabbitmq import RabbitmqAdapter
    from anybroker_sqs import SqsAdapter

    for adapter in (KafkaAdapter, RabbitmqAdapter, SqsAdapter):
        assert adapter.capabilities.system in known
    assert MemoryAdapter.capabilities.system == "memory"


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ((("broker", 9092),), {"server.address": "broker", "server.port": 9092}),
        ((("broker", None),), {"server.address": "broker"}),
        ((("a", 1), ("b", 2)), {}),
        ((), {}),
    ],
)
def test_the_server_is_said_where_there_is_one(
    hosts: tuple[tuple[str, int | None], ...], expected: dict[str, object], spans: InMemorySpanExporter
) -> None:
    url = BrokerUrl("kafka", hosts, "user", "secret")
    made = module.spans_of(MemoryAdapter.capabilities, url)
    assert made is not None
    found = made.attributes("send", "orders")
    assert {name: value for name, value in found.items() if name.startswith("server.")} == expected


def test_without_an_sdk_nothing_of_it_runs(run: Any, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a span was made")

    monkeypatch.setattr(module.Spans, "__init__", never)
    seen: list[Delivery] = []

    @bus.subscribe("orders", group="billing")
    async def look(delivery: Delivery) -> None:
        seen.append(delivery)

    async def main() -> None:
        async with bus:
            assert (bus._core.spans, bus._way_out) == (None, None)
            await bus.publish("orders", 1, type="t")
            await settled(bus)

    run(main())
    (delivery,) = seen
    assert (delivery.headers, delivery.last_span) == ({}, None)


def test_an_sdk_that_was_set_up_between_two_starts_counts(
    run: Any, bus: Bus, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
            async with bus:
                await bus.publish("orders", 1, type="t")
        assert spans.get_finished_spans() == ()
        async with bus:
            await bus.publish("orders", 1, type="t")
        one(spans, "send orders")

    run(main())


# ------------------------------------------------------------------------------------------------------- publishing


def test_a_publish_that_fails_says_so(run: Any, spans: InMemorySpanExporter) -> None:
    bus = Bus(FaultyBroker(MemoryBroker(), fail("publish", Rejected("too odd"))), source="shop")

    async def main() -> None:
        async with bus:
            with pytest.raises(Rejected):
                await bus.publish("orders", 1, type="t")

    run(main())
    assert errors(one(spans, "send orders")) == (StatusCode.ERROR, "Rejected", "Rejected", ["too odd"])


def test_a_publish_that_is_cancelled_has_failed(run: Any, spans: InMemorySpanExporter) -> None:
    @publish_middleware
    async def waits(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        await asyncio.Event().wait()
        return await call_next(outgoing)

    bus = Bus(MemoryBroker(), source="shop", publish_middleware=[waits])

    async def main() -> None:
        async with bus:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(bus.publish("orders", 1, type="t"), 0.01)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(bus.publish_many("orders", [Event.create(1, type="t", source="shop")]), 0.01)

    run(main())
    alone, batch = of(spans, "send orders")
    assert errors(alone)[:3] == errors(batch)[:3] == (StatusCode.ERROR, "CancelledError", "CancelledError")
    assert errors(one(spans, "create orders"))[2] == "CancelledError"


def test_what_failed_of_a_batch_is_recorded_by_id(run: Any, spans: InMemorySpanExporter) -> None:
    unknown = PublishOutcomeUnknown("no answer")
    bus = Bus(FaultyBroker(MemoryBroker(), fail("publish", unknown, nth=2)), source="shop")

    async def main() -> None:
        async with bus:
            await bus.publish_many("orders", [Event.create(n, type="t", source="shop", id=f"o-{n}") for n in range(3)])

    run(main())
    send = one(spans, "send orders")
    assert errors(send) == (StatusCode.ERROR, "1 of 3 failed", "PublishOutcomeUnknown", ["no answer"])
    assert send.events[0].attributes["messaging.message.id"] == "o-1"
    assert {errors(span)[0] for span in of(spans, "create orders")} == {StatusCode.UNSET}


@pytest.mark.parametrize("many", [False, True])
def test_the_span_is_around_the_middleware(run: Any, spans: InMemorySpanExporter, many: bool) -> None:
    """What it does is in the span, the event is described as it left it, and the headers have the context of the span,
    even where the middleware has a span of its own, or writes a context."""
    tracer = trace.get_tracer("test")

    @publish_middleware
    async def seal(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        with tracer.start_as_current_span("seal"):
            outgoing.event = outgoing.event.replace(type="sealed")
            outgoing.headers["traceparent"] = PARENT
            token = context.attach(baggage.set_baggage("tenant", "t-9"))
            try:
                return await call_next(outgoing)
            finally:
                context.detach(token)

    bus = Bus(MemoryBroker(), source="shop", publish_middleware=[seal])
    headers: list[Any] = []

    @bus.subscribe("orders", group="billing")
    async def look(delivery: Delivery) -> None:
        headers.append(delivery.headers)

    async def main() -> None:
        async with bus:
            if many:
                await bus.publish_many("orders", [Event.create(1, type="t", source="shop")])
            else:
                await bus.publish("orders", 1, type="t")
            await settled(bus)

    run(main())
    outer, inner, process = (
        one(spans, name) for name in ("create orders" if many else "send orders", "seal", "process orders")
    )
    assert inner.parent.span_id == process.parent.span_id == outer.context.span_id
    assert outer.attributes["cloudevents.event_type"] == "sealed"
    assert headers == [
        {
            "traceparent": f"00-{outer.context.trace_id:032x}-{outer.context.span_id:016x}-"
            f"{outer.context.trace_flags:02x}",
            "baggage": "tenant=t-9",
        }
    ]


def test_a_middleware_that_raises_is_recorded(run: Any, spans: InMemorySpanExporter) -> None:
    @publish_middleware
    async def refuse(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        raise ValueError("not this one")

    bus = Bus(MemoryBroker(), source="shop", publish_middleware=[refuse])

    async def main() -> None:
        async with bus:
            with pytest.raises(ValueError, match="not this one"):
                await bus.publish("orders", 1, type="t")
            with pytest.raises(ValueError, match="not this one"):
                await bus.publish_many("orders", [Event.create(1, type="t", source="shop")])

    run(main())
    alone, batch = of(spans, "send orders")
    expected = (StatusCode.ERROR, "ValueError", "ValueError", ["not this one"])
    assert errors(alone) == errors(batch) == errors(one(spans, "create orders")) == expected


class Outbox:
    def __init__(self) -> None:
        self.rows: list[Outbound] = []

    def takes(self, within: object) -> bool:
        return within is self

    async def put(self, outbound: Outbound, within: object) -> Receipt:
        self.rows.append(outbound)
        return Receipt(outbound.topic, "row")


class BatchOutbox(Outbox):
    fails = False

    async def put_many(self, batch: Sequence[Outbound], within: object) -> Sequence[Receipt]:
        if self.fails:
            raise ValueError("not these")
        return [await self.put(outbound, within) for outbound in batch]


def test_a_batch_that_an_outbox_takes_whole_is_created_one_by_one(run: Any, spans: InMemorySpanExporter) -> None:
    """Each row has the context of a span of its own, which fails if the batch fails."""
    outbox = BatchOutbox()
    bus = Bus(MemoryBroker(), source="shop", sinks=[outbox])
    batch = [Event.create(n, type="t", source="shop") for n in range(3)]

    async def main() -> None:
        async with bus:
            await bus.publish_many("orders", batch, within=outbox)
            outbox.fails = True
            with pytest.raises(ValueError, match="not these"):
                await bus.publish_many("orders", batch[:2], within=outbox)

    run(main())
    created = of(spans, "create orders")
    ids = [f"{span.context.span_id:016x}" for span in created[:3]]
    assert [(row.headers or {})["traceparent"][36:52] for row in outbox.rows] == ids
    expected = (StatusCode.ERROR, "ValueError", "ValueError", ["not these"])
    assert [errors(span) for span in created[3:]] == [expected, expected]


@pytest.mark.parametrize("outbox", [Outbox(), BatchOutbox()], ids=["one", "many"])
def test_what_goes_into_an_outbox_is_created(run: Any, spans: InMemorySpanExporter, outbox: Outbox) -> None:
    """Its context is the event's, also when the relay sends it on."""
    bus = Bus(MemoryBroker(), source="shop", sinks=[outbox])

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t", within=outbox)
            await bus.publish_many("orders", [Event.create(1, type="t", source="shop")], within=outbox)
            assert of(spans, "send orders") == []
            for row in outbox.rows:
                await bus.publish(row.topic, row.event, headers=row.headers)

    run(main())
    created, sent = of(spans, "create orders"), of(spans, "send orders")
    assert [span.kind for span in (*created, *sent)] == [SpanKind.PRODUCER] * 2 + [SpanKind.CLIENT] * 2
    for row, create, send in zip(outbox.rows, created, sent, strict=True):
        assert (row.headers or {})["traceparent"][36:52] == f"{create.context.span_id:016x}"
        assert [link.context.span_id for link in send.links] == [create.context.span_id]


def test_an_order_of_publishes_stays(run: Any, spans: InMemorySpanExporter) -> None:
    """Of one key, also between publish_many and a publish that is stepped after it."""
    bus = Bus(MemoryBroker(), source="shop")
    seen: list[int] = []

    @bus.subscribe("orders", group="billing")
    async def look(number: int) -> None:
        seen.append(number)

    async def main() -> None:
        async with bus:
            many = bus.publish_many("orders", [Event.create(n, type="t", source="shop", key="k") for n in range(3)])
            await asyncio.gather(many, bus.publish("orders", 3, type="t", key="k"))
            await settled(bus)

    run(main())
    assert seen == [0, 1, 2, 3]


def test_baggage_that_a_handler_changes_goes_on_changed(run: Any, spans: InMemorySpanExporter, bus: Bus) -> None:
    got: list[Any] = []

    @bus.subscribe("first", group="g")
    async def change(event: Event) -> None:
        context.attach(baggage.set_baggage("tenant", "t-10"))
        await bus.publish("second", 1, type="t")
        await bus.publish("second", 2, type="t", headers={"baggage": "mine=1"})
        context.attach(baggage.clear())
        await bus.publish("second", 3, type="t")

    @bus.subscribe("second", group="g")
    async def look(delivery: Delivery) -> None:
        got.append(delivery.headers.get("baggage"))

    async def main() -> None:
        async with bus:
            await bus.publish("first", 1, type="t", headers={"baggage": "tenant=t-9"})
            await settled(bus)

    run(main())
    assert got == ["tenant=t-10", "mine=1", None]


# -------------------------------------------------------------------------------------------------------- consuming


def test_the_trace_in_which_the_bus_started_has_nothing_to_do_with_a_start(
    run: Any, spans: InMemorySpanExporter, bus: Bus
) -> None:
    @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
    async def charge(event: Event) -> None:
        raise Reject("no")

    async def main() -> None:
        with trace.get_tracer("test").start_as_current_span("deployment"):
            await bus.start()
        sender = bus._core.publisher
        assert sender is not None
        await sender.send_many("orders", [(Event.create(1, type="t", source="shop"), {})], None)  # without a trace
        await settled(bus)
        await bus.close()

    run(main())
    process = one(spans, "process orders")
    assert (process.parent, process.links) == (None, ())
    assert one(spans, "send orders.billing.dlq").parent.span_id == process.context.span_id


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise TypeError("cannot be said")


def test_an_exception_without_a_text_changes_nothing(run: Any, spans: InMemorySpanExporter, bus: Bus) -> None:
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing", middleware=[retry(attempts=2, first=0.0)])
    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Unspeakable

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await settled(bus)
            assert bus.problems == {}
            assert bus.subscriptions[0].stats.dead_lettered == 1

    run(main())
    assert attempts == [1, 2]
    for span in of(spans, "process orders"):
        assert span.attributes is not None
        assert span.attributes["error.type"] == "Unspeakable"
        assert [(event.attributes or {})["exception.type"] for event in span.events] == ["Unspeakable"]


@pytest.mark.parametrize("why", ["unhandled", "expired", "poisoned"])
def test_what_is_dead_lettered_without_a_handler_has_a_span(
    run: Any, spans: InMemorySpanExporter, bus: Bus, why: str
) -> None:
    subscription = bus.subscription("orders", group="billing", unhandled="dead_letter")

    @subscription.on(type="known")
    async def charge(event: Event) -> None: ...

    expired = {"expirytime": "2020-01-01T00:00:00Z"} if why == "expired" else {}

    async def main() -> None:
        async with bus:
            if why == "poisoned":
                assert subscription._pump is not None
                subscription._pump._intake._poison_after = 0
                deliveries = subscription._pump._intake.accept

                def again(batch: Any) -> None:
                    for inbound in batch:
                        inbound.deliveries = 5
                    deliveries(batch)

                subscription._pump._intake.accept = again  # type: ignore[method-assign]
            await bus.publish("orders", 1, type="odd" if why == "unhandled" else "known", extensions=expired)
            await settled(bus)

    run(main())
    process = one(spans, "process orders")
    kinds = {"unhandled": "UnhandledError", "expired": "ExpiredError", "poisoned": "PoisonedError"}
    assert errors(process)[:3] == (StatusCode.ERROR, "dead-lettered", kinds[why])
    assert process.attributes["anybroker.attempt"] == 0
    assert one(spans, "send orders.billing.dlq").parent.span_id == process.context.span_id


def test_a_type_that_is_skipped_has_none(run: Any, spans: InMemorySpanExporter, bus: Bus) -> None:
    subscription = bus.subscription("orders", group="billing")

    @subscription.on(type="known")
    async def charge(event: Event) -> None: ...

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="odd")
            await settled(bus)

    run(main())
    assert of(spans, "process orders") == []


def test_a_start_that_the_drain_cuts_off_is_not_the_handlers_failure(
    run: Any, spans: InMemorySpanExporter, bus: Bus
) -> None:
    began = asyncio.Event()

    @bus.subscribe("orders", group="billing")
    async def waits(event: Event) -> None:
        began.set()
        await asyncio.Event().wait()

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await began.wait()
            await bus.close(drain=0)

    run(main())
    assert errors(one(spans, "process orders")) == (StatusCode.ERROR, "cut off", "CancelledError", [])


def test_a_retry_of_the_handlers_own_says_its_reason(run: Any, spans: InMemorySpanExporter, bus: Bus) -> None:
    @bus.subscribe("orders", group="billing")
    async def later(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise Retry(after=0.0, reason="not yet")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await settled(bus)

    run(main())
    first, second = of(spans, "process orders")
    assert errors(first)[:3] == (StatusCode.ERROR, "retry: not yet", "Retry")
    assert errors(second) == (StatusCode.UNSET, None, None, [])


def test_a_batch_records_each_failure_by_id_and_its_retry_links_it(
    run: Any, spans: InMemorySpanExporter, bus: Bus
) -> None:
    calls: list[int] = []

    @bus.subscribe("orders", group="billing", batch=3, within=0.05, middleware=[retry(attempts=2, first=0.0)])
    async def charge(numbers: list[int]) -> None:
        calls.append(len(numbers))
        if len(calls) == 1:
            raise BatchFailed({1: ValueError("the second")})

    async def main() -> None:
        async with bus:
            await bus.publish_many("orders", [Event.create(n, type="t", source="shop", id=f"o-{n}") for n in range(3)])
            await settled(bus)

    run(main())
    first, second = of(spans, "process orders")
    assert calls == [3, 1]
    assert errors(first) == (StatusCode.ERROR, "1 of 3 failed", "ValueError", ["the second"])
    assert (first.events[0].attributes or {})["messaging.message.id"] == "o-1"
    created = {
        (span.attributes or {})["messaging.message.id"]: span.context.span_id for span in of(spans, "create orders")
    }
    assert [link.context.span_id for link in first.links] == list(created.values())
    assert [link.context.span_id for link in second.links] == [first.context.span_id, created["o-1"]]


def test_an_event_that_comes_back_from_an_outage_of_dead_letters_stays_in_its_trace(
    run: Any, spans: InMemorySpanExporter
) -> None:
    """The letter that is sent in the end goes on from a start of this event."""
    twice = [
        fail("publish", Rejected("full"), when=lambda outbound: outbound.is_dead_letter, nth=number)
        for number in (1, 2)
    ]  # after the first one the topic is declared again, and the letter sent again at once
    bus = Bus(FaultyBroker(MemoryBroker(), *twice), source="shop")

    @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
    async def charge(event: Event) -> None:
        raise Reject("no")

    async def main() -> str:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list()
            return letter.headers["traceparent"]

    written = run(main())
    first, second = of(spans, "process orders")
    assert errors(first)[2] == "Rejected"
    assert errors(second)[1:3] == ("dead-lettered", "Reject")
    assert first.context.span_id in [link.context.span_id for link in second.links]
    assert written[36:52] == f"{second.context.span_id:016x}"


class Fails(SpanProcessor):
    """A span processor of the program that raises."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Span, parent_context: context.Context | None = None) -> None:
        if self.where == "start":
            raise KeyError("tenant")

    def on_end(self, span: ReadableSpan) -> None:
        if self.where == "end":
            raise KeyError("tenant")


class FailingPropagator(TextMapPropagator):
    def __init__(self, where: str) -> None:
        self.where = where

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        if self.where == "extract":
            raise KeyError("tenant")
        return context

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        if self.where == "inject":
            raise KeyError("tenant")

    @property
    def fields(self) -> set[str]:
        return set()


@pytest.mark.parametrize("where", ["start", "end", "extract", "inject"])
def test_tracing_that_fails_changes_nothing_else(
    run: Any, bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Fails(where))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(propagate, "get_global_textmap", lambda: FailingPropagator(where))
    monkeypatch.setattr(module, "_say", Seldom())
    calls: list[str] = []
    subscription = bus.subscription("orders", group="billing", middleware=[retry(attempts=2, first=0.0)])

    async def well(_: Event[Any]) -> None:
        calls.append("well")

    async def broken(_: Event[Any]) -> None:
        calls.append("broken")
        raise ValueError("no")

    async def batch(events: list[Event[Any]]) -> None:
        calls.append("batch")

    subscription.on(well, type="t")
    subscription.on(broken, type="broken")
    subscription.on(batch, type="batch", batch=2)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await bus.publish("orders", 1, type="broken")
            results = await bus.publish_many("orders", [Event.create(1, type="batch", source="shop")])
            assert isinstance(results[0], Receipt)
            await asyncio.wait_for(settled(bus), 10.0)
            assert len(await bus.dead_letters("orders", "billing").list(5)) == 1

    run(main())
    assert sorted(calls) == ["batch", "broken", "broken", "well"]
    stats = subscription.stats
    assert (stats.dead_lettered, stats.stuck) == (1, 0)
    (said,) = [each.getMessage() for each in caplog.records if each.name == "anybroker.observe"]
    assert said.startswith("OpenTelemetry failed at ")


def test_an_exception_whose_text_cannot_be_made_is_dead_lettered_once(
    run: Any, spans: InMemorySpanExporter, bus: Bus
) -> None:
    class Cancels(Exception):
        def __str__(self) -> str:
            raise asyncio.CancelledError

    @bus.subscribe("orders", group="billing", middleware=[retry(attempts=1)])
    async def charge(_: Event[Any]) -> None:
        raise Cancels

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="t")
            await asyncio.wait_for(settled(bus), 10.0)
            assert len(await bus.dead_letters("orders", "billing").list(5)) == 1

    run(main())
    assert one(spans, "process orders").attributes["error.type"].endswith("Cancels")
