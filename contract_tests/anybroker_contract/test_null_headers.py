"""null headers: a header without a value is not there, and a content type that is null or empty says nothing."""

from __future__ import annotations

from typing import Any

from anybroker.adapter import Foreign

from ._kit import Kit
from .marks import needs_harness
from .raw.api import MINIMAL
from .test_dead_letter import letters
from .test_interop import canonical


@needs_harness("raw")
async def test_a_content_type_that_is_null_or_empty_is_none(kit: Kit) -> None:
    """An event whose content type is a null or an empty header, property or attribute has no content type, and is
    handled. Other headers without a value are not among the transport headers, and empty ones are empty."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    arrived: list[Any] = []

    async def keep(delivery: Any) -> None:
        arrived.append(delivery)

    bus = kit.bus()
    log = kit.subscribe(bus, topic, behave=keep)
    async with kit.harness.raw() as client, bus:
        messages = {
            f"a content type that is {blank!r}": client.build(
                b"1", None, MINIMAL, {"content-type": blank, "x-legacy": blank}
            )
            for blank in client.blanks
        }
        messages |= client.without_content_type()
        for name, message in messages.items():
            await client.send(topic, "g", message)
            await log.until(lambda: arrived or bus.subscriptions[0].stats.foreign, f"a message with {name}")
            assert (name, bus.subscriptions[0].stats.foreign) == (name, 0)
            delivery = arrived.pop()
            assert (name, canonical(delivery.event.attributes)) == (name, MINIMAL)
            assert (name, delivery.event.body) == (name, b"1")
            blank = message.headers.get("x-legacy")
            assert (name, delivery.headers) == (name, {} if blank is None else {"x-legacy": ""})
        await kit.drained(bus, topic)
    assert messages


@needs_harness("raw")
async def test_a_null_header_of_a_foreign_message_stays_null(kit: Kit) -> None:
    """In its dead letter, and after a replay in the next one, a header without a value still has none, and an empty one
    is empty; neither stops the consumer."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    kit.subscribe(bus, topic)
    async with kit.harness.raw() as client, bus:
        values = [*client.blanks, "yes"]
        for number, value in enumerate(values):
            given = {"x-legacy": value} if value else {"x-legacy": value, "content-type": value}
            await client.send(topic, "g", client.build(f"order {number}".encode(), None, None, given))
        dead = await letters(kit, bus, topic, len(values))
        queue = bus.dead_letters(topic, "g")
        queue.patience = kit.brief
        await queue.replay()
        again = await letters(kit, bus, topic, len(values))
        await kit.drained(bus, topic)
    expected = sorted((f"order {n}".encode(), None if v is None else v.encode()) for n, v in enumerate(values))
    for found in (dead, again):
        foreign = [letter.event for letter in found if isinstance(letter.event, Foreign)]
        assert sorted((each.body, dict(each.headers)["x-legacy"]) for each in foreign) == expected
        assert {letter.headers.get("x-legacy") for letter in found} == {v for v in values if v is not None} | {
            None for v in values if v is None
        }
    assert [letter.replays for letter in again] == [1] * len(values)


@needs_harness("raw")
async def test_a_wrapped_message_with_null_headers_is_handled(kit: Kit) -> None:
    """With ``foreign = "wrap"``, a message with a null or empty content type is handled: the event's content type is
    ``application/octet-stream``, as without one, and null headers are not shown."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus(topics={topic: {"foreign": "wrap"}})
    log = kit.subscribe(bus, topic)
    async with kit.harness.raw() as client, bus:
        messages = [
            client.build(b"order", None, None, {"content-type": blank, "x-legacy": blank}) for blank in client.blanks
        ]
        messages.append(client.build(b"order", None, None, {"x-legacy": "yes"}))
        for message in messages:
            await client.send(topic, "g", message)
        await log.wait_started(len(messages))
        await kit.drained(bus, topic)
        assert bus.subscriptions[0].stats.dead_lettered == 0
    assert {handling.event.datacontenttype for handling in log.handlings} == {"application/octet-stream"}
    assert sorted(str(handling.headers.get("x-legacy")) for handling in log.handlings) == sorted(
        str(blank) for blank in (*client.blanks, "yes")
    )
