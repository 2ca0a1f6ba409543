"""SQS and SNS, by boto3. There is no binding; in binary mode this is the SDK's for Kafka, as message attributes."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import boto3
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat

from .api import IMPLIED_JSON, MINIMAL, Mode, Quirk, RawClient, RawMessage

__all__ = ["SqsClient"]


class SqsClient(RawClient):
    """Publishes to the topic's FIFO topic; reads the queue of a group."""

    prefix: ClassVar[str] = "ce-"
    blanks: ClassVar[tuple[str | None, ...]] = ()
    largest: ClassVar[int] = 262_144
    header_room: ClassVar[int] = 200_000

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        shared: dict[str, Any] = {
            "region_name": parts.netloc,
            "endpoint_url": options.get("endpoint_url"),
            "aws_access_key_id": options.get("access_key_id"),
            "aws_secret_access_key": options.get("secret_access_key"),
        }
        self._sqs: Any = boto3.client("sqs", **shared)
        self._sns: Any = boto3.client("sns", **shared)
        self._queue = ""

    async def __aenter__(self) -> SqsClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sqs.close()
        self._sns.close()

    async def listen(self, topic: str, group: str) -> None:
        """On the group's queue."""
        self._queue = await asyncio.to_thread(self._find_queue, topic, group)

    def _find_queue(self, topic: str, group: str) -> str:
        url: str = self._sqs.get_queue_url(QueueName=f"{topic}__{group}.fifo")["QueueUrl"]
        return url

    async def receive(self) -> RawMessage:
        """The next message."""
        while True:
            reply = await asyncio.to_thread(
                self._sqs.receive_message,
                QueueUrl=self._queue,
                WaitTimeSeconds=1,
                MaxNumberOfMessages=1,
                MessageAttributeNames=["All"],
            )
            for message in reply.get("Messages", ()):
                await asyncio.to_thread(
                    self._sqs.delete_message, QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"]
                )
                attributes = message.get("MessageAttributes", {})
                headers = {name: value["StringValue"] for name, value in attributes.items()}
                return RawMessage(message["Body"].encode(), headers)

    async def send(self, topic: str, group: str, message: RawMessage) -> None:
        """By SNS, or straight to the queue."""
        await asyncio.to_thread(self._send, topic, group, message)

    def _send(self, topic: str, group: str, message: RawMessage) -> None:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.headers.items()}
        attributes |= message.native or {}
        token = secrets.token_hex(8)
        fifo = {"MessageGroupId": message.key or token, "MessageDeduplicationId": message.copy_id or token}
        body = (message.body or b"").decode()
        if message.past_the_topic:
            queue = self._find_queue(topic, group)
            self._sqs.send_message(QueueUrl=queue, MessageBody=body, MessageAttributes=attributes, **fifo)
        else:
            arn = self._sns.create_topic(Name=f"{topic}.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
            self._sns.publish(TopicArn=arn, Message=body, MessageAttributes=attributes, **fifo)

    async def delete(self, topic: str, group: str) -> None:
        """The SNS topic and the group's queue."""
        await asyncio.to_thread(self._delete, topic.replace(".", "_"), group)

    def _delete(self, topic: str, group: str) -> None:
        arn = self._sns.create_topic(Name=f"{topic}.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
        self._sns.delete_topic(TopicArn=arn)
        self._sqs.delete_queue(QueueUrl=self._find_queue(topic, group))

    def read(self, message: RawMessage) -> BaseCloudEvent:
        """Structured if the content type says so; its filter attributes do not count as attributes then."""
        if message.headers.get("content-type", "").startswith("application/cloudevents"):
            return JSONFormat().read(None, message.body or b"")
        headers = {name.replace("ce-", "ce_"): value.encode() for name, value in message.headers.items()}
        return from_kafka(KafkaMessage(headers, None, message.body or b""), JSONFormat())

    def write(self, event: BaseCloudEvent, mode: Mode) -> RawMessage:
        """The same way back."""
        made = (to_binary if mode == "binary" else to_structured)(event, JSONFormat())
        headers = {name.replace("ce_", "ce-"): value.decode() for name, value in made.headers.items()}
        return RawMessage(made.value, headers, key=None if made.key is None else str(made.key))

    def value(self, value: Any) -> str:
        """A string."""
        return str(value)

    def carries(self, message: RawMessage) -> bool:
        """Text that is not empty."""
        try:
            return bool((message.body or b"").decode())
        except UnicodeDecodeError:
            return False

    def unreadable(self) -> Mapping[str, RawMessage]:
        """Values that boto3 does not return as text, and those that only look like the library's."""
        foreign = "application/vnd.anybroker.foreign+json"

        def text(value: str) -> dict[str, str]:
            return {"DataType": "String", "StringValue": value}

        made = {
            "a binary attribute": {"blob": {"DataType": "Binary", "BinaryValue": b"\xff\xfe"}},
            "a binary content type": {"content-type": {"DataType": "Binary.x", "BinaryValue": b"text/\xff"}},
            "a number": {"n": {"DataType": "Number.int", "StringValue": "1e3"}},
            "headers of ours that are not JSON": {"anybroker": text("{")},
            "headers of ours that are nested too deeply": {"anybroker": text("[" * 3_000)},
            "headers of ours that are a list": {"anybroker": text("[1]")},
            "headers of ours that are not text": {"anybroker": {"DataType": "Binary", "BinaryValue": b"\xff"}},
            "attributes of ours that are not base64": {
                "anybroker": text('{"anybroker-attributes":{"x":["Binary","not base64"]}}')
            },
            "a wrapper of ours without its parts": {"content-type": text(foreign)},
        }
        return {
            name: RawMessage(f"unreadable {number}".encode(), {"x-legacy": "yes"}, native=native)
            for number, (name, native) in enumerate(made.items())
        }

    def without_content_type(self) -> Mapping[str, RawMessage]:
        """SQS refuses an attribute without a value; an envelope of SNS could hold one."""
        envelope = {
            "Type": "Notification",
            "Message": "1",
            "MessageAttributes": {
                **{f"ce-{name}": {"Type": "String", "Value": value} for name, value in MINIMAL.items()},
                "content-type": {"Type": "String", "Value": ""},
            },
        }
        return {
            "an envelope with an empty one": RawMessage(json.dumps(envelope).encode(), {}, past_the_topic=True),
        }

    def own_quirks(self) -> Mapping[str, Quirk]:
        """SNS without raw delivery [Parsing message formats], and JSON without any attribute."""
        event = json.dumps({**MINIMAL, "data": {"n": 1}}, separators=(",", ":"))
        arn = "arn:aws:sns:us-east-1:123456789012:orders.fifo"
        envelope = {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": arn,
            "Message": event,
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "UnsubscribeURL": f"https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={arn}:c9135db0",
        }
        binary = {
            **envelope,
            "Message": "<a/>",
            "MessageAttributes": {
                **{f"ce-{name}": {"Type": "String", "Value": value} for name, value in MINIMAL.items()},
                "content-type": {"Type": "String", "Value": "application/xml"},
            },
        }
        data = b'{"n":1}'
        return {
            "an SNS envelope": Quirk(
                RawMessage(json.dumps(envelope).encode(), {}, past_the_topic=True), {**MINIMAL, **IMPLIED_JSON}, data
            ),
            "an SNS envelope around binary mode": Quirk(
                RawMessage(json.dumps(binary).encode(), {}, past_the_topic=True),
                {**MINIMAL, "datacontenttype": "application/xml"},
                b"<a/>",
            ),
            "raw JSON without attributes": Quirk(RawMessage(event.encode(), {}), {**MINIMAL, **IMPLIED_JSON}, data),
            "JSON that is not an event": Quirk(RawMessage(b'{"order": 1}', {}), None, b'{"order": 1}'),
        }
