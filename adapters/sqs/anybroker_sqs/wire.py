"""Events as SQS and SNS messages, and back. No CloudEvents binding exists for them.

Written: the event as structured JSON in the body, and message attributes ``content-type``, ``ce-type``, ``ce-source``,
``ce-subject`` for filter policies; transport headers as JSON in one attribute, ``anybroker``, because ten is the most
that a message may have. A copy of what has ten already (a dead letter) has those that make room for it in there too. A
message that is no event goes as it came. Read by the shape of the message: an SNS notification envelope, structured
JSON, binary attributes.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic_core import from_json

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import HeaderBinding, filter_attributes, format_text, parse_text
from anybroker.errors import InvalidEvent, Rejected
from anybroker.event import Event

from .names import HASHED, queue_name

__all__ = ["NOT_BEFORE", "Message", "SqsForeign", "Wire"]

NOT_BEFORE: Final = "anybroker-not-before"
"""The core's header; written here too where the core has not."""
FOREIGN: Final = "application/vnd.anybroker.foreign+json"
"""Content type of a body that wraps a message which is no CloudEvent and did not come from SQS: its bytes and headers,
base64."""

_OURS: Final = "anybroker"
_INLET: Final = "anybroker-inlet"
"""Beside what was sent straight to a group's queue, which SNS also sends to: the queue's name, without ``.fifo``."""
_ATTRIBUTES: Final = ("ce-", "ce_")
_INTERNAL: Final = "anybroker-"
"""Our own headers are within ``anybroker``: an attribute of such a name is another program's, and says nothing."""
_AHEAD: Final = 5.0
"""Seconds that an event in a message group of its key may have to wait: what is delayed is in a group of its own, as
it closes it. More than the last one is a clock that is ahead."""
_LONGEST: Final = 43_200.0 + 60.0
"""Seconds of the longest delay, and of a clock that is ahead."""
_MOST_ATTRIBUTES: Final = 10
_REQUIRED: Final = frozenset(("content-type", "ce-specversion", "ce-id", "ce-source", "ce-type"))
_MOVED: Final = "anybroker-attributes"
"""Beside our transport headers: attributes that had no place of their own, as ``{name: [type, value]}``."""
_KEY: Final = "anybroker-key"
"""Beside our transport headers: the message group that a foreign message came with."""
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no body may have [SendMessage, "MessageBody"]."""
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


Attribute: TypeAlias = Mapping[str, Any]
"""``DataType``, and ``StringValue`` or ``BinaryValue``."""


class Message(NamedTuple):
    """A message to be sent."""

    body: str
    attributes: dict[str, Attribute]
    size: int
    """Bytes as AWS counts them: body, and name, type and value of each attribute."""


class SqsForeign(Foreign):
    """A message that is no CloudEvent, with its text and attributes as SQS gave them, so that its dead letter has them
    too."""

    __slots__ = ("attributes", "text")

    def __init__(
        self, text: str, attributes: Mapping[str, Attribute], key: str | None, reason: InvalidEvent | None
    ) -> None:
        self.text = text
        self.attributes = attributes
        fields = [(name, _encode(_value(attribute))) for name, attribute in attributes.items()]
        super().__init__(_encode(text), fields, key, reason)

    def without_headers(self) -> SqsForeign:
        """See :meth:`anybroker.adapter.Foreign.without_headers`."""
        return SqsForeign(self.text, {}, self.key, self.reason)


class Wire:
    """Both directions; used from several threads."""

    def __init__(self, content_mode: Literal["structured", "binary"] = "structured") -> None:
        self._binding = HeaderBinding(str, prefix="ce-", content_type="header")
        self._structured = content_mode == "structured"

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, outbound: Outbound, other: bool = False) -> Message:
        """The message of an event; ``other``: in the content mode that is not set. Raises Rejected where binary mode,
        which was asked for, cannot carry it; what SQS has stored once goes as structured JSON then."""
        event = outbound.event
        extra: Mapping[str, Any] | None = outbound.headers
        if outbound.not_before is not None and (extra is None or NOT_BEFORE not in extra):
            extra = {**(extra or {}), NOT_BEFORE: f"{outbound.not_before:.3f}"}
        if outbound.group is not None:
            extra = {**(extra or {}), _INLET: queue_name(outbound.topic, outbound.group, False)}
        attributes: dict[str, Attribute]
        if isinstance(event, SqsForeign):
            body, attributes = event.text, dict(event.attributes)
            if extra is not None:
                own = {name.lower() for name in attributes}
                extra = {name: text for name, text in extra.items() if name not in own}
                if event.key is not None:
                    extra[_KEY] = event.key
        else:
            if isinstance(event, Foreign):
                body, plain = _wrap(event), {"content-type": FOREIGN}
            elif self._structured is not other:
                body, plain = format_text(event), filter_attributes(event)
            else:
                try:
                    body, plain = self._write_binary(event, outbound.topic)
                except Rejected:
                    if not outbound.is_copy:
                        raise
                    body, plain = format_text(event), filter_attributes(event)
            attributes = {name: {"DataType": "String", "StringValue": value} for name, value in plain.items()}
        if extra:
            moved = {} if _OURS not in attributes else {_OURS: _moved(attributes.pop(_OURS))}  # another program's
            if len(attributes) >= _MOST_ATTRIBUTES:
                if not outbound.is_copy:
                    raise _too_many(len(attributes) + 1, outbound.topic)
                moved |= _make_room(attributes)
            if moved:
                extra = {**extra, _MOVED: moved}
            # Not as ASCII: six bytes for each letter of an error in Russian are more than a dead letter has room for.
            text = json.dumps(dict(extra), separators=(",", ":"), ensure_ascii=False)
            try:
                text.encode()
            except UnicodeEncodeError as exc:
                raise Rejected(f"an event for topic {outbound.topic!r} has a header that is not Unicode") from exc
            text = _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
            attributes[_OURS] = {"DataType": "String", "StringValue": text}
        size = _bytes_of(body)
        for name, attribute in attributes.items():
            value = _value(attribute)
            size += len(name) + len(attribute["DataType"])
            size += len(value) if isinstance(value, bytes) else _bytes_of(value)
        return Message(body, attributes, size)

    def _write_binary(self, event: Event[Any], topic: str) -> tuple[str, dict[str, str]]:
        plain = dict(self._binding.binary_headers(event))
        empty = [name for name, value in plain.items() if not value]
        try:
            body = (event.body or b"").decode()
        except UnicodeDecodeError:
            body = ""
        problem = (
            "its data is itself a structured event"
            if not self._binding.carries(event)
            else f"the attribute {empty[0]!r} is empty"
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

    def read(self, message: Mapping[str, Any], lane: Lane, queue: str = "") -> Inbound:
        """One delivery, its position not set yet. What is no CloudEvent comes as a Foreign; nothing is raised.

        ``queue``: the name of the group's queue, by which is known what was sent to this group alone."""
        given: Mapping[str, Attribute] = message.get("MessageAttributes") or {}
        system: Mapping[str, str] = message.get("Attributes") or {}
        group = system.get("MessageGroupId")
        key = None if group is None or group.startswith(HASHED) else group
        ours = _unpack(_value(given[_OURS])) if _OURS in given else None
        if ours is None:
            headers: dict[str, str] = {}
        else:
            headers, moved = ours
            given = {**{name: attribute for name, attribute in given.items() if name != _OURS}, **moved}
            key = headers.pop(_KEY, key)
        plain = {name: _value(attribute) for name, attribute in given.items()}
        for name, value in plain.items():
            lower = name.lower()
            if lower != "content-type" and not lower.startswith((*_ATTRIBUTES, _INTERNAL)):
                headers[lower] = value if isinstance(value, str) else value.decode("utf-8", "replace")
        body: str = message["Body"]
        event: Event[Any] | Foreign | None = None
        if plain.get("content-type") == FOREIGN:
            event = _unwrap(body, key)
        if event is None:
            try:
                event = parse_text(body, plain)
            except InvalidEvent as exc:
                event = SqsForeign(body, _theirs(given), key, exc)
        own = event.key
        inlet = headers.pop(_INLET, None)
        not_before = None
        if NOT_BEFORE in headers:
            alone = group is None or group.startswith(HASHED)
            if (not_before := _seconds(headers[NOT_BEFORE], _LONGEST if alone else _AHEAD)) is None:
                headers[NOT_BEFORE] = ""  # which the core counts, where it would have believed it
        deliveries = int(system.get("ApproximateReceiveCount", "1"))
        return Inbound(
            event,
            lane,
            0,
            key if own is None else own,
            headers,
            message,
            None,
            0,
            deliveries,
            not_before,
            inlet is not None and inlet == queue,
        )


