"""Dead-lettering: what cannot be handled goes to ``{topic}.{group}.dlq``, confirmed, and only then is it settled."""

from __future__ import annotations

from typing import Literal

from ..delivery import Delivery
from ..engine.failures import note_failure
from ..engine.starting import cancelled_from_outside, take_back_cancellation
from ..errors import ConfigError, HandlerExit, Retry
from .layer import Chain, Handler, Layer

__all__ = ["dead_letter"]


class dead_letter(Layer):  # noqa: N801 - used as a decorator
    """Publish what failed for good to the dead-letter topic, then settle the original.

    May duplicate, never loses: if that publish fails, the original stays unsettled, the subscription backs off and
    reports itself unhealthy, and the handler is not run again before the dead letter is sent. Body, attributes, key
    and id are untouched; reason, error, traceback, the last attempts, origin and times stand beside them in transport
    headers.

    ``enabled=False`` switches it off: an event that fails for good then stays, is tried again with a growing wait of
    up to 10 s, and keeps its key closed.

    ``then``: what happens to the later events of its key. ``"go on"`` (the default) handles them. ``"park"`` sets them
    aside behind it, in order, as dead letters with the reason ``parked behind …``: a ledger must not go on without its
    missing entry. The key is free again when each of its dead letters was replayed and handled, or discarded. For
    ordered subscriptions, all of whose handlers have to say the same; parked keys are remembered in the idempotency
    store of the Bus. Events without a key, and those that expired, park nothing.
    """

    kind = "dead_letter"
    after = "trace"
    waits_after = False  # it takes back a cancellation itself, where the handler failed

    def __init__(self, *, enabled: bool = True, then: Literal["go on", "park"] = "go on") -> None:
        if then not in ("go on", "park"):
            raise ConfigError("dead_letter(then=)", f"{then!r} is neither 'go on' nor 'park'")
        if then == "park" and not enabled:
            raise ConfigError(
                "dead_letter(enabled=False)", "has nothing to park a key behind", "Leave out then=, or enabled=False."
            )
        self.enabled = enabled
        self.then = then

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        send, stats, recovered, giving_up = chain.dead_letter, chain.stats, chain.recovered, chain.giving_up
        if not self.enabled:
            return call_next

        async def run(delivery: Delivery) -> None:
            if delivery.verdict is not None:
                failure = delivery.verdict
            else:
                try:
                    await call_next(delivery)
                    return  # noqa: TRY300 - the shortest way for what succeeds
                except Retry:
                    raise
                except Exception as exc:  # noqa: BLE001 - whatever failed is what is dead-lettered
                    failure = exc
                except BaseException as exc:
                    if cancelled_from_outside(exc, giving_up):
                        raise
                    failure = HandlerExit("the handler", exc)
                note_failure(delivery, failure)
                await take_back_cancellation(giving_up)
            delivery.verdict = failure
            await send(delivery, failure)
            delivery.letter_stored = True
            stats.dead_lettered += 1
            recovered(delivery)

        return run
