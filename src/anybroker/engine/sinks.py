"""Where a publish goes instead of the broker: into the caller's own transaction, as a row of an outbox."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from ..adapter import Outbound, Receipt
from ..errors import ConfigError
from ..idempotency._transaction import current_transaction
from .outgoing import Turns

__all__ = ["Sink", "Sinks"]


@runtime_checkable
class Sink(Protocol):
    """Takes events of ``publish(…, within=transaction)``: ``Bus(sinks=[…])``.

    Something else, such as a relay, brings them from there to the broker, once the transaction has committed.
    """

    def takes(self, within: object, /) -> bool:
        """Whether it can put an event into this: a connection, a session, a transaction."""
        ...

    async def put(self, outbound: Outbound, within: Any, /) -> Receipt:
        """Put one event there, and return when it is written; it need not be committed. ``outbound`` has the topic, the
        event, its headers and ``not_before``. The receipt's ``broker_id`` is the sink's own name for it.

        What it raises is what ``publish`` raises. Of one transaction it is called once at a time, in the order of the
        publishes.
        """
        ...


class Sinks:
    """Those of one Bus."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)
        self.any = bool(self._sinks)
        """Whether there are any; an attribute, since each publish looks."""
        self._turns = Turns()
        for sink in self._sinks:
            if isinstance(sink, type) or not isinstance(sink, Sink):
                raise ConfigError(
                    "Bus(sinks=)", f"{type(sink).__name__} is not a Sink", "Give objects with takes() and put()."
                )

    def transaction(self) -> object | None:
        """The transaction of the running handler, where a sink takes it."""
        transaction = current_transaction.get()
        if transaction is None or not any(each.takes(transaction) for each in self._sinks):
            return None
        return transaction

    async def put(self, outbound: Outbound, within: object) -> Receipt:
        """Put it into the first sink that takes ``within``. ConfigError where none does."""
        sink = next((each for each in self._sinks if each.takes(within)), None)
        if sink is None:
            raise ConfigError(
                "publish(within=)",
                f"no sink of the Bus takes a {type(within).__name__}",
                "Give the Bus an outbox for it: Bus(sinks=[…]).",
            )
        turn = self._turns.take("within", str(id(within)))
        try:
            await turn.wait()
            receipt = await sink.put(outbound, within)
        finally:
            turn.leave()
        if receipt.__class__ is not Receipt:
            raise TypeError(f"the sink {sink!r} returned {receipt!r} instead of a Receipt; the event may be written")
        receipt.event = outbound.event  # type: ignore[assignment] # what is published is an Event
        return receipt
