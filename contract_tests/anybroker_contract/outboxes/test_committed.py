"""What is committed is relayed, as it was published; what is rolled back is not; nothing is sent before the commit."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from anybroker import Bus, Event, Receipt
from anybroker.errors import ConfigError
from anybroker.middleware import publish_middleware
from anybroker.middleware.outgoing import Outgoing

from ._kit import TOPIC, OutboxKit
from .wire import Wire

_JSON = {"text": "Grüße – 你好 \U0001f600", "number": 0.1, "large": 2**53 - 1, "list": [None, True, {"": []}]}

DATA: dict[str, dict[str, Any]] = {
    "json": {"data": _JSON},
    "json-null": {"data": None, "datacontenttype": "application/json"},
    "json-string": {"data": 'a "string"', "datacontenttype": "application/json"},
    "text": {"data": "plain\r\ntext \u2028 \\ \" '\t", "datacontenttype": "text/plain"},
    "empty-text": {"data": "", "datacontenttype": "text/plain"},
    "binary": {"data": bytes(range(256)), "datacontenttype": "application/octet-stream"},
    "empty-binary": {"data": b"", "datacontenttype": "application/octet-stream"},
    "none": {},
}


async def test_it_is_sent_after_the_commit_and_not_before(kit: OutboxKit) -> None:
    """An event that is written in a transaction is not sent while the transaction is open, and is sent once it has
    committed, also where the relay sees later transactions in between."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    receipt = (await kit.publish(app, writer.within))[0]
    assert receipt.topic == TOPIC
    assert receipt.broker_id
    await writer.effect("x")
    assert await kit.wire.quiet(0.5) == []
    assert await kit.effects() == []
    await writer.commit()
    (sent,) = await kit.wire.until(1)
    assert (sent.topic, sent.event.id) == (TOPIC, "k-0")
    assert await kit.effects() == ["x"]
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_what_is_rolled_back_is_never_sent(kit: OutboxKit) -> None:
    """Events of a transaction that is rolled back, or whose connection is closed, are not sent; those of the same
    connection's next transaction are."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    await kit.publish(app, writer.within, "gone", 3)
    await writer.effect("gone")
    await writer.rollback()
    lost = await kit.harness.writer(kit.place, kit.harness.kinds()[0])
    await kit.publish(app, lost.within, "lost", 3)
    await lost.close()
    await kit.publish(app, writer.within, "k", 2)
    await writer.commit()
    await kit.wire.until(2)
    assert [sent.event.id for sent in await kit.wire.quiet(0.5)] == ["k-0", "k-1"]
    assert await kit.effects() == []


@pytest.mark.parametrize("what", list(DATA))
async def test_data_of_every_kind(kit: OutboxKit, what: str) -> None:
    """JSON, text, binary, empty and no data arrive as they would without an outbox, with the same attributes."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    options = {
        "type": "order",
        "id": "1",
        "subject": "o/1 ä",
        "time": datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC),
        "dataschema": "https://example.com/schema#1",
        "key": "käse 1",
        "extensions": {"tenant": "a b", "large": 2_147_483_647, "flag": True, "off": False, "less": -1},
        **{name: value for name, value in DATA[what].items() if name != "data"},
    }
    data = [DATA[what]["data"]] if "data" in DATA[what] else []
    direct = Wire(kit.patience)
    async with Bus(direct, source="shop") as bus:
        await bus.publish(TOPIC, *data, **options)
    expected = direct.sent[0].event
    await app.publish(TOPIC, *data, within=writer.within, **options)
    await writer.commit()
    (sent,) = await kit.wire.until(1)
    assert sent.event.attributes == expected.attributes
    assert {name: type(value) for name, value in sent.event.attributes.items()} == {
        name: type(value) for name, value in expected.attributes.items()
    }
    assert sent.event.data == expected.data
    assert type(sent.event.data) is type(expected.data)
    assert sent.event.key == "käse 1"
    assert sent.event == expected


async def test_many_in_one_transaction(kit: OutboxKit) -> None:
    """``publish_many(within=)``: all of one transaction, in their order, each with its own receipt."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    count = kit.pick(300, 3_000)
    events = [
        Event.create({"n": number}, type="order", source="shop", id=f"k-{number}", key="k", extensions={"key": "k"})
        for number in range(count)
    ]
    receipts = await app.publish_many(TOPIC, events, within=writer.within)
    assert [type(receipt) for receipt in receipts] == [Receipt] * count
    assert len({receipt.broker_id for receipt in receipts if isinstance(receipt, Receipt)}) == count
    assert [receipt.event for receipt in receipts if isinstance(receipt, Receipt)] == events
    assert await kit.wire.quiet(0.3) == []
    await writer.commit()
    await kit.wire.until(count)
    assert kit.wire.ids == [event.id for event in events]
    await app.publish_many(TOPIC, events[:5], within=writer.within)
    await writer.rollback()
    assert len(await kit.wire.quiet(0.5)) == count


async def test_headers_come_along(kit: OutboxKit) -> None:
    """Transport headers arrive as they were given, whatever is in them; an event without has none."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    headers = {"tenant": "a", "Mixed-Case": "Grüße \U0001f600", "empty": "", "quote": '"\\{}', "percent": "100%s :p0"}
    await kit.publish(app, writer.within, headers=headers)
    await kit.publish(app, writer.within)
    await writer.commit()
    first, second = await kit.wire.until(2)
    assert first.headers == {name.lower(): text for name, text in headers.items()}
    assert second.headers == {}


