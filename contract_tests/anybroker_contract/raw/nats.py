"""NATS, by nats-py. The SDK has no binding for it; its HTTP binding has the same names and percent-encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import nats
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat

from .api import IMPLIED_JSON, MINIMAL, Mode, Quirk, RawClient, RawMessage

__all__ = ["NatsClient"]

TYPE_HEADER = "ce-datacontenttype"


class NatsClient(RawClient):
    """Publishes to a slot of the topic's stream; listens to its subjects."""

    prefix: ClassVar[str] = "ce-"
    largest: ClassVar[int] = 1_048_576

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._subscription: Any = None

    async def __aenter__(self) -> NatsClient:
        self._client = await nats.connect(self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def listen(self, topic: str, group: str) -> None:
        """Beside the stream."""
        self._subscription = await self._client.subscribe(f"{topic}.*")
        await self._client.flush()

    async def receive(self) -> RawMessage:
        """The next message."""
        message = await self._subscription.next_msg(timeout=20)
        return RawMessage(message.data, message.headers or {})

    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """Acknowledged by the stream."""
        headers = dict(message.headers) or None
        await self._client.jetstream().publish(f"{topic}.7", message.body or b"", headers=headers)

    async def delete(self, topic: str, group: str) -> None:
        """The stream, and its consumers with it."""
        await self._client.jetstream().delete_stream(topic.replace(".", "_"))

    def read(self, message: RawMessage) -> BaseCloudEvent:
        """Binary mode has the content type as an attribute."""
        headers = dict(message.headers)
        if TYPE_HEADER in headers:
            headers["content-type"] = unquote(headers.pop(TYPE_HEADER))
        return from_http(HTTPMessage(headers, message.body or b""), JSONFormat())

    def write(self, event: BaseCloudEvent, mode: Mode) -> RawMessage:
        """The same way back."""
        made = (to_binary if mode == "binary" else to_structured)(event, JSONFormat())
        headers = dict(made.headers)
        if mode == "binary" and "content-type" in headers:
            headers[TYPE_HEADER] = quote(headers.pop("content-type"), safe="")
        return RawMessage(made.body, headers)

    def value(self, value: Any) -> str:
        """As it is: who percent-encodes does so before."""
        return str(value)

    def without_content_type(self) -> Mapping[str, RawMessage]:
        """Where the binding for NATS has it."""
        return {"an empty ce-datacontenttype": self.build(b"1", None, {**MINIMAL, "datacontenttype": ""})}

    def own_quirks(self) -> Mapping[str, Quirk]:
        """What Go's SDK does (no headers; values raw), and what the binding's section 3.2 allows."""
        event = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":1}}'
        return {
            "Go without headers": Quirk(RawMessage(event, {}), {**MINIMAL, **IMPLIED_JSON}, b'{"n":1}'),
            "Go with other headers": Quirk(
                RawMessage(event, {"x-other": "1"}), {**MINIMAL, **IMPLIED_JSON}, b'{"n":1}'
            ),
            "a raw percent sign": Quirk(
                self.build(b"1", None, {**MINIMAL, "subject": "100%"}),
                {**MINIMAL, "subject": "100%"},
                b"1",
            ),
            "percent-encoding in lower case": Quirk(
                self.build(b"1", None, {**MINIMAL, "subject": "%c3%a4%20b"}),
                {**MINIMAL, "subject": "ä b"},
                b"1",
            ),
            "percent-encoding of all": Quirk(
                self.build(b"1", None, {**MINIMAL, "source": "%2F%73", "subject": "%61"}),
                {**MINIMAL, "subject": "a"},
                b"1",
            ),
            "JSON without headers that is no event": Quirk(RawMessage(b'{"order": 1}', {}), None, b'{"order": 1}'),
        }
