"""NATS, by nats-py. The SDK has no binding for it; its HTTP binding has the same names and percent-encoding."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote, unquote

import nats
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from nats.errors import Error as NatsError

from .api import IMPLIED_JSON, MINIMAL, Mode, Quirk, RawClient, RawMessage

__all__ = ["NatsClient"]

TYPE_HEADER = "ce-datacontenttype"


class _Block(NamedTuple):
    """A message's headers as they are on the wire, of which the server reads only its own."""

    headers: bytes
    """``%b`` is the name of the topic's stream, ``%m`` an id that no message has had."""
    subject: bytes = b"7"
    """Its last token."""


def _current(cluster: Any) -> int:
    if not (cluster or {}).get("leader"):
        return 0
    return 1 + sum(bool(peer["current"]) and not peer.get("offline") for peer in cluster.get("replicas") or ())


class NatsClient(RawClient):
    """Publishes to a slot of the topic's stream; listens to its subjects."""

    prefix: ClassVar[str] = "ce-"
    largest: ClassVar[int] = 1_048_576
    header_room: ClassVar[int] = 60_000
    content_type_room: ClassVar[int] = 30_000

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None
        self._subscription: Any = None

    async def __aenter__(self) -> NatsClient:
        self._client = await nats.connect(self._url.split(","))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def listen(self, topic: str, group: str) -> None:
        """Outside the stream."""
        self._subscription = await self._client.subscribe(f"{topic}.*")
        await self._client.flush()

    async def receive(self) -> RawMessage:
        """The next message."""
        message = await self._subscription.next_msg(timeout=20)
        return RawMessage(message.data, message.headers or {})

    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """Acknowledged by the stream."""
        if isinstance(message.native, _Block):
            await self._send_raw(topic, message.native, message.body or b"")
            return
        headers = dict(message.headers)
        if message.copy_id is not None:
            headers["Nats-Msg-Id"] = message.copy_id
        subject = f"{topic}.@.{group}.7" if message.past_the_topic else f"{topic}.7"
        await self._client.jetstream().publish(subject, message.body or b"", headers=headers or None)

    async def _send_raw(self, topic: str, block: _Block, body: bytes) -> None:
        """Without nats-py's writer."""
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox, max_msgs=1)
        headers = block.headers.replace(b"%b", topic.replace(".", "_").encode())
        headers = headers.replace(b"%m", self._client.new_inbox()[-22:].encode())
        subject = topic.encode() + b"." + block.subject
        sizes = b"%d %d" % (len(headers), len(headers) + len(body))
        await self._client._send_command(
            b"HPUB %b %b %b\r\n" % (subject, inbox.encode(), sizes) + headers + body + b"\r\n"
        )
        await self._client.flush()
        answer = json.loads((await answers.next_msg(timeout=10)).data)
        if "error" in answer:
            raise ValueError(f"{block.headers[:80]!r} is not accepted: {answer['error']}")

    async def delete(self, topic: str, group: str) -> None:
        """The stream, and its consumers with it."""
        await self._client.jetstream().delete_stream(topic.replace(".", "_"))

    def unreadable(self) -> Mapping[str, RawMessage]:
        """Blocks of headers by hand: the server stores them as they are."""
        known = b"x-legacy: yes\r\n"
        begin, end = b"NATS/1.0\r\n", b"\r\n"
        found = {
            "a name that is not ASCII": _Block(begin + known + "größe: 1\r\n".encode() + end),
            "a name that is not UTF-8": _Block(begin + known + b"caf\xe9: 1\r\n" + end),
            "a name with a space and a control character": _Block(begin + b"a b\x01: 1\r\n" + known + end),
            "a value that is not UTF-8": _Block(begin + b"x-name: caf\xe9\r\n" + known + end),
            "a line without a colon": _Block(begin + b"nothing\r\n" + known + end),
            "an empty name": _Block(begin + b": nothing\r\n" + known + end),
            "a line's end that is none": _Block(begin + b"x-a: b\nNats-Msg-Id: 7\r\n" + known + end),
            "10,000 headers": _Block(begin + known + b"h: \r\n" * 10_000 + end),
            "1,000 lines that are none": _Block(begin + known + b"\xe9\r\n" * 1_000 + end),
            "a status": _Block(b"NATS/1.0 503 No: Responders\r\n" + known + end),
            "another protocol": _Block(b"HTTP/1.1 200 OK\r\n" + known + end),
            "no end": _Block(begin + known + b"x-last: 1"),
            "no beginning": _Block(known + b"x-last: 1\r\n"),
            "the server's own, of another message": _Block(
                begin + b"Nats-Pin-Id: none\r\nNats-Subject: a.b\r\nNats-Sequence: x\r\n" + known + end
            ),
            "commands to the server": _Block(
                begin + b"Nats-Msg-Id: %m\r\nNats-TTL: 600\r\nNats-Expected-Stream: %b\r\n" + known + end
            ),
        }
        return {
            name: RawMessage(f"unreadable {number}".encode(), {"x-legacy": "yes"}, native=block)
            for number, (name, block) in enumerate(found.items())
        }

    async def delete_lane(self, topic: str, group: str, lane: int) -> None:
        """Its consumer."""
        await self._client.jetstream().delete_consumer(topic.replace(".", "_"), f"{group}@{lane}")

    async def replicas_in_sync(self, topic: str) -> int:
        """Of the topic's stream and of its consumers, whichever has the fewest now; 0 if one has no leader, or
        its leader does not answer.

        A replica counts if the leader says that it has everything that a majority has. Under load one that is an entry
        or two behind does not, for a moment (an eighth of all looks at a consumer); one that a later look still finds
        behind, with a ``lag`` that grows, has a server that does not catch up."""
        stream = topic.replace(".", "_")
        try:
            info = await self._ask(f"STREAM.INFO.{stream}")
            consumers = await self._ask(f"CONSUMER.LIST.{stream}")
        except NatsError:
            return 0
        if consumers.get("missing"):
            return 0
        return min(_current(each.get("cluster")) for each in (info, *consumers["consumers"]))

    async def _ask(self, operation: str) -> dict[str, Any]:
        """JetStream, past nats-py's own classes, which leave out the consumers whose leaders did not answer."""
        answer = json.loads((await self._client.request(f"$JS.API.{operation}", b"", timeout=5)).data)
        if "error" in answer:
            raise NatsError(answer["error"].get("description"))
        return dict(answer)

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
        """Unchanged: percent-encoding is done before."""
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
            "JSON without headers that is not an event": Quirk(RawMessage(b'{"order": 1}', {}), None, b'{"order": 1}'),
        }
