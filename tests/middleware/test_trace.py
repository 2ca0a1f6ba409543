"""Trace context in and out: without an OpenTelemetry SDK, and the spans with one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from anybroker import Bus, Delivery, Event, MemoryBroker, Reject
from anybroker.adapter import Inbound, Lane
from anybroker.engine.lanes import LaneState
from anybroker.engine.seldom import Seldom
from anybroker.middleware import dead_letter, idempotent, retry
from anybroker.testing import Recorder, settled

_context: Any = import_module("anybroker.engine.context")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
HOP = f"00-{TRACE}-00f067aa0ba902b7-01"


class Chain:
    """carts → orders → invoices: two services that publish what they handle, and what came out at each place."""

    def __init__(self) -> None:
        self.bus = Bus(MemoryBroker(), source="shop")
        self.orders = Recorder(self.bus, "orders")
        self.invoices = Recorder(self.bus, "invoices")
        self.headers: dict[str, dict[str, str]] = {}

        @self.bus.subscribe("carts", group="shop", name="order")
        async def order(event: Event, delivery: Delivery) -> None:
            self.headers["carts"] = dict(delivery.headers)
            await self.bus.publish("orders", event.data, type="order.v1")

        @self.bus.subscribe("orders", group="billing", name="invoice")
        async def invoice(event: Event, delivery: Delivery) -> None:
            self.headers["orders"] = dict(delivery.headers)
            await self.bus.publish("invoices", event.data, type="invoice.v1")

        @self.bus.subscribe("invoices", group="look", name="look")
        async def look(delivery: Delivery) -> None:
            self.headers["invoices"] = dict(delivery.headers)

    async def send(self, **options: Any) -> tuple[Event[Any], Event[Any]]:
        async with self.bus:
            await self.bus.publish("carts", 1, type="cart.v1", id="c-1", **options)
            (invoice,) = await self.invoices.wait(1)
            await settled(self.bus)
            return self.orders.events[0], invoice


def context(event: Event[Any]) -> dict[str, Any]:
    return {name: event.get(name) for name in ("traceparent", "tracestate") if name in event}


# ----------------------------------------------------------------------------------------------------- without SDK


def test_the_starting_trace_goes_through_every_hop_exactly(run: Any) -> None:
    start = {"traceparent": PARENT, "tracestate": "a=1,b=2"}
    chain = Chain()
    order, invoice = run(chain.send(extensions=start))
    assert context(order) == context(invoice) == start


def test_the_hops_own_context_travels_in_the_headers(run: Any) -> None:
    hop = {"traceparent": HOP, "tracestate": "vendor=x", "baggage": "tenant=t-9,flag"}
    chain = Chain()
    order, invoice = run(chain.send(extensions={"traceparent": PARENT}, headers=hop))
    assert chain.headers["carts"] == chain.headers["orders"] == chain.headers["invoices"] == hop
    assert order["traceparent"] == invoice["traceparent"] == PARENT


def test_a_trace_that_is_in_the_headers_only_becomes_the_starting_trace(run: Any) -> None:
    order, invoice = run(Chain().send(headers={"traceparent": HOP, "tracestate": "v=1"}))
    assert context(order) == context(invoice) == {"traceparent": HOP, "tracestate": "v=1"}


def test_without_any_context_none_is_invented(run: Any) -> None:
    chain = Chain()
    order, invoice = run(chain.send())
    assert context(order) == context(invoice) == {}
    assert chain.headers["orders"] == {}


def test_causation_is_the_cause_and_correlation_the_first_of_them(run: Any) -> None:
    order, invoice = run(Chain().send())
    assert (order["causationid"], order["correlationid"]) == ("c-1", "c-1")
    assert (invoice["causationid"], invoice["correlationid"]) == (order.id, "c-1")


def test_a_correlation_that_is_there_is_kept(run: Any) -> None:
    order, invoice = run(Chain().send(extensions={"correlationid": "saga-5"}))
    assert (order["correlationid"], invoice["correlationid"]) == ("saga-5", "saga-5")
    assert order["causationid"] == "c-1"


def test_what_a_handler_says_itself_stays(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    recorder = Recorder(bus, "orders")

    @bus.subscribe("carts", group="shop")
    async def order(event: Event) -> None:
        own = {"correlationid": "mine", "causationid": "mine too", "traceparent": HOP}
        await bus.publish("orders", 1, type="order.v1", extensions=own, headers={"baggage": "mine=1"})
        await bus.publish("orders", Event.create(2, type="order.v1", source="elsewhere"))

    async def main() -> None:
        async with bus:
            await bus.publish(
                "carts", 1, type="cart.v1", extensions={"traceparent": PARENT}, headers={"baggage": "x=1"}
            )
            await recorder.wait(2)

    run(main())
    said, ready_made = recorder.events
    assert (said["correlationid"], said["causationid"], said["traceparent"]) == ("mine", "mine too", HOP)
    assert "causationid" not in ready_made


# --------------------------------------------------------------------------------------------------------- with SDK


def processed(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in exporter.get_finished_spans() if span.name.startswith("process ")]


def test_each_start_is_a_consumer_span_with_the_conventions_attributes(run: Any, spans: InMemorySpanExporter) -> None:
    run(Chain().send())
    span = next(span for span in processed(spans) if span.name == "process carts")
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "memory",
        "messaging.destination.name": "carts",
        "messaging.consumer.group.name": "shop",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.message.id": "c-1",
        "cloudevents.event_id": "c-1",
        "cloudevents.event_type": "cart.v1",
        "cloudevents.event_source": "shop",
        "anybroker.handler": "order",
        "anybroker.attempt": 1,
    }


def test_the_spans_of_a_chain_are_one_trace_each_the_child_of_the_last(run: Any, spans: InMemorySpanExporter) -> None:
    chain = Chain()
    order, invoice = run(chain.send(headers={"traceparent": PARENT}))
    by_name = {
        span.name: span for span in processed(spans) if span.attributes["messaging.consumer.group.name"] != "recorder"
    }  # type: ignore[index]
    carts, orders, invoices = (by_name[f"process {topic}"] for topic in ("carts", "orders", "invoices"))
    assert {format(span.context.trace_id, "032x") for span in (carts, orders, invoices)} == {TRACE}
    assert carts.parent is not None
    assert format(carts.parent.span_id, "016x") == "b7ad6b7169203331"
    sent = {span.name: span for span in spans.get_finished_spans()}
    for parent, between, child in ((carts, "send orders", orders), (orders, "send invoices", invoices)):
        assert child.parent is not None
        assert child.parent.span_id == sent[between].context.span_id
        assert sent[between].parent.span_id == parent.context.span_id
    assert order["traceparent"] == invoice["traceparent"] == PARENT  # the start, not the hop


def test_the_handler_runs_inside_the_span_and_its_baggage_goes_on(run: Any, spans: InMemorySpanExporter) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    seen: list[Any] = []

    @bus.subscribe("carts", group="shop")
    async def order(event: Event) -> None:
        seen.append((trace.get_current_span().get_span_context().trace_id, baggage.get_baggage("tenant")))
        await bus.publish("orders", 1, type="order.v1")

    @bus.subscribe("orders", group="billing")
    async def look(delivery: Delivery) -> None:
        seen.append(delivery.headers["baggage"])

    async def main() -> None:
        async with bus:
            await bus.publish("carts", 1, type="cart.v1", headers={"traceparent": PARENT, "baggage": "tenant=t-9"})
            await settled(bus)

    run(main())
    assert seen == [(int(TRACE, 16), "t-9"), "tenant=t-9"]


def test_publishing_inside_a_span_continues_it(run: Any, spans: InMemorySpanExporter) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    headers: list[Any] = []

    @bus.subscribe("orders", group="billing")
    async def look(delivery: Delivery) -> None:
        headers.append(dict(delivery.headers))

    async def main() -> None:
        async with bus:
            with trace.get_tracer("test").start_as_current_span("checkout"):
                await bus.publish("orders", 1, type="order.v1")
                await settled(bus)

    run(main())
    (child,) = processed(spans)
    checkout, send = (
        {span.name: span for span in spans.get_finished_spans()}[name] for name in ("checkout", "send orders")
    )
    assert child.parent is not None
    assert (send.parent.span_id, child.parent.span_id) == (checkout.context.span_id, send.context.span_id)
    ours = send.context
    assert headers[0]["traceparent"] == f"00-{ours.trace_id:032x}-{ours.span_id:016x}-{ours.trace_flags:02x}"


def test_failures_show_on_their_spans(run: Any, spans: InMemorySpanExporter, bus: Bus, handled: Any) -> None:
    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter()
    @retry(attempts=2, first=0.0)
    async def charge(delivery: Delivery) -> None:
        raise OSError("not there")

    run(handled(bus, 1))
    first, second = processed(spans)
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "retry: OSError")
    assert (second.status.status_code, second.status.description) == (StatusCode.ERROR, "dead-lettered")
    assert (second.attributes or {})["error.type"] == "OSError"
    assert [(span.attributes or {})["anybroker.attempt"] for span in (first, second)] == [1, 2]
    for span in (first, second):
        (recorded,) = span.events
        assert recorded.attributes["exception.message"] == "not there"
        assert "raise OSError" in recorded.attributes["exception.stacktrace"]


def test_without_dead_letters_the_failure_is_the_spans(
    run: Any, spans: InMemorySpanExporter, bus: Bus, until: Any
) -> None:
    @bus.subscribe("orders", group="billing", name="charge")
    @dead_letter(enabled=False)
    @retry(attempts=1)
    async def charge(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            raise Reject("no")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)

    run(main())
    first, second = processed(spans)
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "Reject")
    assert second.status.status_code is StatusCode.UNSET


def test_a_suppressed_copy_is_a_span_without_an_error(
    run: Any, spans: InMemorySpanExporter, bus: Bus, handled: Any
) -> None:
    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None: ...

    async def main() -> None:
        async with bus:
            for _ in range(2):
                await bus.publish("orders", 1, type="order.v1", id="1")
                await settled(bus)

    run(main())
    assert [span.status.status_code for span in processed(spans)] == [StatusCode.UNSET] * 2


@pytest.mark.parametrize(
    ("parent", "state", "kept"),
    [
        (PARENT, "a=1", {"traceparent": PARENT, "tracestate": "a=1"}),
        (PARENT, "a\u00e9", {"traceparent": PARENT}),
        (PARENT, "x" * 513, {"traceparent": PARENT}),
        (PARENT, ",".join(["a=1"] * 32), {"traceparent": PARENT, "tracestate": ",".join(["a=1"] * 32)}),
        (PARENT, ",".join(["a=1"] * 33), {"traceparent": PARENT}),
        ("nonsense", "a=1", {}),
        (PARENT.upper(), "a=1", {}),
        (PARENT.replace("00-", "ff-", 1), "", {}),
        (PARENT + "-more", "", {}),
        ("01" + PARENT[2:] + "-more", "", {"traceparent": "01" + PARENT[2:] + "-more"}),
        ("00-" + "0" * 32 + PARENT[35:], "", {}),
        (PARENT[:36] + "0" * 16 + "-01", "", {}),
        ("\u0000" * 55, "a=1", {}),
        ("x" * 500_000, "a=1", {}),
    ],
)
def test_what_is_not_a_trace_context_is_dropped(parent: str, state: str, kept: dict[str, str], run: Any) -> None:
    """And the event that the handler publishes is one that we can read: no attribute is copied on unseen."""
    bus = Bus(MemoryBroker(), source="shop")
    seen: list[Delivery] = []

    @bus.subscribe("first", group="g")
    async def handle(delivery: Delivery) -> None:
        inbound = delivery.inbound
        inbound.headers = {"traceparent": parent, "tracestate": state, "baggage": "k=v" if kept else "x" * 8193}
        await bus.publish("second", 1, type="t")

    @bus.subscribe("second", group="g")
    async def collect(delivery: Delivery) -> None:
        seen.append(delivery)

    async def main() -> None:
        async with bus:
            await bus.publish("first", 1, type="t")
            await settled(bus)

    run(main())
    (delivery,) = seen
    trace = ("traceparent", "tracestate")
    assert {name: delivery.event[name] for name in trace if name in delivery.event} == kept
    assert {name: value for name, value in delivery.headers.items() if name in trace} == kept
    assert delivery.headers.get("baggage") == ("k=v" if kept else None)


LONGEST = 1024


@pytest.mark.parametrize(
    ("id_", "correlation", "causation", "correlated"),
    [
        ("i" * LONGEST, None, "i" * LONGEST, "i" * LONGEST),
        ("i" * LONGEST, "c" * LONGEST, "i" * LONGEST, "c" * LONGEST),
        ("i" * (LONGEST + 1), None, None, None),
        ("i" * (LONGEST + 1), "c", None, "c"),
        ("i", "c" * (LONGEST + 1), "i", "i"),
        ("i", "", "i", "i"),
        ("i" * 1_000_000, "c" * 1_000_000, None, None),
        ("i", 7, "i", 7),
    ],
)
def test_ids_are_copied_up_to_a_length(
    id_: str, correlation: Any, causation: str | None, correlated: Any, caplog: pytest.LogCaptureFixture
) -> None:
    extensions = {} if correlation is None else {"correlationid": correlation}
    event = Event.create(1, source="shop", type="t", id=id_, extensions=extensions)
    inbound = Inbound(event, Lane("a", 1), 1, None, {}, None)
    taken: dict[str, Any] = {}
    _context._say = Seldom()
    _context.caused(Delivery(event, "a", "g", 1, None, inbound, LaneState(inbound.lane, None)), taken, {})
    assert (taken.get("causationid"), taken.get("correlationid")) == (causation, correlated)
    dropped = causation != id_ or correlation not in (None, "", correlated)
    assert len([record for record in caplog.records if "is left out there" in record.getMessage()]) == dropped


@pytest.mark.parametrize(
    ("baggage", "kept"),
    [
        (",".join(["k=v"] * 64), True),
        (",".join(["k=v"] * 65), False),
        ("k=" + "v" * 8190, True),
        ("k=" + "v" * 8191, False),
        ("k=\u00e9", False),
    ],
)
def test_baggage_is_passed_on_as_far_as_everyone_has_to(baggage: str, kept: bool) -> None:
    event = Event.create(1, source="shop", type="t")
    inbound = Inbound(event, Lane("a", 1), 1, None, {"baggage": baggage}, None)
    headers: dict[str, str] = {}
    _context.caused(Delivery(event, "a", "g", 1, None, inbound, LaneState(inbound.lane, None)), {}, headers)
    assert headers == ({"baggage": baggage} if kept else {})


def test_what_a_batch_handler_publishes_is_in_its_own_trace(run: Any, spans: InMemorySpanExporter) -> None:
    """It is in the batch's own trace, and in neither that of one of its events nor the one in which the Bus started."""
    bus = Bus(MemoryBroker(), source="shop")
    sums = Recorder(bus, "sums")
    headers: list[dict[str, str]] = []

    @bus.subscribe("orders", group="billing", batch=2, within=5)
    async def add_up(numbers: list[int]) -> None:
        await bus.publish("sums", sum(numbers), type="sum.v1")

    @bus.subscribe("sums", group="look")
    async def look(delivery: Delivery) -> None:
        headers.append(dict(delivery.headers))

    async def main() -> None:
        with trace.get_tracer("test").start_as_current_span("deployment"):
            await bus.start()
        for number, parent in enumerate((PARENT, HOP)):
            given = {"traceparent": parent, "baggage": "tenant=t-9"}
            await bus.publish("orders", number, type="order.v1", extensions={"traceparent": parent}, headers=given)
        (event,) = await sums.wait(1)
        await settled(bus)
        await bus.close()
        (batch,) = (span for span in processed(spans) if span.name == "process orders")
        (sent,) = (span for span in spans.get_finished_spans() if span.name == "send sums")
        assert (batch.parent, sent.parent.span_id) == (None, batch.context.span_id)
        assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in batch.links] == [
            parent[3:52] for parent in (PARENT, HOP)
        ]
        (hop,) = headers
        assert (context(event), hop.keys()) == ({}, {"traceparent"})
        assert hop["traceparent"][3:52] == f"{sent.context.trace_id:032x}-{sent.context.span_id:016x}"
        assert not [name for name in ("causationid", "correlationid") if name in event]

    run(main())
