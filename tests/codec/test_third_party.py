"""A codec of a third party: chosen by topic and content type, beside JSON."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from anybroker import ABSENT, Bus, ConfigError, DecodeError, Delivery, EncodeError, Event, MemoryBroker, event_type
from anybroker.codec import Codec, Decode, PydanticJson, validator
from anybroker.testing import settled

PACKED = "application/vnd.acme.packed"


class Packed:
    """Compressed JSON behind two bytes that no text begins with."""

    name = "packed"
    content_types = (PACKED,)

    def encode(self, payload: object, topic: str, type: str, /) -> tuple[bytes, str, str | None]:
        plain = payload.model_dump(mode="json") if isinstance(payload, BaseModel) else payload
        try:
            text = json.dumps(plain).encode()
        except TypeError as exc:
            raise EncodeError(str(exc)) from None
        return b"\x00\xff" + zlib.compress(text), f"{PACKED}; level=6", f"https://schemas.example/{topic}/{type}"

    def decoder(self, annotation: object, topic: str, /) -> Decode:
        validate = validator(annotation)

        def decode(event: Event) -> object:
            body = event.body
            assert body is not None
            try:
                return validate(json.loads(zlib.decompress(body[2:])))
            except zlib.error as exc:
                raise DecodeError(f"the data is not packed: {exc}") from None

        return decode


class Message:
    """What a codec knows and pydantic does not."""

    def __init__(self, text: str) -> None:
        self.text = text


class Messages:
    """Reads and writes one class only."""

    name = "messages"
    content_types = ("application/vnd.acme.message",)

    def encode(self, payload: object, topic: str, type: str, /) -> tuple[bytes, str, str | None]:
        if not isinstance(payload, Message):
            raise EncodeError("not a Message")
        return payload.text.encode("utf-16"), self.content_types[0], None

    def decoder(self, annotation: object, topic: str, /) -> Decode:
        if annotation is not Message:
            raise ConfigError("messages", f"{annotation!r} is not a Message")
        return lambda event: Message((event.body or b"").decode("utf-16"))


@event_type("order.placed.v1", key="customer")
class Placed(BaseModel):
    customer: str
    cents: int


@event_type("order.cancelled.v1")
class Cancelled(BaseModel):
    customer: str


ORDER = Placed(customer="c-7", cents=999)


def make_bus(*codecs: Any, **topics: Any) -> Bus:
    return Bus(MemoryBroker(), source="shop", codecs=codecs, topics=topics)


def handled(bus: Bus, publish: Callable[[], Any]) -> Any:
    """Runs ``publish`` on the started Bus; the dead letters of orders/billing."""

    async def main() -> Any:
        async with bus:
            await publish()
            await settled(bus)
            count = sum(each.stats.dead_lettered for each in bus.subscriptions)
            return await bus.dead_letters("orders", "billing").list(count) if count else []

    return main()


def note(bus: Bus, topic: str, annotation: Any = Placed) -> list[tuple[Any, Event]]:
    seen: list[tuple[Any, Event]] = []

    async def take(payload: Any, event: Event) -> None:
        seen.append((payload, event))

    take.__annotations__["payload"] = annotation
    bus.subscribe(topic, group="billing")(take)
    return seen


def test_they_are_codecs() -> None:
    codecs: list[Codec] = [Packed(), Messages(), PydanticJson()]
    assert [codec.name for codec in codecs] == ["packed", "messages", "json"]


class TestWriting:
    def test_by_topic_beside_json_on_another(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        packed, plain = note(bus, "orders"), note(bus, "invoices")

        async def publish() -> None:
            receipt = await bus.publish("orders", ORDER)
            assert receipt.event is not None
            assert receipt.event.data is ORDER
            await bus.publish("invoices", ORDER)

        assert run(handled(bus, publish)) == []
        ((order, event),) = packed
        assert order == ORDER
        assert event.body is not None
        assert event.body.startswith(b"\x00\xff")
        assert event.data == event.body  # without an annotation, bytes are what there is
        assert (event.datacontenttype, event.dataschema, event.type, event.key) == (
            f"{PACKED}; level=6",
            "https://schemas.example/orders/order.placed.v1",
            "order.placed.v1",
            "c-7",
        )
        ((invoice, event),) = plain
        assert (invoice, event.datacontenttype, event.dataschema) == (ORDER, "application/json", None)

    def test_by_content_type(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        orders, invoices = note(bus, "orders"), note(bus, "invoices")

        async def publish() -> None:
            await bus.publish("orders", ORDER, datacontenttype="application/json")
            await bus.publish("invoices", ORDER, datacontenttype=PACKED)

        assert run(handled(bus, publish)) == []
        assert [(payload, event.datacontenttype) for payload, event in orders] == [(ORDER, "application/json")]
        assert [(payload, event.datacontenttype) for payload, event in invoices] == [(ORDER, f"{PACKED}; level=6")]

    def test_what_is_given_goes_over_what_the_codec_and_the_class_say(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen = note(bus, "orders", Any)

        async def publish() -> None:
            options: Any = {"extensions": {"tenant": "t"}, "subject": "s", "id": "1", "time": "2026-01-01T00:00:00Z"}
            await bus.publish("orders", ORDER, type="other.v1", key="k", dataschema="https://own.example", **options)

        run(handled(bus, publish))
        ((_, event),) = seen
        assert (event.type, event.key, event.dataschema, event["tenant"]) == (
            "other.v1",
            "k",
            "https://own.example",
            "t",
        )
        assert (event.subject, event.id, event.time_raw) == ("s", "1", "2026-01-01T00:00:00Z")

    def test_bytes_and_no_data_are_left_alone(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen = note(bus, "orders", bytes)
        body, _, _ = Packed().encode(ORDER, "orders", "order.placed.v1")

        async def publish() -> None:
            await bus.publish("orders", b"\x01", type="raw.v1")
            await bus.publish("orders", body, type="raw.v1", datacontenttype=PACKED)
            await bus.publish("orders", ABSENT, type="raw.v1")

        (letter,) = run(handled(bus, publish))
        assert letter.reason == "undecodable: the event has no data, and the handler asks for bytes"
        assert [payload for payload, _ in seen] == [b"\x01", body]
        assert [event.datacontenttype for _, event in seen] == ["application/octet-stream", PACKED]

    def test_publish_many_typed_topics_threads_and_the_configured_key(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed", "key": "data.customer"})
        seen = note(bus, "orders", Placed | Cancelled)

        @bus.subscribe("carts", group="shop")
        def order(cart: Placed) -> None:
            bus.from_thread.publish("orders", cart)

        async def publish() -> None:
            await bus.publish_many("orders", [ORDER, Cancelled(customer="c-8")])
            await bus.topic("orders", Placed).publish(ORDER)
            await bus.publish("carts", ORDER)

        assert run(handled(bus, publish)) == []
        assert [event.key for _, event in seen] == ["c-7", "c-8", "c-7", "c-7"]
        assert {event.datacontenttype for _, event in seen} == {f"{PACKED}; level=6"}
        assert [payload for payload, _ in seen][1] == Cancelled(customer="c-8")

    def test_what_cannot_be_encoded_is_the_callers_error_and_nothing_is_sent(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen = note(bus, "orders", Any)

        async def publish() -> None:
            with pytest.raises(EncodeError, match="not JSON serializable"):
                await bus.publish("orders", object(), type="x.v1")
            with pytest.raises(ValueError, match="'type' is not given, and dict declares none"):
                await bus.publish("orders", {"a": 1})
            with pytest.raises(ValueError, match="datacontenttype"):
                await bus.publish("orders", {"a": 1}, type="x.v1", datacontenttype="nonsense")

        assert run(handled(bus, publish)) == []
        assert seen == []

    def test_a_codec_that_returns_something_else(self, run: Any) -> None:
        class Wrong(Packed):
            def encode(self, payload: object, topic: str, type: str, /) -> Any:
                return "text", PACKED, None

        bus = make_bus(Wrong(), orders={"codec": "packed"})

        async def publish() -> None:
            with pytest.raises(TypeError, match="the codec returned something other than"):
                await bus.publish("orders", ORDER)

        run(handled(bus, publish))


class TestReading:
    def test_both_on_one_topic_by_what_each_event_says(self, run: Any) -> None:
        """A topic that changes its codec still has events of the old one."""
        broker = MemoryBroker()
        old = Bus(broker, source="shop", topics={"orders": {"groups": ["billing"]}})
        new = Bus(broker, source="shop", topics={"orders": {"codec": "packed"}}, codecs=[Packed()])
        seen = note(new, "orders")

        async def main() -> None:
            async with old:
                await old.publish("orders", ORDER)
            async with new:
                await new.publish("orders", ORDER)
                await settled(new)

        run(main())
        assert [payload for payload, _ in seen] == [ORDER, ORDER]
        assert [event.datacontenttype for _, event in seen] == ["application/json", f"{PACKED}; level=6"]

    @pytest.mark.parametrize("annotation", [Placed, Event[Placed], Placed | Cancelled, Any])
    def test_in_every_form(self, run: Any, annotation: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen = note(bus, "orders", annotation)

        async def publish() -> None:
            await bus.publish("orders", ORDER)

        assert run(handled(bus, publish)) == []
        ((payload, _),) = seen
        value = payload.data if isinstance(payload, Event) else payload
        assert value == (ORDER.model_dump() if annotation is Any else ORDER)

    def test_in_batches(self, run: Any) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen: list[Any] = []

        @bus.subscribe("orders", group="billing", batch=10, within=0.01)
        async def take(orders: list[Placed]) -> None:
            seen.extend(orders)

        @bus.subscribe("orders", group="stock", batch=10, within=0.01)
        async def take_events(events: list[Event[Placed]]) -> None:
            seen.extend(event.data for event in events)

        async def publish() -> None:
            await bus.publish("orders", ORDER)

        assert run(handled(bus, publish)) == []
        assert seen == [ORDER, ORDER]

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"\x00\xffnonsense", "undecodable: the data is not packed: "),
            (
                b"\x00\xff" + zlib.compress(b'{"customer":"c-7"}'),
                "undecodable: the data is not a valid Placed: cents: ",
            ),
        ],
    )
    def test_what_does_not_fit_is_dead_lettered_at_once_and_whole(self, run: Any, body: bytes, reason: str) -> None:
        bus = make_bus(Packed(), orders={"codec": "packed"})
        seen = note(bus, "orders")

        async def publish() -> None:
            await bus.publish("orders", body, type="order.placed.v1", datacontenttype=PACKED)

        (letter,) = run(handled(bus, publish))
        assert letter.reason.startswith(reason)
        assert (letter.attempts, letter.event.body, letter.event.datacontenttype) == (1, body, PACKED)
        assert seen == []

    def test_what_else_it_raises_is_a_failed_start(self, run: Any) -> None:
        class Broken(Packed):
            def decoder(self, annotation: object, topic: str, /) -> Decode:
                failing = [OSError("the registry is down")]
                decode = super().decoder(annotation, topic)

                def read(event: Event) -> object:
                    if failing:
                        raise failing.pop()
                    return decode(event)

                return read

        bus = make_bus(Broken(), orders={"codec": "packed"})
        attempts: list[int] = []

        @bus.subscribe("orders", group="billing")
        async def take(order: Placed, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)

        async def publish() -> None:
            await bus.publish("orders", ORDER)

        assert run(handled(bus, publish)) == []
        assert attempts == [2]

    def test_without_the_codec_its_data_are_bytes(self, run: Any) -> None:
        bus = make_bus()
        raw, typed = note(bus, "invoices", bytes), note(bus, "orders", Placed)
        body, _, _ = Packed().encode(ORDER, "orders", "order.placed.v1")

        async def publish() -> None:
            await bus.publish("invoices", body, type="order.placed.v1", datacontenttype=PACKED)
            await bus.publish("orders", body, type="order.placed.v1", datacontenttype=PACKED)

        (letter,) = run(handled(bus, publish))
        assert [payload for payload, _ in raw] == [body]
        assert typed == []
        assert letter.reason.startswith("undecodable: the data is not a valid Placed")


class TestClassesThatPydanticDoesNotKnow:
    def test_are_what_the_topics_codec_says(self, run: Any) -> None:
        bus = make_bus(Messages(), orders={"codec": "messages"})
        seen = note(bus, "orders", Message)

        async def publish() -> None:
            await bus.publish("orders", Message("ä"), type="message.v1")
            await bus.publish("orders", {"text": "ä"}, type="message.v1", datacontenttype="application/json")

        (letter,) = run(handled(bus, publish))
        assert [payload.text for payload, _ in seen] == ["ä"]
        assert letter.reason.startswith("undecodable: the data is application/json: payload: pydantic cannot validate")

    def test_on_another_topic_they_are_refused_when_subscribed(self) -> None:
        bus = make_bus(Messages(), orders={"codec": "messages"})
        with pytest.raises(ConfigError, match="parameter 'payload': of type Message cannot be served"):
            note(bus, "invoices", Message)

    def test_what_the_codec_cannot_decode_is_refused_when_subscribed(self) -> None:
        bus = make_bus(Messages(), orders={"codec": "messages"})
        with pytest.raises(ConfigError, match=r"parameter 'payload': .*is not a Message"):
            note(bus, "orders", Event[Placed])

    def test_a_provided_class_or_bytes_needs_no_codec(self, run: Any) -> None:
        bus = make_bus(Messages(), orders={"codec": "messages"})
        seen = note(bus, "orders", bytes)

        async def publish() -> None:
            await bus.publish("orders", Message("a"), type="message.v1")

        assert run(handled(bus, publish)) == []
        assert [payload for payload, _ in seen] == ["a".encode("utf-16")]
