"""Events of every kind, as they are published, and what of each must be the same on both ways."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel

from anybroker import Bus, Event, event_type
from anybroker.cloudevents.attributes import AttributeValue

__all__ = ["EVENTS", "ORDERS", "TOPICS", "TYPE", "Same", "publish_all", "same"]

ORDERS, REPORTS = "shop.orders", "reports-2"
TOPICS = (ORDERS, REPORTS)
TYPE = "com.example.placed.v1"


@event_type("com.example.order-placed.v1", key="order")
class Placed(BaseModel):
    order: str
    price: float
    note: str | None = None


EVENTS: Mapping[str, tuple[str, tuple[object, ...], Mapping[str, Any]]] = {
    # Data.
    "model": (ORDERS, (Placed(order="o-1", price=0.1, note='ö "quoted" \\ \x00 \u2028 😀'),), {}),
    "json": (ORDERS, ({"a": [1, 2.50, None, True, {"b": ""}]},), {"type": TYPE, "key": "o-1"}),
    "json null": (ORDERS, (None,), {"type": TYPE, "key": "o-1", "datacontenttype": "application/json"}),
    "json as it was written": (
        REPORTS,
        (b'{ "b": 1e2,\r\n\t"a": "\\u00e9\\u0000" }',),
        {"type": TYPE, "datacontenttype": "application/json"},
    ),
    "another json": (REPORTS, (b'{"a":1}',), {"type": TYPE, "datacontenttype": "application/vnd.shop+json"}),
    "json that is not JSON": (REPORTS, (b"{broken",), {"type": TYPE, "datacontenttype": "application/json"}),
    "json text": (REPORTS, ("line 1\r\nline 2 – ü 😀",), {"type": TYPE}),
    "text": (REPORTS, ("line 1\r\nline 2 – ü 😀",), {"type": TYPE, "datacontenttype": "text/plain"}),
    "text of another character set": (
        REPORTS,
        ("Grüße".encode("latin-1"),),
        {"type": TYPE, "datacontenttype": "text/plain; charset=iso-8859-1"},
    ),
    "empty text": (REPORTS, ("",), {"type": TYPE, "datacontenttype": "text/plain"}),
    "binary": (REPORTS, (bytes(range(256)),), {"type": TYPE, "datacontenttype": "application/octet-stream"}),
    "binary without a content type": (REPORTS, (b"\xff\xfe\x00",), {"type": TYPE}),
    "empty binary": (REPORTS, (b"",), {"type": TYPE, "datacontenttype": "application/octet-stream"}),
    "nothing": (REPORTS, (), {"type": TYPE}),
    "large": (ORDERS, ({"text": "\u20ac" * 100_000},), {"type": TYPE, "key": "o-2"}),
    # Attributes.
    "attributes": (
        ORDERS,
        ({"a": 1},),
        {
            "type": "com.example/ü",
            "id": 'id – 1; é/%20 "x"',
            "source": "https://example.com/shop?a=b#c",
            "subject": "orders/ü/1",
            "time": "2024-02-29T23:59:59.123456789+05:30",
            "dataschema": "https://example.com/schema#placed",
            "key": "o-1",
        },
    ),
    "extensions": (
        ORDERS,
        ({"a": 1},),
        {
            "type": TYPE,
            "key": "o-1",
            "extensions": {
                "astring": 'ü, "quoted" \\ 😀',
                "anempty": "",
                "aninteger": -(2**31),
                "aboolean": False,
                "another": True,
                "somebytes": b"\x00\xff\x10",
                "amoment": datetime(2024, 1, 2, 3, 4, 5, 678, UTC),
                "auri": "urn:example:1",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        },
    ),
    # Keys.
    "key with letters of others": (ORDERS, ({"a": 1},), {"type": TYPE, "key": "Größe/日本/😀"}),
    "key that is a number": (ORDERS, ({"a": 1},), {"type": TYPE, "key": 17}),
    "longest key": (ORDERS, ({"a": 1},), {"type": TYPE, "key": "k" * 512}),
    "no key": (ORDERS, ({"a": 1},), {"type": TYPE}),
    # Beside the event.
    "delay": (ORDERS, ({"a": 1},), {"type": TYPE, "delay": 1.5}),
    "headers": (ORDERS, ({"a": 1},), {"type": TYPE, "key": "o-1", "headers": {"tenant": "é 7", "x-retries": "3"}}),
}
"""By name: the topic, the payload if there is one, and what else ``publish`` is given."""


class Same(NamedTuple):
    """All that a consumer sees of an event, but for the headers beside it."""

    topic: str
    key: str | None
    attributes: Mapping[str, tuple[str, AttributeValue]]
    """With their types: JSON tells an Integer and a Boolean from a String."""
    body: bytes | None


def same(topic: str, key: str | None, event: Event[Any]) -> Same:
    """Of one event."""
    attributes = {name: (type(value).__name__, value) for name, value in event.attributes.items()}
    return Same(topic, key, attributes, event.body)


async def publish_all(bus: Bus, within: Any) -> list[Event[Any]]:
    """Publish each of them in this transaction."""
    events: list[Event[Any]] = []
    for topic, payload, given in EVENTS.values():
        receipt = await bus.publish(topic, *payload, **given, within=within)
        assert receipt.event is not None
        events.append(receipt.event)
    return events
