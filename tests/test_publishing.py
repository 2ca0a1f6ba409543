"""Publishing: what publish and publish_many raise, when nothing was sent, and what each result says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from tests.engine.scripted_adapter import ScriptedBroker, bus_of, run

from anybroker import Bus, ConfigError, Event, MemoryBroker, Receipt
from anybroker.adapter import Outbound
from anybroker.capabilities import Support
from anybroker.errors import (
    AnybrokerError,
    BrokerError,
    CapabilityError,
    EncodeError,
    InvalidEvent,
    PublishOutcomeUnknown,
    Rejected,
    StateError,
    Unavailable,
)
from anybroker.middleware import Outgoing, PublishHandler, publish_middleware

EVENT = Event.create(1, type="t", source="s")
TOPICS = {"topic": {"groups": ["group"]}, "unordered": {"groups": ["group"], "ordered": False}}


def event_of(item: Outbound) -> Event[Any]:
    assert isinstance(item.event, Event)
    return item.event


# ------------------------------------------------------------------------------------------ refused before it is sent


@pytest.mark.parametrize(
    ("data", "options", "error", "names"),
    [
        (1, {}, InvalidEvent, "type"),
        (object(), {"type": "t"}, EncodeError, "object"),
        (1, {"type": ""}, InvalidEvent, "type"),
        (1, {"type": "t", "id": ""}, InvalidEvent, "id"),
        (1, {"type": "t", "time": "yesterday"}, InvalidEvent, "time"),
        (1, {"type": "t", "extensions": {"Tenant-1": "t"}}, InvalidEvent, "Tenant-1"),
        (1, {"type": "t", "key": "k" * 513}, ConfigError, "key"),
        (EVENT, {"type": "other"}, ConfigError, "publish(data)"),
        (EVENT, {"subject": "s"}, ConfigError, "publish(data)"),
        (EVENT, {"key": "k" * 513}, ConfigError, "key"),
        (1, {"type": "t", "headers": ["a"]}, ConfigError, "headers"),
        (1, {"type": "t", "headers": {"a": 1}}, ConfigError, "'a'"),
        (1, {"type": "t", "headers": {"a": "b\nc"}}, ConfigError, "'a'"),
        (1, {"type": "t", "headers": {"ce-id": "1"}}, ConfigError, "'ce-id'"),
        (1, {"type": "t", "headers": {"X-Death": "1"}}, ConfigError, "'X-Death'"),
        (1, {"type": "t", "headers": {"a": "1", "A": "2"}}, ConfigError, "'A'"),
        (1, {"type": "t", "delay": -1}, ConfigError, "publish(delay=)"),
        (1, {"type": "t", "delay": True}, ConfigError, "publish(delay=)"),
        (1, {"type": "t", "delay": float("inf")}, ConfigError, "publish(delay=)"),
        (1, {"type": "t", "delay": float("nan")}, ConfigError, "publish(delay=)"),
        (1, {"type": "t", "delay": 61}, ConfigError, "publish(delay=)"),
        (1, {"type": "t", "delay": 1, "key": "k"}, ConfigError, "publish(delay=)"),
    ],
)
@pytest.mark.parametrize("configured_key", [False, True])
def test_what_cannot_be_published_is_refused_before_it_is_sent(
    data: Any, options: dict[str, Any], error: type[AnybrokerError], names: str, configured_key: bool
) -> None:
    async def main() -> None:
        broker = ScriptedBroker(delay=Support.NATIVE, max_delay=60.0)
        topics: dict[str, Any] = {"topic": {"groups": ["group"], **({"key": "subject"} if configured_key else {})}}
        async with bus_of(broker, topics=topics) as bus:
            with pytest.raises(error) as caught:
                await bus.publish("topic", data, **options)
            assert names in str(caught.value)
            assert broker.sent == []
            assert bus.stats.failed == 0
            await bus.publish("topic", 1, type="t", subject="s")  # the one before is in nobody's way

    run(main)


def test_a_delay_that_the_broker_cannot_have_is_refused() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS) as bus:
            with pytest.raises(CapabilityError, match=r"publish\(delay=\).*'delay'"):
                await bus.publish("topic", 1, type="t", delay=1)
            assert broker.sent == []

    run(main)


@pytest.mark.parametrize(("topic", "key"), [("topic", None), ("unordered", "k")])
def test_a_delay_without_a_key_or_an_order_goes_out(topic: str, key: str | None) -> None:
    async def main() -> None:
        broker = ScriptedBroker(delay=Support.NATIVE)
        async with bus_of(broker, topics=TOPICS) as bus:
            await bus.publish(topic, 1, type="t", delay=60, key=key)
            assert broker.sent[0].not_before is not None
            await bus.publish(topic, 1, type="t", key=key)
            assert broker.sent[1].not_before is None

    run(main)


@pytest.mark.parametrize("items", ["text", b"bytes", bytearray(b"b"), {"a": 1}, EVENT])
def test_publish_many_of_one_payload_is_refused(items: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS) as bus:
            with pytest.raises(ConfigError, match=r"publish_many\(items\)"):
                await bus.publish_many("topic", items)
            assert broker.sent == []

    run(main)


@pytest.mark.parametrize("wrong", [1, object(), EVENT.replace(key="k" * 513)], ids=["no type", "no payload", "key"])
def test_publish_many_with_a_wrong_payload_sends_none_of_them(wrong: Any) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS) as bus:
            with pytest.raises(AnybrokerError):
                await bus.publish_many("topic", [EVENT, wrong])
            await bus.publish("topic", 1, type="t")
            assert len(broker.sent) == 1

    run(main)


@pytest.mark.parametrize("when", ["before the start", "after the end"])
def test_outside_of_its_life_nothing_is_sent(when: str) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = bus_of(broker, topics=TOPICS)
        word = "not started"
        if when == "after the end":
            async with bus:
                await bus.publish("topic", 1, type="t")
            broker.sent.clear()
            word = "closed"
        for topic in ("topic", "new"):
            with pytest.raises(StateError, match=f"^publish: the Bus is {word}"):
                await bus.publish(topic, 1, type="t")
            with pytest.raises(StateError, match=f"^publish.*: the Bus is {word}"):
                await bus.publish_many(topic, [EVENT])
        assert broker.sent == []

    run(main)


def test_a_publish_that_comes_while_the_bus_closes_is_sent_or_refused() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        begun, go = asyncio.Event(), asyncio.Event()

        async def wait(*_: object) -> None:
            begun.set()
            await go.wait()

        broker.on_adapter_close = wait
        bus = bus_of(broker, topics=TOPICS)
        await bus.start()
        early = asyncio.create_task(bus.publish("topic", 1, type="t"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(bus.close())
        await begun.wait()
        assert (await early).topic == "topic"
        for call in (
            bus.publish("topic", 2, type="t"),
            bus.publish("new", 2, type="t"),
            bus.publish_many("topic", [EVENT]),
        ):
            with pytest.raises(StateError, match="the Bus is closed"):
                await call
        go.set()
        await closing
        assert [event_of(item).data for item in broker.sent] == [1]

    run(main)


# ------------------------------------------------------------------------------------------------- the broker's word


def test_the_receipt_carries_the_event() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS) as bus:
            receipt = await bus.publish("topic", {"a": 1}, type="t", key=7, source="other", headers={"X-Tenant": "1"})
            assert (receipt.topic, receipt.broker_id, receipt.duplicate) == ("topic", "1", False)
            event = receipt.event
            assert event is not None
            assert (event.type, event.source, event.key, event.data) == ("t", "other", "7", {"a": 1})
            assert broker.sent[0].headers == {"x-tenant": "1"}
            assert (await bus.publish("topic", EVENT, key="k")).event == EVENT.replace(key="k")
            assert (await bus.publish("topic", EVENT)).event is EVENT
            assert bus.stats.published == 3

    run(main)


def test_each_refusal_of_the_broker_is_its_error() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        answers: dict[Any, BrokerError | bool] = {
            "rejected": Rejected("no permission"),
            "unavailable": Unavailable("down"),
            "silent": False,
            "unknown": PublishOutcomeUnknown("connection lost"),
        }
        broker.on_send = lambda item: answers[item.topic]
        async with bus_of(broker, topics={topic: {"groups": ["group"]} for topic in answers}) as bus:
            with pytest.raises(Rejected, match="no permission"):
                await bus.publish("rejected", 1, type="t")
            with pytest.raises(Unavailable) as down:
                await bus.publish("unavailable", 1, type="t", deadline=0.3)
            assert "down" in f"{down.value} {down.value.__cause__}"
            with pytest.raises(PublishOutcomeUnknown) as silent:
                await bus.publish("silent", 1, type="t", deadline=0.3, id="mine")
            assert silent.value.event is not None
            assert silent.value.event.id == "mine"
            with pytest.raises(PublishOutcomeUnknown, match="connection lost") as lost:
                await bus.publish("unknown", 1, type="t")
            assert lost.value.event is not None
            assert (bus.stats.failed, bus.stats.unknown, bus.stats.published) == (4, 2, 0)

    run(main)


def test_a_cancelled_publish_raises_it_and_others_go_on() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        broker.on_send = lambda item: event_of(item).data != "silent"
        async with bus_of(broker, topics=TOPICS, publish_deadline=0.2) as bus:
            many = asyncio.create_task(bus.publish_many("topic", [EVENT.replace(data="silent")] * 2))
            one = asyncio.create_task(bus.publish("topic", "silent", type="t"))
            assert (await bus.publish("topic", 1, type="t")).topic == "topic"
            for task in (one, many):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await bus.publish("topic", 1, type="t")).topic == "topic"

    run(main)


def test_publish_many_says_of_each_what_became_of_it() -> None:
    async def main() -> None:
        broker = ScriptedBroker()

        def answer(item: Outbound) -> BrokerError | bool:
            return {1: Rejected("no"), 3: False}.get(event_of(item).data, True)

        def items() -> Iterator[Event[Any]]:
            for number in range(5):
                yield Event.create(number, type="t", source="s", key="k")

        broker.on_send = answer
        async with bus_of(broker, topics=TOPICS) as bus:
            results = await bus.publish_many("topic", items(), deadline=0.5)
            kinds = [type(result) for result in results]
            assert kinds == [Receipt, Rejected, Receipt, PublishOutcomeUnknown, Receipt]
            for number, result in enumerate(results):
                if number != 1:
                    assert isinstance(result, Receipt | PublishOutcomeUnknown)
                    assert result.event is not None
                    assert result.event.data == number
            assert [event_of(item).data for item in broker.sent] == [0, 1, 2, 3, 4]
            assert await bus.publish_many("topic", []) == []
            assert (bus.stats.published, bus.stats.failed, bus.stats.unknown) == (3, 2, 1)

    run(main)


def test_what_is_wrong_with_the_program_is_raised_by_publish_many_and_is_no_result() -> None:
    async def main() -> None:
        @publish_middleware
        async def stamp(outgoing: Outgoing, call_next: PublishHandler) -> Receipt:
            if outgoing.event.data == 2:
                raise ZeroDivisionError("a bug")
            return await call_next(outgoing)

        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS, publish_middleware=[stamp]) as bus:
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await bus.publish_many("topic", [EVENT.replace(data=2), EVENT])
            assert [type(result) for result in await bus.publish_many("topic", [EVENT])] == [Receipt]

    run(main)


def test_a_first_publish_makes_the_topic_or_raises_why_it_cannot() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        down = True

        async def declare(*_: object) -> None:
            if down:
                raise Unavailable("down")

        async with bus_of(broker) as bus:
            broker.on_declare = declare
            for call in (bus.publish("new", 1, type="t"), bus.publish_many("new", [EVENT])):
                with pytest.raises(Unavailable, match="down"):
                    await call
            assert broker.sent == []
            down = False
            await bus.publish("new", 1, type="t")
            assert [topology.topics[0].name for topology, _ in broker.declared[1:]] == ["new"]
            await bus.publish("new", 2, type="t")
            assert len(broker.declared) == 2

    run(main)


# ------------------------------------------------------------------------------------------------------ a typed topic


class Placed(BaseModel):
    number: int


class Cancelled(BaseModel):
    number: int


def test_a_typed_topic_takes_its_payloads_and_no_others() -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        async with bus_of(broker, topics=TOPICS) as bus:
            for payload, taken in ((Placed, [Placed]), (Placed | Cancelled, [Placed, Cancelled])):
                broker.sent.clear()
                topic = bus.topic("topic", payload)
                for kind in taken:
                    await topic.publish(kind(number=1), type="t", key="k")
                wrong: Any = "text" if len(taken) == 2 else Cancelled(number=1)
                with pytest.raises(
                    TypeError, match=f"topic 'topic' takes {' . '.join(kind.__name__ for kind in taken)}, not"
                ):
                    await topic.publish(wrong, type="t")
                with pytest.raises(TypeError):
                    await topic.publish_many([Placed(number=1), wrong])
                assert [event_of(item).key for item in broker.sent] == ["k"] * len(taken)
            broker.sent.clear()
            untyped = bus.topic("topic")
            assert untyped.name == "topic"
            await untyped.publish("anything", type="t")
            results = await untyped.publish_many([EVENT])
            assert [type(result) for result in results] == [Receipt]
            assert len(broker.sent) == 2

    run(main)


def test_a_typed_topic_may_be_made_before_the_start() -> None:
    async def main() -> None:
        bus = Bus(MemoryBroker(), source="test", topics=TOPICS)
        topic = bus.topic("topic", Placed)
        with pytest.raises(StateError, match="not started"):
            await topic.publish(Placed(number=1), type="t")
        async with bus:
            await topic.publish(Placed(number=1), type="t")
            assert (await bus.backlog("topic", "group")).waiting == 1

    run(main)
