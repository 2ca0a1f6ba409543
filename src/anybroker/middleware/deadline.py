"""Events that are of use until a moment only: CloudEvents' ``expirytime``."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, Literal

from ..cloudevents.event import Event
from ..cloudevents.timestamps import parse_timestamp
from ..delivery import Delivery
from ..engine.facts import named
from ..engine.seldom import Seldom
from ..errors import ConfigError, ExpiredError, Retry, cause_of
from ..printable import logger
from .layer import Chain, Handler, Layer

__all__ = ["deadline", "expiry_of"]

_log = logger("anybroker.handler")


def expiry_of(event: Event[Any]) -> float | None:
    """Its ``expirytime``, in seconds since the epoch. None: it has none, or a text that is not an RFC 3339 time."""
    value = event._attributes.get("expirytime")
    try:
        return None if value is None else parse_timestamp(str(value)).timestamp()
    except (ValueError, OverflowError):
        return None


class deadline(Layer):  # noqa: N801 - used as a decorator
    """Start no handler with an event whose ``expirytime`` has passed, and make no retry whose wait would end after it.

    ``expired`` says what happens to the event then: ``dead_letter`` (at once, with an ``ExpiredError``), or ``skip``:
    it is acknowledged, logged (at most once a minute) and counted (``stats.expired``).

    Without this layer an event that has expired is dead-lettered before it starts, and its retries take no notice of
    the time. ``publish(expires_in=…)`` sets the attribute. A time that is not RFC 3339 does not count. A handler that
    runs when the moment comes goes on: ``@timeout`` bounds it.
    """

    kind = "deadline"
    after = ("dead_letter", "retry_budget")
    waits_after = False

    def __init__(self, *, expired: Literal["dead_letter", "skip"] = "dead_letter") -> None:
        if expired not in ("dead_letter", "skip"):
            raise ConfigError("deadline(expired=)", f"{expired!r} is not known", "Use 'dead_letter' or 'skip'.")
        self.expired = expired

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        where, skips, stats = f"{chain.topic}/{chain.group}", self.expired == "skip", chain.stats
        say = Seldom()

        def skip(delivery: Delivery, error: ExpiredError) -> None:
            stats.expired += 1
            chain.recovered(delivery)
            if times := say():
                _log.warning(
                    "%s: %s is skipped: %s (%d times since this was said last)",
                    where,
                    named(delivery.event),
                    error,
                    times,
                )

        async def without_start(delivery: Delivery, error: ExpiredError) -> None:
            if delivery.verdict is None:
                delivery.attempt -= 1
                if skips:
                    skip(delivery, error)
                    return
                delivery.verdict = error
            await chain.dead_letter(delivery, error)
            delivery.letter_stored = True
            stats.dead_lettered += 1
            chain.recovered(delivery)

        async def watched(delivery: Delivery, moment: float) -> None:
            said = str(delivery.event._attributes["expirytime"])
            if isinstance(delivery.verdict, ExpiredError):
                await without_start(delivery, delivery.verdict)
                return
            if moment < time.time():
                await without_start(delivery, ExpiredError(said))
                return
            try:
                await call_next(delivery)
            except Retry as exc:
                wait = 1.0 if exc.after is None else exc.after
                if not exc.counted or time.time() + wait <= moment:
                    raise
                late = ExpiredError(said, wait=wait)
                if not skips:
                    raise late from (cause_of(exc) or exc)
                skip(delivery, late)

        def run(delivery: Delivery) -> Awaitable[None]:
            if "expirytime" in delivery.event._attributes and (moment := expiry_of(delivery.event)) is not None:
                return watched(delivery, moment)
            return call_next(delivery)

        return run
