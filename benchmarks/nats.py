"""NATS JetStream against bare nats-py, on the same streams.

The bare publisher awaits ``js.publish`` in 256 tasks, with a Nats-Msg-Id. The bare consumer fetches 256 at a time
from its own durable pull consumer, and acknowledges each message.
"""

from __future__ import annotations

import nats

from anybroker.adapter import slot_of

from .server import Handled, ServerBenchmark
from .workload import IN_FLIGHT, OrderPlaced

__all__ = ["Nats"]

_PREFIX = "ce-"


class Nats(ServerBenchmark):
    """The candidates, on one server."""

    title = "NATS"
    client = "nats-py"

    async def publish_bare(self, topic: str) -> float:
        """See :class:`ServerBenchmark`."""
        client = await nats.connect(self.url)
        stream = client.jetstream()

        async def send(order: OrderPlaced) -> None:
            headers, body = self.message(order, _PREFIX)
            headers["ce-datacontenttype"] = "application/json"
            headers["Nats-Msg-Id"] = headers["ce-id"]
            await stream.publish(f"{topic}.{slot_of(order.customer)}", body, headers=headers)

        try:
            return await self.send_all(send)
        finally:
            await client.close()

    async def consume_bare(self, topic: str, handled: Handled) -> None:
        """See :class:`ServerBenchmark`."""
        client = await nats.connect(self.url)
        try:
            subscription = await client.jetstream().pull_subscribe(f"{topic}.*", durable="plain")
            while not handled.complete:
                for message in await subscription.fetch(IN_FLIGHT, timeout=5):
                    attributes = {
                        name[len(_PREFIX) :]: value
                        for name, value in (message.headers or {}).items()
                        if name.startswith(_PREFIX)
                    }
                    await handled.handle(attributes, message.data)
                    await message.ack()
        finally:
            await client.close()
