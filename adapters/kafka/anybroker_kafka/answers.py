"""Seeing what Kafka answers. aiokafka keeps parts of it to itself; every answer comes through the client's ``send``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["tell_answers"]


def tell_answers(client: Any, kind: type, told: Callable[[Any], None]) -> None:
    """From now on call ``told`` with the answer to each request of this kind, before the client goes through it.
    ``send`` is public."""
    send = client.send

    async def telling(node: Any, request: Any, **options: Any) -> Any:
        reply = await send(node, request, **options)
        if isinstance(request, kind):
            told(reply)
        return reply

    client.send = telling
