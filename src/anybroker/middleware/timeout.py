"""A bound on how long one start of a handler may take."""

from __future__ import annotations

import asyncio

from ..delivery import Delivery
from ..errors import ConfigError
from .layer import Chain, Handler, Layer

__all__ = ["timeout"]


class timeout(Layer):  # noqa: N801 - used as a decorator
    """Cancel the handler after this many seconds; the start counts as failed with ``TimeoutError``, and is retried.

    Refused on a plain ``def`` handler, which runs in a thread and cannot be cancelled, and on a batch handler.
    """

    kind = "timeout"
    after = ("retry", "concurrency", "rate_limit", "circuit")
    waits_after = False

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < float("inf"):
            raise ConfigError("timeout(seconds)", f"{seconds!r} is not a time limit", "Use a number of seconds over 0.")
        self.seconds = seconds

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        handler = chain.handler
        if not handler.is_async:
            raise ConfigError(
                f"timeout({self.seconds}) on handler {handler.name}",
                "it is a plain 'def', which runs in a thread and cannot be cancelled",
                "Make it 'async def', or bound the time inside it.",
            )
        if handler.is_batch:
            raise ConfigError(
                f"timeout({self.seconds}) on handler {handler.name}",
                "it takes batches, and one event's time cannot be told from the others'",
                "Bound the time inside the handler: async with asyncio.timeout(…).",
            )
        seconds = self.seconds

        async def run(delivery: Delivery) -> None:
            async with asyncio.timeout(seconds):
                await call_next(delivery)

        return run
