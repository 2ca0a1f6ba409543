"""Valid events, chosen by the bytes of an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from anybroker.cloudevents.attributes import check_text
from anybroker.errors import InvalidEvent
from anybroker.event import Event

__all__ = ["Choices"]

T = TypeVar("T")

_PIECES = [
    *'a7 "\\%=;:,-+?#@äé🙂\u2028\u202e\ufeff\ud7ff\ufffd\xa0\xad\U0010fffd',
    "/shop",
    "order.v1",
    "  ",
    "%41",
    "%C3",
]
_PIECES += ["http://e.com/#", "&<>'", "1.0", "null", "true", "{}", "[]", "a" * 300, "ß" * 130, "0" * 20, "ce_id"]
_PIECES += ["application/json", "--", "_x000A_", "&#10;", "=?utf-8?q?a?="]
_CONTENT_TYPES = [None, "application/json", "Application/Vnd.Example+JSON; charset=UTF-8", "text/plain", "image/png"]
_CONTENT_TYPES += ["text/plain; charset=latin-1", "text/plain; charset=utf-16", "application/json; charset=utf-16"]
_CONTENT_TYPES += ["application/xml", "text/csv; charset=none", "application/cloudevents+json", "a/" + "b" * 300]
_BODIES = [
    None,
    b"",
    b"null",
    b'""',
    b" 1 ",
    b'{"a": 1e2}',
    b"\xef\xbb\xbf1",
    b"\xff\xfe1\x00",
    b"NaN",
    b"\xef\xbf\xbf",
]
_BODIES += ["ä".encode(), b"\x00", b'{"specversion":"1.0","id":"1","source":"/s","type":"t"}', b"[" * 300]
_TIMES = [None, None, "2026-01-01T00:00:00Z", "2016-12-31T23:59:60Z", "1990-01-01 00:00:00.123456789z"]
_TIMES += ["2016-12-31t15:59:60.1-08:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-23:59"]
_HEADERS = ["x-a", "traceparent", "anybroker-dead-reason", "anybroker-dead-error", "baggage"]
_NAMES = [f"{first}{more}" for first in "abdefginpstuz019" for more in ("", "a", "7", "key", "x" * 22)]


class Choices:
    """Choices by the input's bytes; when they are used up, always the first. Hypothesis takes a hundred times as long
    to make an event; its strategies are in ``tests/cloudevents/test_round_trips.py``."""

    def __init__(self, data: bytes) -> None:
        self._bytes = iter(data)

    def number(self, limit: int) -> int:
        """Below the limit, which is 256 at most."""
        return next(self._bytes, 0) % limit

    def of(self, found: Sequence[T]) -> T:
        """One of them."""
        return found[self.number(len(found))]

    def text(self) -> str:
        """Up to three pieces, or any characters that an attribute may have."""
        count = self.number(5)
        if count < 4:
            return "".join([self.of(_PIECES) for _ in range(count)])
        codes = [self.number(256) << 16 | self.number(256) << 8 | self.number(256) for _ in range(self.number(6))]
        text = "".join([chr(code % 0x110000) for code in codes])
        try:
            check_text("x", text)
        except InvalidEvent:
            return "?"
        return text

    def value(self) -> Any:
        """Of an extension."""
        match self.number(8):
            case 0:
                return bool(self.number(2))
            case 1:
                return self.of((0, 1, -1, 2**31 - 1, -(2**31)))
            case 2:
                return bytes([self.number(256) for _ in range(self.number(5))])
            case _:
                return self.text()

    def event(self) -> Event[Any]:
        """Any event that the reader's rules allow, which are wider than the writer's."""
        attributes: dict[str, Any] = {"specversion": "1.0"}
        for name in ("id", "source", "type"):
            attributes[name] = self.text() or "x"
        more = {"time": self.of(_TIMES), "datacontenttype": self.of(_CONTENT_TYPES), "subject": self.text() or None}
        attributes |= {name: value for name, value in more.items() if value is not None}
        for _ in range(self.number(4)):
            attributes[self.of(_NAMES)] = self.value()
        return Event(attributes, self.text().encode() if self.number(3) == 1 else self.of(_BODIES))

    def headers(self) -> dict[str, str] | None:
        """Transport headers."""
        return {self.of(_HEADERS): self.text().strip() for _ in range(self.number(4))} or None
