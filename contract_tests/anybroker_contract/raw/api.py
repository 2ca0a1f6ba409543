"""What a program without anybroker can do at a broker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.v1.event import CloudEvent

from ..content_mode import Mode

__all__ = ["Mode", "Quirk", "RawClient", "RawMessage"]

JSON = "application/cloudevents+json"
IMPLIED_JSON = {"datacontenttype": "application/json"}
"""The content type of `data` in a document without one (JSON format, section 3.1)."""
MINIMAL: Mapping[str, str] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@dataclass(frozen=True)
class RawMessage:
    """A message as the broker's own client returns or accepts it."""

    body: bytes | None
    headers: Mapping[str, Any]
    """Names and values, in the types that the client has for them."""
    content_type: str | None = None
    """The message's own field for it, where messages of this broker have one."""
    key: str | None = None
    """The broker's own ordering key."""
    past_the_topic: bool = False
    """Goes straight to the group, to its inlet."""
    native: Any = None
    """What the fields above cannot express, in a form of the client that sends it."""
    copy_id: str | None = None
    """The id by which the broker drops copies of it."""


@dataclass(frozen=True)
class Quirk:
    """A message of another program, and what it should be read as."""

    message: RawMessage
    attributes: Mapping[str, str] | None
    """Canonical; None: it is not an event."""
    body: bytes | None
    """Of the event, or of the message that is not one."""


