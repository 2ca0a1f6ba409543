"""What Kafka answers to batches that aiokafka tries again: it writes the reason to its log, and callers need it."""

from __future__ import annotations

from typing import Any

from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.produce import ProduceRequest

__all__ = ["note_refusals"]


def note_refusals(client: Any, refusals: dict[tuple[str, int], type[KafkaError]]) -> None:
    """From now on keep the last refusal of each partition, until a batch of it was taken. ``client`` is a producer's.

    Its ``send`` is public, and every answer comes through it.
    """
    send = getattr(client, "send", None)
    if send is None:
        return

    async def noting(node: Any, request: Any, **options: Any) -> Any:
        reply = await send(node, request, **options)
        if isinstance(request, ProduceRequest):
            for topic, partitions in reply.topics:
                for partition, code, *_ in partitions:
                    if code:
                        refusals[topic, partition] = for_code(code)
                    elif refusals:
                        refusals.pop((topic, partition), None)
        return reply

    client.send = noting
