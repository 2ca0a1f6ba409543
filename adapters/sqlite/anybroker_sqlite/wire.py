"""Events as rows of a segment: attributes in JSON, bodies one after the other.

CloudEvents defines no binding for SQLite. This one loses nothing: absent and empty bodies differ, numbers and booleans
keep their types, foreign messages keep their headers byte for byte.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from pydantic_core import from_json, to_json

from anybroker.adapter import Foreign, Outbound
from anybroker.cloudevents import Event, trusted_event
from anybroker.errors import InvalidEvent

__all__ = ["Row", "Segment", "decode", "encode", "fingerprint", "hop_of", "size_of"]

Row: TypeAlias = Sequence[Any]
"""``[id, source, type, time, datacontenttype, key, size of the body or None, more or None]``; without a source, a
foreign message. ``more``: ``attributes`` (all others), ``headers``, ``hop``, ``due``, ``foreign`` (its own headers)."""

_IN_ROW = frozenset(("specversion", "id", "source", "type", "time", "datacontenttype"))
_NO_HEADERS: Mapping[str, str] = {}


def encode(outbound: Outbound) -> tuple[Row, bytes | None, int]:
    """The row and the body of an event to be stored, and its approximate size: where the row has no ``more``, more than
    an eighth of :func:`size_of`."""
    event = outbound.event
    id_: Any
    source: Any
    type_: Any
    time: Any
    kind: Any
    key: Any
    more: dict[str, Any] | None = None
    if isinstance(event, Foreign):
        key, body = event.key, event.body
        more = {
            "foreign": [[name, None if value is None else b64encode(value).decode()] for name, value in event.headers]
        }
        id_, source, type_, time, kind = outbound.deduplication_id(), None, None, None, None
    else:
        attributes, body = event.attributes, event.body
        get = attributes.get
        id_, source, type_, time, kind = get("id"), get("source"), get("type"), get("time"), get("datacontenttype")
        key = get("partitionkey")
        expected = 4 + (time is not None) + (kind is not None)
        if type(key) is str and key:
            expected += 1
            plain_key = True
        else:
            key, plain_key = event.key, False
        if len(attributes) != expected:
            more = {
                "attributes": {
                    name: b64encode(value).decode() if type(value) is bytes else value
                    for name, value in attributes.items()
                    if name not in _IN_ROW and not (plain_key and name == "partitionkey")
                }
            }
    if outbound.headers or outbound.hop or outbound.not_before is not None:
        more = more or {}
        if outbound.headers:
            more["headers"] = dict(outbound.headers)
        if outbound.hop:
            more["hop"] = outbound.hop
        if outbound.not_before is not None:
            more["due"] = outbound.not_before
    size = None if body is None else len(body)
    rough = (size or 0) + len(id_)
    if source is not None:
        rough += len(source) + len(type_) + len(kind or "") + len(key or "")
    return (id_, source, type_, time, kind, key, size, more), body, rough


def size_of(row: Row) -> int:
    """The bytes that an event takes: its body, and its attributes and headers as they are stored."""
    return (row[6] or 0) + len(to_json(row))


def decode(row: Row, body: bytes | None) -> tuple[Event[Any] | Foreign, Mapping[str, str]]:
    """The event, or the foreign message, and its transport headers."""
    id_, source, type_, time, kind, key, _, more = row
    if source is None:
        headers = [(name, None if value is None else b64decode(value)) for name, value in more["foreign"]]
        reason = InvalidEvent("the message is not a CloudEvent; it was stored as it came. Publish events instead")
        return Foreign(body, headers, key, reason), more.get("headers", _NO_HEADERS)
    attributes = {"specversion": "1.0", "id": id_, "source": source, "type": type_}
    if time is not None:
        attributes["time"] = time
    if kind is not None:
        attributes["datacontenttype"] = kind
    if more is None:
        if key is not None:
            attributes["partitionkey"] = key
        return trusted_event(attributes, body), _NO_HEADERS
    others = more.get("attributes", {})
    if key is not None and "partitionkey" not in others:
        attributes["partitionkey"] = key
    attributes.update(others)
    return trusted_event(attributes, body), more.get("headers", _NO_HEADERS)


def hop_of(row: Row) -> str:
    """The hop, which distinguishes this copy of the event from others."""
    return row[7].get("hop", "") if row[7] else ""


def fingerprint(topic: str, group: str | None, row: Row) -> int:
    """A 64-bit number to find copies by, in this process only; equal rows have equal numbers."""
    return hash((topic, group, row[1], row[0], row[7].get("hop", "") if row[7] else ""))


class Segment:
    """A segment as it was read. Never changed, because receivers share it."""

    __slots__ = ("_body", "_ends", "delayed", "first", "last", "only_group", "rows", "size")

    def __init__(self, first: int, count: int, only_group: int | None, meta: str, body: bytes) -> None:
        self.first = first
        self.last = first + count - 1
        self.only_group = only_group
        self.rows: list[Row] = from_json(meta)
        self.size = len(meta) + len(body) + 512 * count  # bytes in memory, roughly
        self.delayed = any([row[7] is not None and "due" in row[7] for row in self.rows])
        self._body = body
        self._ends = list(accumulate([row[6] or 0 for row in self.rows]))

    def body(self, at: int) -> bytes | None:
        """The body of the event with this index."""
        size = self.rows[at][6]
        if size is None:
            return None
        end = self._ends[at]
        return self._body[end - size : end]

    def bytes_of(self, begin: int, end: int) -> int:
        """The bytes of all bodies from index ``begin`` up to, not including, ``end``."""
        return self._ends[end - 1] - (self._ends[begin - 1] if begin else 0)
