"""Events as SQS and SNS messages, and back. No CloudEvents binding exists for them.

Written: the event as structured JSON in the body, and message attributes ``content-type``, ``ce-type``, ``ce-source``,
``ce-subject`` for filter policies; transport headers as JSON in one attribute, ``anybroker``, because ten is the most
that a message may have. Read by the shape of the message: an SNS notification envelope, structured JSON, binary
attributes.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic_core import from_json

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, filter_attributes, format_text, parse_text
from anybroker.errors import InvalidEvent, Rejected
from anybroker.event import Event

from .names import HASHED

__all__ = ["NOT_BEFORE", "Message", "Wire"]

NOT_BEFORE: Final = "anybroker-not-before"
"""The core's header; written here too where the core has not."""
FOREIGN: Final = "application/vnd.anybroker.foreign+json"
"""Content type of a body that wraps a message which is no CloudEvent: its bytes and headers, base64."""

_OURS: Final = "anybroker"
_ATTRIBUTES: Final = ("ce-", "ce_")
_MOST_ATTRIBUTES: Final = 10
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no body may have [SendMessage, "MessageBody"]."""


class Message(NamedTuple):
    """A message to be sent."""

    body: str
    attributes: dict[str, dict[str, str]]
    size: int
    """Bytes as AWS counts them: body, and name, type and value of each attribute."""


class Wire:
    """Both directions; used from several threads."""

    def __init__(self, content_mode: Literal["structured", "binary"] = "structured") -> None:
        self._binary = HeaderBinding(str, prefix="ce-", content_type="header") if content_mode == "binary" else None

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, outbound: Outbound) -> Message:
        """The message of an event. Raises Rejected where binary mode, which was asked for, cannot carry it."""
        event = outbound.event
        if isinstance(event, Foreign):
            body, plain = _wrap(event), {"content-type": FOREIGN}
        elif self._binary is None:
            body, plain = format_text(event), filter_attributes(event)
        else:
            body, plain = self._write_binary(self._binary, event, outbound.topic)
        extra = outbound.headers
        if outbound.not_before is not None and (extra is None or NOT_BEFORE not in extra):
            extra = {**(extra or {}), NOT_BEFORE: f"{outbound.not_before:.3f}"}
        if extra:
            # Not as ASCII: six bytes for each letter of an error in Russian are more than a dead letter has room for.
            text = json.dumps(dict(extra), separators=(",", ":"), ensure_ascii=False)
            plain[_OURS] = _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
            if len(plain) > _MOST_ATTRIBUTES:
                raise _too_many(len(plain), outbound.topic)
        size = _bytes_of(body)
        attributes = {}
        for name, value in plain.items():
            size += len(name) + 6 + _bytes_of(value)  # 6: "String"
            attributes[name] = {"DataType": "String", "StringValue": value}
        return Message(body, attributes, size)

    def _write_binary(self, binding: HeaderBinding[str], event: Event[Any], topic: str) -> tuple[str, dict[str, str]]:
        plain = dict(binding.binary_headers(event))
        empty = [name for name, value in plain.items() if not value]
        try:
            body = (event.body or b"").decode()
        except UnicodeDecodeError:
            body = ""
        problem = (
            f"the attribute {empty[0]!r} is empty"
            if empty
            else "its data is not text that SQS takes: absent, empty, or with bytes that are no XML characters"
            if not body or _NO_XML.search(body)
            else None
        )
        if problem is not None:
            raise Rejected(
                f"an event for topic {topic!r} cannot go in binary mode: {problem}. Use content_mode=structured"
            )
        if len(plain) > _MOST_ATTRIBUTES:
            raise _too_many(len(plain), topic)
        return body, plain

    # ------------------------------------------------------------------------------------------------- reading

    def read(self, message: Mapping[str, Any], lane: Lane) -> Inbound:
        """One delivery, its position not set yet. What is no CloudEvent comes as a Foreign; nothing is raised."""
        given: Mapping[str, Any] = message.get("MessageAttributes") or {}
        system: Mapping[str, str] = message.get("Attributes") or {}
        plain: dict[str, str | bytes] = {
            name: value["StringValue"] if "StringValue" in value else value.get("BinaryValue", b"")
            for name, value in given.items()
        }
        headers = _unpack(plain.get(_OURS))
        if headers is None:
            headers = {}
        else:
            del plain[_OURS]
        for name, value in plain.items():
            lower = name.lower()
            if lower != "content-type" and not lower.startswith(_ATTRIBUTES):
                headers[lower] = value if isinstance(value, str) else value.decode("utf-8", "replace")
        group = system.get("MessageGroupId")
        key = None if group is None or group.startswith(HASHED) else group
        body: str = message["Body"]
        event: Event[Any] | Foreign | None = None
        if plain.get("content-type") == FOREIGN:
            event = _unwrap(body, key)
        if event is None:
            try:
                event = parse_text(body, plain)
            except InvalidEvent as exc:
                fields = [(name, _encode(value)) for name, value in plain.items()]
                event = Foreign(_encode(body), fields, key, exc)
        own = event.key
        deliveries = int(system.get("ApproximateReceiveCount", "1"))
        return Inbound(event, lane, 0, key if own is None else own, headers, message, None, 0, deliveries)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _too_many(count: int, topic: str) -> Rejected:
    return Rejected(
        f"an event for topic {topic!r} needs {count} message attributes in binary mode, and SQS takes "
        f"{_MOST_ATTRIBUTES}. Use content_mode=structured"
    )


def _unpack(value: str | bytes | None) -> dict[str, str] | None:
    """Our transport headers; None where the attribute is absent, or somebody else's."""
    if value is None:
        return None
    try:
        headers = from_json(value)
    except ValueError:
        return None
    if not isinstance(headers, dict) or not all(isinstance(text, str) for text in headers.values()):
        return None
    return headers


def _wrap(foreign: Foreign) -> str:
    body = None if foreign.body is None else b64encode(foreign.body).decode()
    headers = [[name, b64encode(value).decode()] for name, value in foreign.headers]
    return json.dumps({"body": body, "headers": headers, "key": foreign.key}, separators=(",", ":"))


def _unwrap(text: str, key: str | None) -> Foreign | None:
    """What was wrapped, byte for byte; None where this is no such wrapper."""
    try:
        parts = from_json(text)
        body = None if parts["body"] is None else b64decode(parts["body"], validate=True)
        headers = [(str(name), b64decode(value, validate=True)) for name, value in parts["headers"]]
        own = parts["key"]
    except (ValueError, TypeError, KeyError, NoBase64):
        return None
    reason = InvalidEvent("a message that was none where it came from, kept as it was")
    return Foreign(body, headers, key if own is None else str(own), reason)
