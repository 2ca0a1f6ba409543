"""Middleware of the publish side."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.engine.scripted_adapter import ScriptedBroker, run

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, Receipt, Rejected
from anybroker.middleware import Outgoing, PublishHandler, publish_middleware
from anybroker.testing import FaultyBroker, Recorder, fail


def service(*items: Any, broker: Any = None) -> tuple[Bus, Recorder]:
    bus = Bus(broker or MemoryBroker(), source="shop", publish_middleware=items)
    return bus, Recorder(bus, "orders")


def test_it_sees_and_may_replace_what_goes_out(run: Any) -> None:
    @publish_middleware
    async def stamp(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        assert outgoing.topic == "orders"
        outgoing.event = outgoing.event.replace(tenant="t-1")
        outgoing.headers["x-stamp"] = "yes"
        receipt = await call_next(outgoing)
        assert receipt.broker_id
        return receipt

    bus, recorder = service(stamp)
    headers: list[Any] = []

    @bus.subscribe("orders", group="headers")
    async def look(delivery: Delivery) -> None:
        headers.append(dict(delivery.headers))

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("orders", 1, type="order.v1", headers={"x-mine": "1"})
            assert receipt.event is not None
            assert receipt.event["tenant"] == "t-1"
            await recorder.wait(1)
            await bus.publish_many("orders", [receipt.event.replace(id="2"), receipt.event.replace(id="3")])
            await recorder.wait(3)

    run(main())
    assert [event["tenant"] for event in recorder.events] == ["t-1"] * 3
    assert headers[0] == {"x-mine": "1", "x-stamp": "yes"}


def test_the_first_is_the_outermost(run: Any) -> None:
    seen: list[str] = []

    def noting(name: str) -> Any:
        @publish_middleware
        async def note(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
            seen.append(f"{name} in")
            receipt = await call_next(outgoing)
            seen.append(f"{name} out")
            return receipt

        return note

    bus, _ = service(noting("a"), noting("b"))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")

    run(main())
    assert seen == ["a in", "b in", "b out", "a out"]


def test_events_of_one_key_stay_in_the_order_of_the_calls(run: Any) -> None:
    """Although the first ones take longest inside the middleware; other keys do not wait for them."""
    order: list[str] = []

    @publish_middleware
    async def slow(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        number = outgoing.event.data
        for _ in range(20 - number):
            await asyncio.sleep(0)
        order.append(f"{outgoing.event.key}{number}")
        return await call_next(outgoing)

    bus, recorder = service(slow)

    async def main() -> None:
        async with bus:
            await asyncio.gather(
                *(bus.publish("orders", n, type="order.v1", key=key) for n in range(10) for key in ("a", "b"))
            )
            await recorder.wait(20)

    run(main())
    for key in ("a", "b"):
        assert [event.data for event in recorder.events if event.key == key] == list(range(10))
    assert order[0][0] != order[1][0]


def test_a_cancelled_publish_does_not_block_its_key(run: Any) -> None:
    gate = asyncio.Event()

    @publish_middleware
    async def stuck(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        if outgoing.event.data == 1:
            await gate.wait()
        return await call_next(outgoing)

    bus, recorder = service(stuck)

    async def main() -> None:
        async with bus:
            first = asyncio.create_task(bus.publish("orders", 1, type="order.v1", key="a"))
            await asyncio.sleep(0)
            second = asyncio.create_task(bus.publish("orders", 2, type="order.v1", key="a"))
            await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await second
            await recorder.wait(1)
            assert bus._way_out is not None
            assert bus._way_out.turns._last == {}

    run(main())
    assert [event.data for event in recorder.events] == [2]


def test_what_it_raises_is_the_callers_error_and_nothing_is_sent(run: Any) -> None:
    @publish_middleware
    async def refuse(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        if outgoing.event.data == 1:
            raise PermissionError("not you")
        return await call_next(outgoing)

    bus, recorder = service(refuse)

    async def main() -> None:
        async with bus:
            with pytest.raises(PermissionError, match="not you"):
                await bus.publish("orders", 1, type="order.v1", key="a")
            await bus.publish("orders", 2, type="order.v1", key="a")
            await recorder.wait(1)

    run(main())
    assert [event.data for event in recorder.events] == [2]


def test_it_sees_the_brokers_refusal_and_publish_many_reports_it_for_one(run: Any) -> None:
    seen: list[BaseException] = []

    @publish_middleware
    async def watch(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        try:
            return await call_next(outgoing)
        except Rejected as exc:
            seen.append(exc)
            raise

    refusing = fail("publish", Rejected("no"), when=lambda outbound: outbound.event.data == 2)
    bus, _ = service(watch, broker=FaultyBroker(MemoryBroker(), refusing))

    async def main() -> None:
        async with bus:
            receipt = await bus.publish("orders", 1, type="order.v1")
            assert receipt.event is not None
            events = [receipt.event.replace(id=str(number), data=number) for number in (2, 3)]
            first, second = await bus.publish_many("orders", events)
            assert isinstance(first, Rejected)
            assert isinstance(second, Receipt)

    run(main())
    assert [str(exc) for exc in seen] == ["no"]


def test_what_a_handler_publishes_keeps_its_cause(run: Any) -> None:
    causes: list[Any] = []

    @publish_middleware
    async def look(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
        causes.append((outgoing.topic, outgoing.event.get("causationid")))
        return await call_next(outgoing)

    bus, recorder = service(look)

    @bus.subscribe("carts", group="shop")
    async def order(number: int) -> None:
        await bus.publish("orders", number, type="order.v1")

    async def main() -> None:
        async with bus:
            await bus.publish("carts", 1, type="cart.v1", id="c-1")
            await recorder.wait(1)

    run(main())
    assert causes == [("carts", None), ("orders", "c-1")]


@pytest.mark.parametrize("kind", ["def", "one parameter"])
def test_wrong_functions(kind: str) -> None:
    def plain(outgoing: Outgoing, call_next: PublishHandler) -> None: ...

    async def lonely(outgoing: Outgoing) -> None: ...

    function: Any = plain if kind == "def" else lonely
    with pytest.raises(ConfigError) as caught:
        publish_middleware(function)
    assert str(caught.value) == (
        f"@publish_middleware {function.__name__}: is not 'async def' with two parameters. "
        "Write: async def name(outgoing, call_next): return await call_next(outgoing)."
    )


@publish_middleware
async def passing(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
    await asyncio.sleep(0)
    return await call_next(outgoing)


def test_publish_many_keeps_its_place_through_publish_middleware() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with Bus(broker, source="test", publish_middleware=[passing]) as bus:
            await bus.publish("topic", 0, type="t")
            events = [Event.create(number, type="t", source="s", key="k") for number in range(1, 5)]
            await asyncio.gather(
                bus.publish("topic", events[0]), bus.publish_many("topic", events[1:3]), bus.publish("topic", events[3])
            )
            assert [item.event.data for item in broker.sent] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]

    run(main)


def test_a_cancelled_publish_lets_nobody_past_the_one_before_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        go = asyncio.Event()

        @publish_middleware
        async def first_waits(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
            if outgoing.event.data == 1:
                await go.wait()
            return await call_next(outgoing)

        async with Bus(broker, source="test", publish_middleware=[first_waits]) as bus:
            await bus.publish("topic", 0, type="t")
            tasks = [asyncio.create_task(bus.publish("topic", number, type="t", key="k")) for number in (1, 2, 3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            for _ in range(10):
                await asyncio.sleep(0)
            go.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [item.event.data for item in broker.sent] == [0, 1, 3]  # type: ignore[union-attr]

    run(main)


def test_a_plain_function_that_returns_no_receipt_is_named() -> None:
    """``@publish_middleware`` checks it; a ``PublishHandler -> PublishHandler`` of the user's is checked here."""

    async def main() -> None:
        def forgets(call_next: PublishHandler) -> PublishHandler:
            async def run_it(outgoing: Outgoing) -> Receipt:
                await call_next(outgoing)
                return None  # type: ignore[return-value]

            return run_it

        async with Bus(ScriptedBroker(), source="test", publish_middleware=[forgets]) as bus:
            with pytest.raises(TypeError, match="returned None instead of a Receipt"):
                await bus.publish_many("topic", [Event.create(1, type="t", source="s")])

    run(main)
