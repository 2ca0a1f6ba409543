"""Events as SQS and SNS messages, and back. CloudEvents has no binding for them.

Written: the event as structured JSON in the body, and message attributes ``content-type``, ``ce-type``, ``ce-source``,
``ce-subject`` for filter policies; transport headers in one attribute (:mod:`.attribute`). A message that is not an
event goes as it came (:mod:`.foreign`). Read by the shape of the message: an SNS notification envelope, structured
JSON, binary attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import Event, HeaderBinding, filter_attributes, format_text, parse_text
from anybroker.errors import InvalidEvent, Rejected
from anybroker.kit.not_before import NOT_BEFORE, headers_with_not_before, take_not_before

from .attribute import MOST_ATTRIBUTES, NOT_XML, add_headers, take_headers, too_many
from .foreign import FOREIGN, Attribute, SqsForeign, unwrap, value_of, wrap
from .names import HASHED, queue_name

__all__ = ["Message", "Wire"]

_INLET: Final = "anybroker-inlet"
"""Beside what was sent straight to a group's queue, which SNS also sends to: the queue's name, without ``.fifo``."""
_KEY: Final = "anybroker-key"
"""Beside the transport headers: the message group that a foreign message came with."""
_INTERNAL: Final = "anybroker-"
"""Our own headers are within ``anybroker``: an attribute of such a name is another program's, and says nothing."""
_NOT_HEADERS: Final = ("ce-", "ce_", _INTERNAL)
_AHEAD: Final = 5.0
"""Seconds that an event in its key's message group may have to wait. A delayed event has a message group to itself, as
it closes it; so this is only a clock that is ahead."""
_LONGEST: Final = 43_200.0 + 60.0
"""Seconds of the longest delay, and of a clock that is ahead."""


class Message(NamedTuple):
    """A message to be sent."""

    body: str
    attributes: dict[str, Attribute]
    size: int
    """Bytes as AWS counts them: body, and name, type and value of each attribute."""


class Wire:
    """Both directions; used from several threads."""

    def __init__(self, content_mode: Literal["structured", "binary"] = "structured") -> None:
        self._binding = HeaderBinding(str, prefix="ce-", content_type="header")
        self._structured = content_mode == "structured"

    # ------------------------------------------------------------------------------------------------- writing

    def write(self, outbound: Outbound, other: bool = False) -> Message:
        """The message of an event; ``other``: in the content mode that is not set. Raises Rejected where binary mode,
        which was asked for, cannot carry it. A copy of what SQS has stored once goes as structured JSON then."""
        event = outbound.event
        extra = outbound.headers if outbound.not_before is None else headers_with_not_before(outbound)
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
            body, plain = self._write(event, outbound, other)
            attributes = {name: {"DataType": "String", "StringValue": value} for name, value in plain.items()}
        if extra:
            add_headers(outbound, attributes, extra)
        size = _bytes_of(body)
        for name, attribute in attributes.items():
            size += len(name) + len(attribute["DataType"]) + _bytes_of(value_of(attribute))
        return Message(body, attributes, size)

    def _write(self, event: Event[Any] | Foreign, outbound: Outbound, other: bool) -> tuple[str, Mapping[str, str]]:
        """The body, and the attributes beside it."""
        if isinstance(event, Foreign):
            return wrap(event), {"content-type": FOREIGN}
        if self._structured is other:
            try:
                return self._write_binary(event, outbound.topic)
            except Rejected:
                if not outbound.is_copy:
                    raise
        return format_text(event), filter_attributes(event)

    def _write_binary(self, event: Event[Any], topic: str) -> tuple[str, Mapping[str, str]]:
        plain = dict(self._binding.binary_headers(event))
        empty = [name for name, value in plain.items() if not value]
        try:
            body = (event.body or b"").decode()
        except UnicodeDecodeError:
            body = ""
        problem = None
        if not self._binding.carries(event):
            problem = "its data is itself a structured event"
        elif empty:
            problem = f"the attribute {empty[0]!r} is empty"
        elif not body or NOT_XML.search(body):
            problem = "its data is not text that SQS takes: absent, empty, or with bytes that are not XML characters"
        if problem is not None:
            raise Rejected(
                f"an event for topic {topic!r} cannot go in binary mode: {problem}. Use content_mode=structured"
            )
        if len(plain) > MOST_ATTRIBUTES:
            raise too_many(len(plain), topic)
        return body, plain

    # ------------------------------------------------------------------------------------------------- reading

    def read(self, message: Mapping[str, Any], lane: Lane, queue: str = "") -> Inbound:
        """One delivery, without its position. What is not a CloudEvent comes as a Foreign; nothing is raised.

        ``queue``: the name of the group's queue, by which messages to this group alone are recognised."""
        headers, attributes = take_headers(message.get("MessageAttributes") or {})
        system: Mapping[str, str] = message.get("Attributes") or {}
        group = system.get("MessageGroupId")
        alone = group is None or group.startswith(HASHED)
        key = headers.pop(_KEY, None if alone else group)
        plain = {name: value_of(attribute) for name, attribute in attributes.items()}
        for name, value in plain.items():
            lower = name.lower()
            if lower != "content-type" and not lower.startswith(_NOT_HEADERS):
                headers[lower] = value if isinstance(value, str) else value.decode("utf-8", "replace")
        body: str = message["Body"]
        event: Event[Any] | Foreign | None = unwrap(body, key) if plain.get("content-type") == FOREIGN else None
        if event is None:
            try:
                event = parse_text(body, plain)
            except InvalidEvent as exc:
                event = SqsForeign(body, _own(attributes), key, exc)
        inlet = headers.pop(_INLET, None)
        return Inbound(
            event,
            lane,
            0,
            key if event.key is None else event.key,
            headers,
            message,
            deliveries=int(system.get("ApproximateReceiveCount", "1")),
            not_before=take_not_before(headers, _LONGEST if alone else _AHEAD) if NOT_BEFORE in headers else None,
            inlet=inlet is not None and inlet == queue,
        )


def _own(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Without those that another program named like ours: copies have our own in their place."""
    return {name: value for name, value in attributes.items() if not name.lower().startswith(_INTERNAL)}


def _bytes_of(value: str | bytes) -> int:
    return len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode())