async def test_text_that_looks_like_sql(kit: OutboxKit) -> None:
    """Topics, keys, types, ids and data with quotes, percent signs, colons and backslashes arrive as they are."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    odd = "a'b\"c%s%%:p0::text?$1\\n;--"
    await app.publish(
        TOPIC, odd, type=odd, id=odd, key=odd, subject=odd, datacontenttype="text/plain", within=writer.within
    )
    await writer.commit()
    (sent,) = await kit.wire.until(1)
    event = sent.event
    assert (event.data, event.type, event.id, event.key, event.subject) == (odd, odd, odd, odd, odd)


async def test_a_large_event(kit: OutboxKit) -> None:
    """Data of half a megabyte arrives."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    data = bytes(range(256)) * 2_000
    await app.publish(TOPIC, data, type="large", datacontenttype="application/octet-stream", within=writer.within)
    await writer.commit()
    (sent,) = await kit.wire.until(1)
    assert sent.event.data == data


async def test_topics_are_kept(kit: OutboxKit) -> None:
    """Each event goes to its own topic."""
    app = await kit.app()
    await kit.relaying()
    writer = await kit.writer()
    for topic in ("orders", "invoices", "orders", "audit.log"):
        await app.publish(topic, {}, type="t", id=topic, within=writer.within)
    await writer.commit()
    sent = await kit.wire.until(4)
    assert sorted(each.topic for each in sent) == ["audit.log", "invoices", "orders", "orders"]
    assert all(each.topic == each.event.id for each in sent)


async def test_a_delay_is_kept(kit: OutboxKit) -> None:
    """An event with a delay is sent when its time has come, not before; what was written later goes first."""
    app = await kit.app(topics={TOPIC: {"ordered": False}})
    await kit.relaying()
    writer = await kit.writer()
    begun = time.time()
    await kit.publish(app, writer.within, "late", delay=1.0)
    await kit.publish(app, writer.within, "soon")
    await writer.commit()
    first = (await kit.wire.until(1))[0]
    assert first.place == ("soon", 0)
    assert len(await kit.wire.until(2)) == 2
    assert time.time() - begun >= 1.0 - 0.05
    outbox = await kit.open()
    await kit.emptied(outbox)


async def test_one_trace_through_the_outbox(kit: OutboxKit) -> None:
    """With tracing, the event that is relayed has the trace context that it was published with."""
    app = await kit.app(publish_middleware=[_traced])
    await kit.relaying()
    writer = await kit.writer()
    await kit.publish(app, writer.within)
    await writer.commit()
    (sent,) = await kit.wire.until(1)
    assert sent.headers == {"traceparent": _TRACE}


_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@publish_middleware
async def _traced(outgoing: Outgoing, call_next: Any) -> Receipt:
    outgoing.headers["traceparent"] = _TRACE
    receipt: Receipt = await call_next(outgoing)
    return receipt


async def test_what_a_relay_sends_passes_no_middleware_twice(kit: OutboxKit) -> None:
    """Middleware of the application has seen it; that of the relay's Bus neither sees nor changes it."""
    seen: list[str] = []

    @publish_middleware
    async def noting(outgoing: Outgoing, call_next: Any) -> Receipt:
        seen.append(outgoing.event.id)
        receipt: Receipt = await call_next(outgoing)
        return receipt

    app = await kit.app(publish_middleware=[noting])
    await kit.relaying(publish_middleware=[noting, _traced])
    writer = await kit.writer()
    await kit.publish(app, writer.within, count=2)
    await writer.commit()
    sent = await kit.wire.until(2)
    assert seen == ["k-0", "k-1"]
    assert [each.headers for each in sent] == [{}, {}]
    assert [each.event.source for each in sent] == ["shop", "shop"]


async def test_a_relay_that_starts_later_finds_everything(kit: OutboxKit) -> None:
    """What was committed before any relay ran is sent when one starts; what was sent is not sent again by the next."""
    app = await kit.app()
    count = kit.pick(200, 5_000)
    for key in ("a", "b", "c"):
        await kit.commit(app, key, count)
    first = await kit.relaying(kit.relay(batch=50))
    await kit.wire.until(3 * count)
    outbox = await kit.open()
    await kit.emptied(outbox)
    await first.close()
    await kit.relaying()
    await kit.commit(app, "d")
    await kit.wire.until(3 * count + 1)
    assert len(await kit.wire.quiet(0.5)) == 3 * count + 1
    assert len(set(kit.wire.ids)) == 3 * count + 1
    kit.in_order()


@pytest.mark.parametrize("batch", [1, 2, 3, 500])
async def test_any_size_of_batch(kit: OutboxKit, batch: int) -> None:
    """Every size of batch relays everything in order."""
    app = await kit.app()
    await kit.relaying(kit.relay(batch=batch, poll=0.05))
    await asyncio.gather(*(kit.commit(app, key, 10) for key in ("a", "b", "c", "d")))
    await kit.wire.until(40)
    kit.in_order()
    outbox = await kit.open()
    await kit.emptied(outbox)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch", 0),
        ("batch", -1),
        ("batch", 0.5),
        ("batch", True),
        ("poll", 0),
        ("poll", float("nan")),
        ("lease", float("inf")),
        ("rejected", "drop"),
    ],
)
async def test_settings_that_are_wrong_are_refused(kit: OutboxKit, setting: str, value: Any) -> None:
    """ConfigError, which names the setting."""
    with pytest.raises(ConfigError, match=setting):
        kit.relay(**{setting: value})