class RawClient(ABC):
    """Connected by ``async with``. What it reads and writes as events goes through the SDK's binding for this broker,
    or the closest one; the subclass says which."""

    prefix: ClassVar[str]
    """The prefix of attribute headers in binary mode."""
    blanks: ClassVar[tuple[str | None, ...]] = ("",)
    """What a header of this broker can hold that says nothing: empty text; None, where there are headers without a
    value."""
    largest: ClassVar[int]
    """Bytes of the largest body, without key and headers, that the broker takes as the suite runs it."""
    header_room: ClassVar[int] = 900_000
    """Bytes that the headers of a message may take, or nearly."""
    content_type_room: ClassVar[int] = 100_000
    """Bytes that a content type may take, or nearly."""

    @abstractmethod
    async def __aenter__(self) -> RawClient:
        """Connect."""

    @abstractmethod
    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""

    @abstractmethod
    async def listen(self, topic: str, group: str) -> None:
        """From now on :meth:`receive` gives what reaches the topic; ``group`` is declared and nobody else reads it."""

    @abstractmethod
    async def receive(self) -> RawMessage:
        """The next message."""

    @abstractmethod
    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """Publish to the topic; return when the broker has it. ``group`` is the only one that matters."""

    async def clutter(self, topic: str) -> None:  # noqa: B027 - most brokers have nothing of that kind
        """Leave something in the topic that takes a place there but is not a message, if the broker has such a
        thing."""

    @abstractmethod
    async def delete(self, topic: str, group: str) -> None:
        """Delete the topic with what is in it, its only group included; return when it is gone."""

    async def delete_lane(self, topic: str, group: str, lane: int) -> None:
        """Delete what keeps one lane of a group, where the broker has such a thing; return when it is gone."""
        raise NotImplementedError

    @abstractmethod
    def read(self, message: RawMessage) -> BaseCloudEvent:
        """By the SDK."""

    @abstractmethod
    def write(self, event: BaseCloudEvent, mode: Mode) -> RawMessage:
        """By the SDK."""

    def build(
        self,
        body: bytes | None,
        content_type: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> RawMessage:
        """By hand: attributes in binary mode, and other headers. Here the content type is a header."""
        found = {f"{self.prefix}{name}": self.value(value) for name, value in (attributes or {}).items()}
        found |= {name: self.value(value) for name, value in (headers or {}).items()}
        if content_type is not None:
            found["content-type"] = self.value(content_type)
        return RawMessage(body, found, key=key)

    def value(self, value: Any) -> Any:
        """A header's value in the client's type."""
        return value

    def under(self, copy_id: str, message: RawMessage) -> RawMessage:
        """The same message under an id by which the broker drops copies, where it does."""
        return replace(message, copy_id=copy_id)

    def carries(self, message: RawMessage) -> bool:
        """Whether messages of this broker can have this body."""
        return True

    def unreadable(self) -> Mapping[str, RawMessage]:
        """Messages that the broker accepts and that its usual client for Python cannot read, by what is wrong."""
        return {}

    def oversized(self) -> Mapping[str, RawMessage]:
        """Messages that the broker accepts and that would fill their reader's memory, by how they do it."""
        return {}

    def forged(self) -> Mapping[str, Any]:
        """Headers that the library or the broker writes elsewhere, with values that would stop or end the event."""
        return {"anybroker-attempts": "999999999", "anybroker-not-before": "9e18", "anybroker-replays": "zz"}

    def own_hostile(self) -> Mapping[str, RawMessage]:
        """Hostile messages that only this kind of broker can carry, by what is wrong with them; those that
        the client cannot read are :meth:`unreadable`."""
        return {}

    def without_content_type(self) -> Mapping[str, RawMessage]:
        """Messages of this kind of broker only whose content type is there and says nothing: events of the
        attributes ``MINIMAL`` with the body ``1``."""
        return {}

    def own_quirks(self) -> Mapping[str, Quirk]:
        """What programs in other languages send to this kind of broker only."""
        return {}

    def quirks(self) -> Mapping[str, Quirk]:
        """What programs in other languages send, by what is odd about it: events, and other messages."""

        def document(more: str, content_type: str = JSON, attributes: Mapping[str, str] | None = None) -> RawMessage:
            text = f'{{"specversion":"1.0","id":"1","source":"/s","type":"t"{more}}}'
            return self.build(text.encode(), content_type, attributes)

        def event(message: RawMessage, body: bytes | None = None, /, **more: str) -> Quirk:
            return Quirk(message, {**MINIMAL, **more}, body)

        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        found = {
            "JavaScript without time": event(document(',"data":{"n":1}'), b'{"n":1}', **IMPLIED_JSON),
            "Dapr's empty tracestate": event(
                document(f',"traceparent":"{trace}","tracestate":"","topic":"orders"'),
                traceparent=trace,
                tracestate="",
                topic="orders",
            ),
            "an optional attribute that is null": event(
                document(',"subject":null,"data":null'), b"null", **IMPLIED_JSON
            ),
            "a media type in capitals": event(document("", "Application/CloudEvents+JSON; charset=UTF-8")),
            "duplicated headers": event(
                document("", attributes={"specversion": "1.0", "id": "2", "source": "/other", "type": "u"})
            ),
            "a leap second, in lower case": event(
                document(',"time":"2016-12-31t23:59:60z"'), time="2016-12-31t23:59:60z"
            ),
            "a long extension": event(document(f',"{"e" * 30}":"x","7up":7'), None, **{"e" * 30: "x", "7up": "7"}),
            "a string of JSON": event(document(',"data":"{}"'), b'"{}"', **IMPLIED_JSON),
            "text": event(
                document(',"datacontenttype":"text/plain","data":"ä"'), "ä".encode(), datacontenttype="text/plain"
            ),
            "base64": event(document(',"data_base64":"AP8="'), b"\x00\xff"),
        }
        nothing = {
            "another version": self.build(b'{"specversion":"0.3","id":"1","source":"/s","type":"t"}', JSON),
            "an event without id": self.build(b'{"specversion":"1.0","source":"/s","type":"t"}', JSON),
            "an empty id": self.build(b'{"specversion":"1.0","id":"","source":"/s","type":"t"}', JSON),
            "a batch": self.build(b'[{"specversion":"1.0"}]', "application/cloudevents-batch+json"),
            "data twice": document(',"data":1,"data_base64":"AP8="'),
            "binary mode without a type": self.build(b"1", None, {"specversion": "1.0", "id": "1", "source": "/s"}),
            "plain JSON": self.build(b'{"order": 1}', "application/json", None, {"x-legacy": "yes"}),
            "plain text": self.build(b"order 1", None, None, {"x-legacy": "yes"}),
        }
        foreign = {name: Quirk(message, None, message.body) for name, message in nothing.items()}
        return {**found, **foreign, **self.own_quirks()}

    @staticmethod
    def event(attributes: Mapping[str, Any], data: Any) -> BaseCloudEvent:
        """One of the SDK's."""
        return CloudEvent(dict(attributes), data)
