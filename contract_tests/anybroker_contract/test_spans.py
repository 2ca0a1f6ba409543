"""spans: with an OpenTelemetry SDK, every publish and every start is a span by the conventions, linked to its cause."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from anybroker import Delivery, Event, Receipt
from anybroker.adapter import Foreign
from anybroker.middleware import retry
from anybroker.middleware import trace as traced

from ._kit import TYPE, FailsUntilFixed, Kit, counted
from .marks import requires
from .test_dead_letter import broken, letters
from .test_trace import BAGGAGE, HOP, PARENT, STATE


class Spans:
    """What was exported."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def of(self, name: str) -> list[ReadableSpan]:
        """The spans of this name, in the order in which they began."""
        found = [span for span in self._exporter.get_finished_spans() if span.name == name]
        return sorted(found, key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        (span,) = self.of(name)
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """An SDK for this test only: the API keeps the first provider of a process for ever."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield Spans(exporter)
    provider.shutdown()


def context_of(span: ReadableSpan) -> SpanContext:
    """Where it is."""
    context: SpanContext | None = span.context
    assert context is not None
    return context


def written(span: ReadableSpan) -> str:
    """Its context as a ``traceparent``."""
    context = context_of(span)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def place(context: SpanContext | None) -> tuple[int, int] | None:
    """Trace and span, to compare."""
    return None if context is None else (context.trace_id, context.span_id)


def linked(span: ReadableSpan) -> list[tuple[int, int] | None]:
    """What it links."""
    return [place(link.context) for link in span.links]


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether one span is the parent of the other."""
    return place(span.parent) == place(context_of(parent))


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Without the server, which not every broker has."""
    return {name: value for name, value in (span.attributes or {}).items() if not name.startswith("server.")}


def exceptions(span: ReadableSpan) -> list[Any]:
    """The types of the exceptions that it records."""
    return [(event.attributes or {})["exception.type"] for event in span.events if event.name == "exception"]


def described(kit: Kit, topic: str, operation: str, **more: Any) -> dict[str, Any]:
    """The attributes that a span of a counted event has."""
    return {
        "messaging.system": kit.capabilities.system,
        "messaging.destination.name": topic,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.message.id": "w-0",
        "cloudevents.event_id": "w-0",
        "cloudevents.event_source": "contract",
        "cloudevents.event_type": TYPE,
        **more,
    }


async def test_a_publish_and_its_start_are_spans_of_one_trace(kit: Kit, spans: Spans) -> None:
    """``send`` is a producer span, and ``process`` a consumer span that is its child and links it; both have the names
    and attributes of the conventions. The headers have the context of ``send``; the event itself is not changed."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        with trace.get_tracer("contract").start_as_current_span("checkout"):
            await bus.publish(topic, counted(0, key="a person"))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
    send, process = spans.one(f"send {topic}"), spans.one(f"process {topic}")
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert is_child(send, spans.one("checkout"))
    assert is_child(process, send)
    assert linked(process) == [place(context_of(send))]
    assert attributes(send) == described(kit, topic, "send")
    own = {"messaging.consumer.group.name": "g", "anybroker.handler": "contract", "anybroker.attempt": 1}
    assert attributes(process) == described(kit, topic, "process", **own)
    assert {send.status.status_code, process.status.status_code} == {StatusCode.UNSET}
    (handling,) = log.handlings
    assert handling.headers["traceparent"] == written(send)
    assert "traceparent" not in handling.event


async def test_a_context_that_the_caller_gives_is_the_events(kit: Kit, spans: Spans) -> None:
    """``publish(headers=)`` with a ``traceparent`` is sent as it is: ``send`` links it, and ``process`` is its child.
    The starting trace in the event's own extensions stays too."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    headers = {"traceparent": HOP, "tracestate": STATE, "baggage": BAGGAGE}
    event = counted(0).replace(extensions={"traceparent": PARENT})
    async with bus:
        await bus.publish(topic, event, headers=headers)
        await log.wait_done(["w-0"])
    (handling,) = log.handlings
    assert {name: handling.headers.get(name) for name in headers} == headers
    assert handling.event["traceparent"] == PARENT
    hop = (int(HOP[3:35], 16), int(HOP[36:52], 16))
    send, process = spans.one(f"send {topic}"), spans.one(f"process {topic}")
    assert (send.kind, linked(send)) == (SpanKind.CLIENT, [hop])
    assert (place(process.parent), linked(process)) == (hop, [hop])


@pytest.mark.parametrize("form", ["async", "def", "task", "headers passed on"])
async def test_what_a_handler_publishes_is_a_child_of_its_start(kit: Kit, spans: Spans, form: str) -> None:
    """Also from a thread, from a task that the handler made, and with the headers of its delivery; and the next start
    is a child of that. The baggage goes on."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()

    async def on(delivery: Delivery) -> None:
        headers = delivery.headers if form == "headers passed on" else None
        publish = bus.publish(second, {"n": 1}, type=TYPE, headers=headers)
        await (asyncio.create_task(publish) if form == "task" else publish)

    def on_in_a_thread(_: Delivery) -> None:
        bus.from_thread.publish(second, {"n": 1}, type=TYPE)

    bus.subscribe(first, group="g", name="contract")(on_in_a_thread if form == "def" else on)
    log = kit.subscribe(bus, second)
    async with bus:
        await bus.publish(first, counted(0), headers={"baggage": BAGGAGE})
        await log.until(lambda: log.done, "the second hop")
    (handling,) = log.handlings
    way = [spans.one(f"{operation} {topic}") for topic in (first, second) for operation in ("send", "process")]
    assert all(is_child(child, parent) for parent, child in pairwise(way))
    assert handling.headers["traceparent"] == written(way[2])
    assert handling.headers["baggage"] == BAGGAGE


async def test_each_event_of_publish_many_has_its_own_context(kit: Kit, spans: Spans) -> None:
    """One ``create`` span for each event, of which the start is a child, and one ``send`` span that links them."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        results = await bus.publish_many(topic, [counted(number) for number in range(3)])
        assert all(isinstance(result, Receipt) for result in results)
        await log.wait_done(["w-0", "w-1", "w-2"])
    created, send = spans.of(f"create {topic}"), spans.one(f"send {topic}")
    assert [(span.attributes or {})["messaging.message.id"] for span in created] == ["w-0", "w-1", "w-2"]
    assert {span.kind for span in created} == {SpanKind.PRODUCER}
    assert attributes(created[0]) == described(kit, topic, "create")
    assert send.kind is SpanKind.CLIENT
    assert (send.attributes or {})["messaging.batch.message_count"] == 3
    assert linked(send) == [place(context_of(span)) for span in created]
    by_id = {(span.attributes or {})["messaging.message.id"]: span for span in spans.of(f"process {topic}")}
    assert all(is_child(by_id[f"w-{number}"], created[number]) for number in range(3))


async def test_a_retry_links_the_start_before_it(kit: Kit, spans: Spans) -> None:
    """Every start is a span, each with the exception that it failed with; all are children of ``send``, and each links
    the one before it."""
    topic = kit.topic()
    bus = kit.bus()

    async def twice(delivery: Delivery) -> None:
        if delivery.attempt < 3:
            raise ValueError(f"attempt {delivery.attempt}")

    log = kit.subscribe(bus, topic, behave=twice, middleware=[retry(attempts=3, first=0.01)])
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
    send, starts = spans.one(f"send {topic}"), spans.of(f"process {topic}")
    assert [(span.attributes or {})["anybroker.attempt"] for span in starts] == [1, 2, 3]
    assert all(is_child(span, send) for span in starts)
    places = [place(context_of(span)) for span in (send, *starts)]
    assert [linked(span) for span in starts] == [places[:1], places[:2], [places[0], places[2]]]
    assert [exceptions(span) for span in starts] == [["ValueError"], ["ValueError"], []]
    assert [(span.attributes or {}).get("error.type") for span in starts] == ["ValueError", "ValueError", None]
    assert [span.status.status_code for span in starts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]


@requires("release")
async def test_a_released_event_stays_in_its_trace(kit: Kit, spans: Spans) -> None:
    """Its next start, by any member, is in the trace: where a copy is sent, a child of the start that failed."""
    topic = kit.topic()
    bus = kit.bus()

    async def once(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise ValueError("once")

    middleware = [retry(attempts=2, first=0.01, mode="release")]
    log = kit.subscribe(bus, topic, behave=once, middleware=middleware, ordered=False)
    async with bus:
        await bus.publish(topic, counted(0))
        await log.wait_done(["w-0"])
        await kit.drained(bus, topic)
    first, second = spans.of(f"process {topic}")
    sent = spans.of(f"send {topic}")
    if kit.capabilities.release.value == "emulated":
        assert is_child(second, first)
        assert linked(second) == [place(context_of(first))]
        assert is_child(sent[1], first)
        assert (sent[1].attributes or {})["anybroker.copy"] == "release"
    else:
        assert is_child(second, sent[0])
        assert len(sent) == 1


async def test_a_dead_letter_and_its_replay_go_on_from_the_start_that_failed(kit: Kit, spans: Spans) -> None:
    """Sending the dead letter is a child of the failed start, whose context the letter has; the start of the replay is
    its child and links it, and what it publishes is in the same trace."""
    topic = kit.topic()
    bus = kit.bus()
    behave = FailsUntilFixed()
    log = kit.subscribe(bus, topic, behave=behave, middleware=[retry(attempts=1)])
    async with bus:
        await bus.publish(topic, counted(0))
        (letter,) = await letters(kit, bus, topic, 1)
        behave.fixed = True
        await bus.dead_letters(topic, "g").replay()
        await log.wait_done(["w-0"])
    failure, replayed = spans.of(f"process {topic}")
    assert exceptions(failure) == ["ValueError"]
    assert (failure.status.status_code, failure.status.description) == (StatusCode.ERROR, "dead-lettered")
    (dead,) = spans.of(f"send {topic}.g.dlq")
    assert (dead.kind, (dead.attributes or {})["anybroker.copy"]) == (SpanKind.CLIENT, "dead_letter")
    assert is_child(dead, failure)
    assert linked(dead) == [place(context_of(failure))]
    assert letter.headers["traceparent"] == written(failure)
    back = spans.of(f"send {topic}")[1]
    assert (back.attributes or {})["anybroker.copy"] == "replay"
    assert linked(back) == linked(replayed) == [place(context_of(failure))]
    assert is_child(replayed, failure)


async def test_dead_letters_of_one_event_are_one_event(kit: Kit, spans: Spans) -> None:
    """They differ in the trace, because each goes on from its own start; one id still names them all."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=broken, middleware=[retry(attempts=1)])
    event = counted(0)
    async with bus:
        await bus.publish(topic, event)
        (letter,) = await letters(kit, bus, topic, 1)
        await bus.dead_letters(topic, "g").replay()
        await log.wait_started(2)
        (again,) = await letters(kit, bus, topic, 1)
        assert letter.headers["traceparent"] != again.headers["traceparent"]
        assert letter.content == again.content


async def test_a_batch_links_every_event(kit: Kit, spans: Spans) -> None:
    """One ``process`` span for each call, a trace of its own, with the number of its events and a link to each; what
    the handler publishes is its child."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()
    sizes: list[int] = []

    async def handle(events: list[Event]) -> None:
        sizes.append(len(events))
        await bus.publish(second, {"n": len(events)}, type=TYPE)

    bus.subscribe(first, group="g", batch=3, within=0.2, name="contract")(handle)
    log = kit.subscribe(bus, second)
    async with bus:
        await kit.publish(bus, first, 3, keys=3)
        await log.until(lambda: sum(handling.event.data["n"] for handling in log.handlings) >= 3, "all of the batches")
        await kit.drained(bus, first)
    sent, batches = spans.of(f"send {first}"), spans.of(f"process {first}")
    assert [span.parent for span in batches] == [None] * len(sizes)
    assert [(span.attributes or {})["messaging.batch.message_count"] for span in batches] == sizes
    assert {span.kind for span in batches} == {SpanKind.CONSUMER}
    links = {(link.attributes or {})["messaging.message.id"]: link for span in batches for link in span.links}
    by_id = {(span.attributes or {})["messaging.message.id"]: span for span in sent}
    assert links.keys() == by_id.keys() == {"w-0", "w-1", "w-2"}
    assert all(place(links[id_].context) == place(context_of(span)) for id_, span in by_id.items())
    assert sorted(place(span.parent) or () for span in spans.of(f"send {second}")) == sorted(
        place(context_of(span)) or () for span in batches
    )


async def test_a_batch_that_fails_records_why(kit: Kit, spans: Spans) -> None:
    """And the dead letters of its events have its context."""
    topic = kit.topic()
    bus = kit.bus()

    async def handle(_: list[Event]) -> None:
        raise ValueError("all of them")

    bus.subscribe(topic, group="g", batch=2, within=0.1, name="contract", middleware=[retry(attempts=1)])(handle)
    async with bus:
        await kit.publish(bus, topic, 2, keys=2)
        found = await letters(kit, bus, topic, 2)
    batches = spans.of(f"process {topic}")
    assert [exceptions(span) for span in batches] == [["ValueError"]] * len(batches)
    assert {span.status.status_code for span in batches} == {StatusCode.ERROR}
    assert {letter.headers["traceparent"] for letter in found} == {written(span) for span in batches}


async def test_a_message_that_is_not_an_event_has_a_span_too(kit: Kit, spans: Spans) -> None:
    """It says why the message was dead-lettered, and the letter goes on from it."""
    topic = kit.topic()
    bus = kit.bus()
    kit.subscribe(bus, topic)
    await kit.send_foreign(topic, ["g"], Foreign(b"not an event", ()))
    async with bus:
        (letter,) = await letters(kit, bus, topic, 1)
    process = spans.one(f"process {topic}")
    assert (process.attributes or {})["error.type"] == "InvalidEvent"
    assert "messaging.message.id" not in (process.attributes or {})
    assert is_child(spans.one(f"send {topic}.g.dlq"), process)
    assert letter.headers["traceparent"] == written(process)


async def test_receive_spans_are_there_for_those_who_ask(kit: Kit, spans: Spans) -> None:
    """``@trace(receive=True)``: a client span for each portion from the broker, with the number of its events and links
    to them; without it none."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic, middleware=[traced(receive=True)])
    others = kit.subscribe(bus, topic, "h")
    async with bus:
        published = await kit.publish(bus, topic, 5, keys=5)
        await log.wait_done(id_ for _, id_ in published)
        await others.wait_done(id_ for _, id_ in published)
    received = spans.of(f"receive {topic}")
    assert received
    assert all((span.attributes or {})["messaging.consumer.group.name"] == "g" for span in received)
    assert {span.kind for span in received} == {SpanKind.CLIENT}
    assert sum((span.attributes or {})["messaging.batch.message_count"] for span in received) >= 5  # type: ignore[misc]
    sent = {place(context_of(span)) for span in spans.of(f"send {topic}")}
    assert {each for span in received for each in linked(span)} == sent
