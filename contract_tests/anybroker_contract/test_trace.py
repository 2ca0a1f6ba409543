"""trace: W3C context and causation go from hop to hop, exactly."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from anybroker import Delivery, Event, Receipt, event_type
from anybroker.adapter import Outbound
from anybroker.middleware.outgoing import Outgoing, PublishHandler, publish_middleware

from ._kit import TYPE, Kit, counted, submit

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOP = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
BAGGAGE = "userId=alice,serverNode=DF%2028,isProduction=false"


async def test_trace_context_arrives_exactly(kit: Kit) -> None:
    """``traceparent`` and ``tracestate``, as extensions and as the hop's headers, and ``baggage``, arrive as sent."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    headers = {"traceparent": HOP, "tracestate": STATE, "baggage": BAGGAGE}
    event = counted(0).replace(extensions={"traceparent": PARENT, "tracestate": STATE})
    async with bus:
        await bus.publish(topic, event, headers=headers)
        await log.wait_done(["w-0"])
    (handling,) = log.handlings
    assert (handling.event["traceparent"], handling.event["tracestate"]) == (PARENT, STATE)
    assert {name: handling.headers.get(name) for name in headers} == headers


async def test_context_and_causation_go_over_every_hop(kit: Kit) -> None:
    """What a handler publishes keeps the starting trace and the correlation, names its cause, and has the baggage; so
    does what the next handler publishes."""
    first, second, third = kit.topic("a"), kit.topic("b"), kit.topic("c")
    bus = kit.bus()

    async def on(delivery: Delivery) -> None:
        target = second if delivery.topic == first else third
        await bus.publish(target, {"n": 1}, type=TYPE, key="k")

    kit.subscribe(bus, first, behave=on)
    middle = kit.subscribe(bus, second, behave=on)
    last = kit.subscribe(bus, third)
    start = counted(0).replace(extensions={"traceparent": PARENT, "tracestate": STATE})
    async with bus:
        await bus.publish(first, start, headers={"traceparent": HOP, "tracestate": STATE, "baggage": BAGGAGE})
        await last.until(lambda: last.done, "the last hop")
    (between,), (end,) = middle.handlings, last.handlings
    assert (between.event["causationid"], between.event["correlationid"]) == (start.id, start.id)
    assert (end.event["causationid"], end.event["correlationid"]) == (between.id, start.id)
    for handling in (between, end):
        assert (handling.event["traceparent"], handling.event["tracestate"]) == (PARENT, STATE)
        assert handling.headers["baggage"] == BAGGAGE
        assert handling.headers["traceparent"] == HOP


async def test_a_correlation_that_is_there_is_kept(kit: Kit) -> None:
    """``correlationid`` of the cause is copied, also if it is not the cause's own id."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()

    async def on(_: Delivery) -> None:
        await bus.publish(second, {"n": 1}, type=TYPE)

    kit.subscribe(bus, first, behave=on)
    log = kit.subscribe(bus, second)
    async with bus:
        await bus.publish(first, counted(0).replace(extensions={"correlationid": "order-4711"}))
        await log.until(lambda: log.done, "the second hop")
    (handling,) = log.handlings
    assert (handling.event["correlationid"], handling.event["causationid"]) == ("order-4711", "w-0")


LONG = 5_000
HOSTILE = {"traceparent": f"00-{'0' * LONG}", "tracestate": "x" * LONG, "correlationid": "c" * LONG}
BESIDE = {"traceparent": f"{HOP}\u00e9", "tracestate": "a=1," * 40, "baggage": "k=v," * 2_100}


@event_type(TYPE)
class Typed(BaseModel):
    """For ``publish_many``, which takes a type from the class alone."""

    n: int


@pytest.mark.parametrize("form", ["async", "def", "many", "middleware"])
async def test_hostile_context_is_not_passed_on(kit: Kit, form: str) -> None:
    """An event with an invalid trace, too much baggage, and an id and a correlation of thousands of characters is
    handled, and what its handler publishes is a valid event without them."""
    first, second = kit.topic("a"), kit.topic("b")
    payload = {"n": 1}

    @publish_middleware
    async def through(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        return await call_next(outgoing)

    bus = kit.bus(publish_middleware=[through] if form == "middleware" else [])

    async def on(_: Delivery) -> None:
        if form == "many":
            assert isinstance((await bus.publish_many(second, [Typed(n=1)]))[0], Receipt)
        else:
            await bus.publish(second, payload, type=TYPE)

    def on_in_a_thread(_: Delivery) -> None:
        bus.from_thread.publish(second, payload, type=TYPE)

    bus.subscribe(first, group="g", name="contract")(on_in_a_thread if form == "def" else on)
    log = kit.subscribe(bus, second)
    event = counted(0).replace(extensions=HOSTILE)
    long_id = Event.create({"n": 0}, source="contract", type=TYPE, id="i" * LONG, extensions=HOSTILE)
    async with bus, kit.adapter() as adapter:
        sender = await adapter.open_sender()
        try:
            for each in (event, long_id):
                (result,) = await submit(sender, [Outbound(each, first, headers=BESIDE)], 10.0)
                assert isinstance(result, Receipt)
        finally:
            await sender.close()
        await log.until(lambda: len(log.done) == 2, "what the handler published")
        await kit.drained(bus, first)
        assert bus.stats.failed == 0
        assert bus.subscriptions[0].stats.dead_lettered == 0
    caused = {handling.event.get("causationid"): handling.event.get("correlationid") for handling in log.handlings}
    assert caused == {"w-0": "w-0", None: None}
    for handling in log.handlings:
        assert [name for name in ("traceparent", "tracestate") if name in handling.event] == []
        assert handling.headers == {}


async def test_what_a_batch_handler_publishes_has_no_single_trace(kit: Kit) -> None:
    """A batch has many causes: what its handler publishes inherits no trace, baggage, correlation or causation from any
    of them."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus()

    async def handle(events: list[Event]) -> None:
        await bus.publish(second, {"n": len(events)}, type=TYPE)
        await bus.publish_many(second, [Event.create({"n": 0}, type=TYPE, source="contract")])

    bus.subscribe(first, group="g", batch=3, within=0.2)(handle)
    log = kit.subscribe(bus, second)
    async with bus:
        for number in range(3):
            parent = PARENT[:3] + f"{number + 1:032x}" + PARENT[35:]
            event = counted(number, key=f"k{number}").replace(extensions={"traceparent": parent, "tracestate": STATE})
            await bus.publish(first, event, headers={"traceparent": parent, "tracestate": STATE, "baggage": BAGGAGE})
        await log.until(lambda: sum(handling.event.data["n"] for handling in log.handlings) >= 3, "all of the batches")
    taken = ("traceparent", "tracestate", "correlationid", "causationid", "baggage")
    for handling in log.handlings:
        assert [name for name in taken if name in handling.event or name in handling.headers] == []
