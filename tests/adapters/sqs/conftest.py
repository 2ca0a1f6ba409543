"""A stand-in for SQS and SNS behind boto3's clients: what the adapter calls of them, and levers for the tests."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from anybroker.adapter import Lane
from anybroker.cloudevents import Event
from anybroker_sqs.failures import aws_errors


def event(id: str = "1", key: str | None = None, data: Any = "data", **attributes: Any) -> Event[Any]:
    return Event.create(data, source="/shop", type="com.example.placed", id=id, key=key, **attributes)


def refusal(code: str, operation: str = "SendMessage", status: int = 400, message: str = "no") -> ClientError:
    """An error of AWS, as boto3 raises it."""
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


def received(
    body: str,
    attributes: dict[str, str | bytes] | None = None,
    *,
    id: str = "m-1",
    group: str | None = None,
    count: int = 1,
) -> dict[str, Any]:
    """A message as boto3 returns it from ReceiveMessage."""
    given = {
        name: {"DataType": "String", "StringValue": value}
        if isinstance(value, str)
        else {"DataType": "Binary", "BinaryValue": value}
        for name, value in (attributes or {}).items()
    }
    system = {"ApproximateReceiveCount": str(count)} | ({} if group is None else {"MessageGroupId": group})
    return {
        "MessageId": id,
        "ReceiptHandle": f"handle of {id}",
        "Body": body,
        "Attributes": system,
        "MessageAttributes": given,
    }


class FakeClient:
    """SQS and SNS in one. It remembers each request, and answers what the test has put there."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.queues: dict[str, dict[str, str]] = {}
        self.topics: dict[str, dict[str, str]] = {}
        self.subscriptions: list[dict[str, Any]] = []
        self.waiting: dict[str, deque[dict[str, Any]]] = {}
        """By queue URL: what the next receives bring."""
        self.raises: BaseException | None = None
        self.failed: dict[str, dict[str, Any]] = {}
        """By entry id of a batch: what AWS says of it."""
        self.gate = threading.Event()
        self.gate.set()
        """While it is not set, batches are not answered."""
        self.began = threading.Semaphore(0)
        self.polls_end = threading.Event()
        self.polls_end.set()
        """While it is not set, polls are not answered."""
        self.polls_began = threading.Semaphore(0)
        self.answers_end = threading.Event()
        self.answers_end.set()
        """A poll that takes messages while it is not set is answered once this same event is."""
        self.handed_over = threading.Semaphore(0)
        self.slow: random.Random | None = None
        """Answers to polls take a few milliseconds then, some more than others."""
        self.polls = self.most_polls = 0
        """Polls under way that have taken messages, and how many there were at most."""
        self.in_flight: dict[str, tuple[str, dict[str, Any]]] = {}
        """By receipt handle: queue URL and message. On a FIFO they close their message groups."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def of(self, name: str) -> list[dict[str, Any]]:
        """The parameters of each such request."""
        return [parameters for request, parameters in self.requests if request == name]

    def _note(self, name: str, parameters: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append((name, parameters))
        if self.raises is not None:
            raise self.raises

    def _batch(self, name: str, parameters: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._note(name, parameters)
            self.began.release()
            assert self.gate.wait(10)
        finally:
            with self._lock:
                self._at_once -= 1
        good = [each["Id"] for each in entries if each["Id"] not in self.failed]
        for entry in entries:
            if entry["Id"] not in self.failed and entry.get("VisibilityTimeout", 0) == 0 and "ReceiptHandle" in entry:
                with self._lock:
                    self.in_flight.pop(entry["ReceiptHandle"], None)
        return {
            "Successful": [{"Id": id, "MessageId": f"stored {next(self._numbers)}"} for id in good],
            "Failed": [{"Id": id, **said} for id, said in self.failed.items() if int(id) < len(entries)],
        }

    # SNS

    def publish_batch(self, **parameters: Any) -> dict[str, Any]:
        return self._batch("publish_batch", parameters, parameters["PublishBatchRequestEntries"])

    def get_topic_attributes(self, **parameters: Any) -> dict[str, Any]:
        self._note("get_topic_attributes", parameters)
        name = parameters["TopicArn"].rpartition(":")[2]
        if name not in self.topics:
            raise refusal("NotFound", "GetTopicAttributes", 404)
        return {"Attributes": self.topics[name]}

    def create_topic(self, **parameters: Any) -> None:
        self._note("create_topic", parameters)
        self.topics[parameters["Name"]] = parameters["Attributes"]

    def subscribe(self, **parameters: Any) -> dict[str, Any]:
        self._note("subscribe", parameters)
        if parameters not in self.subscriptions:
            self.subscriptions.append(parameters)
        return {"SubscriptionArn": f"subscription of {parameters['Endpoint']}"}

    def get_subscription_attributes(self, SubscriptionArn: str) -> dict[str, Any]:  # noqa: N803 - boto3's name
        self._note("get_subscription_attributes", {"SubscriptionArn": SubscriptionArn})
        if SubscriptionArn not in {f"subscription of {each['Endpoint']}" for each in self.subscriptions}:
            raise refusal("NotFound")
        return {"Attributes": {}}

    def get_paginator(self, name: str) -> Any:
        assert name == "list_subscriptions_by_topic"
        return SimpleNamespace(paginate=self._subscriptions)

    def _subscriptions(self, TopicArn: str) -> Iterator[dict[str, Any]]:  # noqa: N803 # boto3's name
        for each in self.subscriptions:
            yield {"Subscriptions": [each] if each["TopicArn"] == TopicArn else []}

    # SQS

    def send_message_batch(self, **parameters: Any) -> dict[str, Any]:
        return self._batch("send_message_batch", parameters, parameters["Entries"])

    def delete_message_batch(self, **parameters: Any) -> dict[str, Any]:
        return self._batch("delete_message_batch", parameters, parameters["Entries"])

    def change_message_visibility_batch(self, **parameters: Any) -> dict[str, Any]:
        return self._batch("change_message_visibility_batch", parameters, parameters["Entries"])

    def send_message(self, **parameters: Any) -> None:
        self._note("send_message", parameters)
        note = received(parameters["MessageBody"], id=f"note {next(self._numbers)}")
        self.waiting.setdefault(parameters["QueueUrl"], deque()).append(note)

    def get_queue_url(self, **parameters: Any) -> dict[str, Any]:
        self._note("get_queue_url", parameters)
        if parameters["QueueName"] not in self.queues:
            raise refusal("AWS.SimpleQueueService.NonExistentQueue", "GetQueueUrl")
        return {"QueueUrl": parameters["QueueName"]}

    def create_queue(self, **parameters: Any) -> dict[str, Any]:
        self._note("create_queue", parameters)
        self.queues[parameters["QueueName"]] = parameters["Attributes"]
        return {"QueueUrl": parameters["QueueName"]}

    def get_queue_attributes(self, **parameters: Any) -> dict[str, Any]:
        self._note("get_queue_attributes", parameters)
        return {"Attributes": {"MaximumMessageSize": "1048576", **self.queues[parameters["QueueUrl"]]}}

    def receive_message(self, **parameters: Any) -> dict[str, Any]:
        self._note("receive_message", parameters)
        waiting = self.waiting.setdefault(parameters["QueueUrl"], deque())
        if parameters["VisibilityTimeout"] == 0:  # stays visible
            return {"Messages": list(waiting)[: parameters["MaxNumberOfMessages"]]}
        self.polls_began.release()
        assert self.polls_end.wait(10)
        if not waiting:
            time.sleep(0.02)  # what SQS does: it waits, in the thread of the poll
        answered = self.answers_end
        with self._lock:
            messages = self._hand_over(parameters["QueueUrl"], waiting, parameters["MaxNumberOfMessages"])
            self.polls += bool(messages)
            self.most_polls = max(self.most_polls, self.polls)
        if messages:
            self.handed_over.release()
            if self.slow is not None:
                time.sleep(self.slow.uniform(0, 0.01))
        assert answered.wait(10)
        with self._lock:
            self.polls -= bool(messages)
        return {"Messages": messages} if messages else {}

    def _hand_over(self, url: str, waiting: deque[dict[str, Any]], most: int) -> list[dict[str, Any]]:
        """As SQS does: of a message group that is in flight, nothing more."""
        closed = {message["Attributes"].get("MessageGroupId") for _, message in self.in_flight.values()} - {None}
        messages = [message for message in waiting if message["Attributes"].get("MessageGroupId") not in closed][:most]
        for message in messages:
            waiting.remove(message)
            self.in_flight[message["ReceiptHandle"]] = url, message
        return messages

    def expire(self) -> None:
        """The leases of all that is in flight have ended."""
        with self._lock:
            for url, message in reversed(self.in_flight.values()):
                self.waiting[url].appendleft(message)
            self.in_flight.clear()


class FakeAws:
    """The adapter's ``Aws``, connected to a FakeClient."""

    where = "sqs://us-east-1"

    def __init__(self) -> None:
        self.client = FakeClient()
        self.sqs = self.sns = self.to_sqs = self.to_sns = self.polling = self.client
        self.pool = ThreadPoolExecutor(8, "fake-aws")

    def errors(self, doing: str) -> AbstractContextManager[None]:
        return aws_errors(doing, self.where, "keys")

    def arn(self, service: str, name: str) -> str:
        return f"arn:aws:{service}:us-east-1:1:{name}"

    async def call(self, doing: str, function: Any, /, *args: Any) -> Any:
        def run() -> Any:
            with self.errors(doing):
                return function(*args)

        return await asyncio.get_running_loop().run_in_executor(self.pool, run)


class Ear:
    """A LaneListener that remembers."""

    def __init__(self) -> None:
        self.held: list[Lane] = []

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.held.append(lane)

    async def revoked(self, lanes: Any, /) -> None:
        raise AssertionError("SQS revokes nothing")

    def lost(self, lanes: Any, /) -> None:
        raise AssertionError("SQS takes no lane away")


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    fake = FakeAws()
    yield fake
    fake.client.gate.set()
    fake.client.polls_end.set()
    fake.pool.shutdown()


@pytest.fixture
def kit() -> SimpleNamespace:
    """The names of this module that tests use."""
    return SimpleNamespace(event=event, received=received, refusal=refusal, Ear=Ear)
