"""Replaying into a handler, here, without a group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from ..adapter import Foreign, Inbound, Lane, Peeked
from ..delivery import Delivery, LaneState
from ..engine.core import Core
from ..engine.failures import note_failure
from ..engine.starting import start
from ..errors import Retry, cause_of
from ..handlers.signature import invoker, read_handler
from ..middleware.compose import arrange, compose
from ..middleware.layer import Chain, attached
from ..printable import logger
from ..stats import SubscriptionStats
from .cursor import Cursor
from .targets import Sent

__all__ = ["Handling"]

_log = logger("anybroker.history")


class Handling:
    """Runs a handler with its middleware for one event after the other: retries in place, and what would be a dead
    letter is a failure."""

    batch = 20

    def __init__(self, core: Core, topic: str, function: Callable[..., object], run: str) -> None:
        """ConfigError for a signature that cannot be served. ``run``: the name of the replay. The handler sees
        ``replay-<run>`` as its group, so that ``@idempotent()`` remembers what this replay has done, and nothing
        else."""
        self._topic = topic
        self._group = f"replay-{run[:12]}"
        self._lanes: dict[str, LaneState] = {}
        self._failure: Exception | None = None
        self._giving_up = False
        spec = read_handler(
            function, providers=core.providers, check=lambda annotation: core.codecs.check(annotation, topic)
        )
        self._spec = spec
        self._executor = None if spec.is_async else ThreadPoolExecutor(1, thread_name_prefix="anybroker replay")
        innermost = invoker(
            spec, core.providers, self._executor, lambda annotation: core.codecs.decoder(annotation, topic)
        )
        chain = Chain(
            topic=topic,
            group=self._group,
            ordered=False,  # no lane waits for what is released, so retry(mode="release") waits in place too
            handler=spec,
            capabilities=core.adapter.capabilities,
            stats=SubscriptionStats(),
            dead_letter=self._note,
            recovered=lambda _: None,
            lease=core.settings.lease,
            stores=core.stores,
            problem=self._report,
            giving_up=lambda: self._giving_up,
            spans=core.spans,
        )
        items = arrange(spec.where, attached(function), {"Bus(middleware=)": core.middleware})
        self._handle = compose(innermost, chain, items)

    @property
    def name(self) -> str:
        """The handler's."""
        return self._spec.name

    async def _note(self, delivery: Delivery, error: Exception, /) -> None:
        """Instead of a dead letter."""
        self._failure = error

    def _report(self, problem: str | None, /, *, unavailable: bool = False, kind: str = "") -> None:
        if problem is not None:
            _log.warning("replaying %s into %s: %s", self._topic, self._spec.name, problem)

    def takes(self, item: Peeked) -> bool:
        """Events of the types that it takes."""
        return not isinstance(item.event, Foreign) and (not self._spec.types or item.event.type in self._spec.types)

    async def send(self, items: Sequence[Peeked], cursor: Cursor) -> AsyncGenerator[Sent, None]:
        """One after the other."""
        for item in items:
            # A task of its own: a cancellation that the handler causes itself is a failed start, and does not end this.
            handling = asyncio.ensure_future(self._until_done(item))
            try:
                await asyncio.wait((handling,))
            except asyncio.CancelledError:
                self._giving_up = True
                handling.cancel()
                await asyncio.wait((handling,))
                raise
            yield Sent(item, handling.result())

    async def _until_done(self, item: Peeked) -> Exception | None:
        """Start it until it returns, or fails for good."""
        state = self._lanes.setdefault(item.lane, LaneState(Lane(item.lane, 0), None))
        inbound = Inbound(item.event, state.lane, item.position, item.key, item.headers, item.raw)
        delivery = Delivery(item.event, self._topic, self._group, 1, item.key, inbound, state)
        while True:
            delivery.handler = self._spec.name
            self._failure = None
            try:
                await start(copy_context(), self._handle, delivery)
            except Retry as exc:
                if exc.counted:
                    note_failure(delivery, cause_of(exc) or exc)
                wait = 1.0 if exc.after is None else exc.after
                following = delivery.again(delivery.attempt + bool(exc.counted))
            except Exception as exc:  # noqa: BLE001 - the handler's own: one failure of the replay
                return exc
            else:
                return self._failure
            finally:
                delivery.ended = True
            await asyncio.sleep(wait)
            delivery = following

    async def close(self) -> None:
        """End the thread of a plain function."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