def _theirs(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Without those that only we write, and that somebody else wrote: copies have our own in their place."""
    return {name: value for name, value in attributes.items() if not name.lower().startswith(_INTERNAL)}


def _seconds(text: str, most: float) -> float | None:
    """When it may be handled; None where that is further away than we write it."""
    try:
        moment = float(text)
    except ValueError:
        return None
    return moment if moment < time.time() + most else None


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def _too_many(count: int, topic: str) -> Rejected:
    return Rejected(
        f"an event for topic {topic!r} needs {count} message attributes in binary mode, and SQS takes "
        f"{_MOST_ATTRIBUTES}. Use content_mode=structured"
    )


def _value(attribute: Attribute) -> str | bytes:
    value: str | bytes = attribute["StringValue"] if "StringValue" in attribute else attribute.get("BinaryValue", b"")
    return value


def _make_room(attributes: dict[str, Attribute]) -> dict[str, list[str]]:
    """Take out the last ones that may go, until there is room for ours."""
    moved: dict[str, list[str]] = {}
    optional = [name for name in attributes if name not in _REQUIRED]
    while len(attributes) >= _MOST_ATTRIBUTES and optional:
        name = optional.pop()
        moved[name] = _moved(attributes.pop(name))
    return moved


def _moved(attribute: Attribute) -> list[str]:
    value = _value(attribute)
    return [attribute["DataType"], value if isinstance(value, str) else b64encode(value).decode()]


def _unpack(value: str | bytes) -> tuple[dict[str, str], dict[str, Attribute]] | None:
    """Our transport headers, and the attributes that have moved there; None where the attribute is somebody else's."""
    try:
        headers = from_json(value)
    except ValueError:
        headers = _unpack_surrogates(value)
    if not isinstance(headers, dict):
        return None
    moved: dict[str, Attribute] = {}
    try:
        for name, (kind, text) in headers.pop(_MOVED, {}).items():
            if kind.startswith("Binary"):
                moved[name] = {"DataType": kind, "BinaryValue": b64decode(text, validate=True)}
            elif isinstance(text, str):
                moved[name] = {"DataType": kind, "StringValue": text}
    except (ValueError, TypeError, AttributeError):
        return None
    if not all(isinstance(text, str) for text in headers.values()):
        return None
    return headers, moved


def _unpack_surrogates(value: str | bytes) -> Any:
    """The same where an unpaired surrogate, which an earlier release wrote, is in one of them; None: no JSON."""
    try:
        headers = json.loads(value)
    except (ValueError, RecursionError):  # no JSON, or nested more deeply than anything of ours
        return None
    if not isinstance(headers, dict):
        return None
    clean = {_SURROGATES.sub("\ufffd", name): text for name, text in headers.items()}
    return {name: _SURROGATES.sub("\ufffd", text) if isinstance(text, str) else text for name, text in clean.items()}


def _wrap(foreign: Foreign) -> str:
    body = None if foreign.body is None else b64encode(foreign.body).decode()
    headers = [[name, None if value is None else b64encode(value).decode()] for name, value in foreign.headers]
    return json.dumps({"body": body, "headers": headers, "key": foreign.key}, separators=(",", ":"))


def _unwrap(text: str, key: str | None) -> Foreign | None:
    """What was wrapped, byte for byte; None where this is no such wrapper."""
    try:
        parts = from_json(text)
        body = None if parts["body"] is None else b64decode(parts["body"], validate=True)
        headers = [
            (str(name), None if value is None else b64decode(value, validate=True)) for name, value in parts["headers"]
        ]
        own = parts["key"]
    except (ValueError, TypeError, KeyError, NoBase64):
        return None
    reason = InvalidEvent("a message that was none where it came from, kept as it was")
    return Foreign(body, headers, key if own is None else str(own), reason)
