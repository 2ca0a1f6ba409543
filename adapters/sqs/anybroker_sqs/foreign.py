"""Messages that are not CloudEvents: those that came from SQS go on as they came, others are wrapped in JSON."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from pydantic_core import from_json

from anybroker.adapter import Foreign
from anybroker.errors import InvalidEvent

__all__ = ["FOREIGN", "Attribute", "SqsForeign", "unwrap", "value_of", "wrap"]

FOREIGN: Final = "application/vnd.anybroker.foreign+json"
"""Content type of a body that wraps a message which is not a CloudEvent and did not come from SQS: its bytes and
headers, in base64."""

Attribute: TypeAlias = Mapping[str, Any]
"""``DataType``, and ``StringValue`` or ``BinaryValue``."""


def value_of(attribute: Attribute) -> str | bytes:
    """The value of a message attribute; empty bytes for one without."""
    value: str | bytes = attribute["StringValue"] if "StringValue" in attribute else attribute.get("BinaryValue", b"")
    return value


class SqsForeign(Foreign):
    """A message that is not a CloudEvent, with its text and attributes as SQS gave them, so that its dead letter has
    them too."""

    __slots__ = ("attributes", "text")

    def __init__(
        self, text: str, attributes: Mapping[str, Attribute], key: str | None, reason: InvalidEvent | None
    ) -> None:
        self.text = text
        self.attributes = attributes
        fields = [(name, _encode(value_of(attribute))) for name, attribute in attributes.items()]
        super().__init__(_encode(text), fields, key, reason)

    def without_headers(self) -> SqsForeign:
        """See :meth:`anybroker.adapter.Foreign.without_headers`."""
        return SqsForeign(self.text, {}, self.key, self.reason)


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def wrap(foreign: Foreign) -> str:
    """The body of a message that carries one from elsewhere."""
    body = None if foreign.body is None else b64encode(foreign.body).decode()
    headers = [[name, None if value is None else b64encode(value).decode()] for name, value in foreign.headers]
    return json.dumps({"body": body, "headers": headers, "key": foreign.key}, separators=(",", ":"))


def unwrap(text: str, key: str | None) -> Foreign | None:
    """What :func:`wrap` wrapped, byte for byte; None for another text. ``key``: of the message group."""
    try:
        parts = from_json(text)
        body = None if parts["body"] is None else b64decode(parts["body"], validate=True)
        headers = [
            (str(name), None if value is None else b64decode(value, validate=True)) for name, value in parts["headers"]
        ]
        own = parts["key"]
    except (ValueError, TypeError, KeyError, NotBase64):
        return None
    reason = InvalidEvent("a message that was not an event where it came from, kept as it was")
    return Foreign(body, headers, key if own is None else str(own), reason)
