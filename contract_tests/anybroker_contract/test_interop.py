"""interop: programs without anybroker read what we publish, and we read what they publish, attribute for attribute."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from anybroker import ABSENT, Event, Receipt
from anybroker.errors import Rejected

from ._kit import TYPE, Kit
from .harness import Mode
from .marks import needs_harness

# Nine attributes at most: with the content type ten headers, which every broker has room for.
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "json": {
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/schema#thing",
        "comment": "100% ä",
    },
    "text": {"datacontenttype": "text/plain; charset=utf-8", "number": 7, "subject": 'über "all"/1 2'},
    "bytes": {
        "datacontenttype": "application/octet-stream",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad-01",
    },
    "absent": {"subject": "no data", "comment": "b"},
}
DATA: dict[str, Any] = {"json": {"n": 1, "text": "ä"}, "text": "Grüße\n", "bytes": b"\xff\x00\xfe", "absent": None}
TIME = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)


def canonical(attributes: Any) -> dict[str, str]:
    """Every value as its canonical string; a moment always as one in UTC."""
    found = {}
    for name, value in dict(attributes).items():
        text = value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
        found[name] = text.lower() if isinstance(value, bool) else text
    return found


@pytest.mark.parametrize("mode", ["binary", "structured"])
@needs_harness("raw", "in_mode")
async def test_others_read_our_events(kit: Kit, mode: Mode) -> None:
    """What the library publishes in each content mode is the same event to the Python SDK over the broker's own client:
    every attribute, and data that is JSON, text, bytes or absent."""
    topic = kit.topic()
    await kit.declared(topic, "g", "raw")
    bus = kit.bus(target=kit.in_mode(mode), consume=False)
    async with kit.harness.raw() as client, bus:
        await client.listen(topic, "raw")
        for name, attributes in ATTRIBUTES.items():
            data = DATA[name]
            kind = attributes.get("datacontenttype")
            own = {key: value for key, value in attributes.items() if key in ("dataschema", "subject")}
            extensions = {key: value for key, value in attributes.items() if key not in (*own, "datacontenttype")}
            event = Event.create(
                ABSENT if data is None else data,
                source="/contract/%C3%A4",
                type=TYPE,
                id=f"{name} ä 1",
                time=TIME,
                key="k-7",
                datacontenttype=kind,
                extensions=extensions,
                **own,
            )
            (result,) = await bus.publish_many(topic, [event])
            if isinstance(result, Rejected):
                # Where the broker has no room for it in binary mode, that is said before the wire, with the way out.
                assert (mode, "content_mode=structured" in str(result)) == ("binary", True)
                assert name in ("bytes", "absent")
                continue
            assert isinstance(result, Receipt)
            async with asyncio.timeout(kit.patience):
                read = client.read(await client.receive())
            assert canonical(read.get_attributes()) == canonical(event.attributes)
            assert read.get_data() == data


@pytest.mark.parametrize("mode", ["binary", "structured"])
@needs_harness("raw")
async def test_we_read_the_events_of_others(kit: Kit, mode: Mode) -> None:
    """What the Python SDK writes in each content mode, sent by the broker's own client, reaches a handler as the same
    event: every attribute, and data that is JSON, text, bytes or absent; nothing is added."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    written: dict[str, Any] = {}
    async with kit.harness.raw() as client, bus:
        for name, attributes in ATTRIBUTES.items():
            fixed = {"specversion": "1.0", "id": name, "source": "/others", "type": TYPE, "time": TIME}
            event = client.event({**fixed, **attributes, "partitionkey": "k-7"}, DATA[name])
            message = client.write(event, mode)
            if not client.carries(message):
                continue
            written[name] = event
            await client.send(topic, "g", message)
        await log.wait_done(written)
    assert len(written) >= 2
    for handling in log.handlings:
        event = written[handling.id]
        assert canonical(handling.event.attributes) == canonical(event.get_attributes())
        data = DATA[handling.id]
        # In binary mode the SDK writes no data as an empty body.
        assert handling.event.data == data if data is not None else not handling.event.body
        assert (handling.key, handling.attempt) == ("k-7", 1)
