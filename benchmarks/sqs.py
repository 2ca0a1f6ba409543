"""SQS and SNS against bare boto3, on the same emulator. Its figures say nothing about AWS, where the network matters.

The bare publisher calls ``sns.publish`` once per event, in 32 threads. The bare consumer receives ten at a time, and
deletes them with one ``delete_message_batch``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3

from .server import Handled, ServerBenchmark
from .workload import OrderPlaced, bare_attributes

__all__ = ["Sqs"]

_THREADS = 32


class Sqs(ServerBenchmark):
    """The candidates, on one emulator."""

    title = "SQS/SNS"
    client = "boto3"
    events = 2_000

    def _client(self, service: Any) -> Any:
        parts = urlsplit(self.url)
        options = dict(parse_qsl(parts.query))
        return boto3.client(
            service,
            region_name=parts.netloc,
            endpoint_url=options["endpoint_url"],
            aws_access_key_id=options["access_key_id"],
            aws_secret_access_key=options["secret_access_key"],
        )

    async def publish_bare(self, topic: str) -> float:
        """See :class:`ServerBenchmark`."""
        sns = self._client("sns")
        arn = sns.create_topic(Name=f"{topic}.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(_THREADS) as threads:

            async def send(order: OrderPlaced) -> None:
                event = {
                    **bare_attributes(order),
                    "datacontenttype": "application/json",
                    "data": order.model_dump(),
                }
                call: Callable[[], Any] = partial(
                    sns.publish,
                    TopicArn=arn,
                    Message=json.dumps(event),
                    MessageGroupId=order.customer,
                    MessageDeduplicationId=event["id"],
                )
                await loop.run_in_executor(threads, call)

            return await self.send_all(send)

    async def consume_bare(self, topic: str, handled: Handled) -> None:
        """See :class:`ServerBenchmark`."""
        sqs = self._client("sqs")
        url = sqs.get_queue_url(QueueName=f"{topic}__bare.fifo")["QueueUrl"]
        while not handled.complete:
            received = await asyncio.to_thread(
                sqs.receive_message, QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1
            )
            entries = []
            for number, message in enumerate(received.get("Messages", ())):
                event = json.loads(message["Body"])
                body = json.dumps(event.pop("data")).encode()
                await handled.handle(event, body)
                entries.append({"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]})
            if entries:
                await asyncio.to_thread(sqs.delete_message_batch, QueueUrl=url, Entries=entries)
