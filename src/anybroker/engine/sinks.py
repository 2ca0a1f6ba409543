"""Where a publish goes instead of the broker: into the caller's own transaction, as a row of an outbox."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..adapter import Outbound, Receipt
from ..errors import ConfigError
from ..idempotency._transaction import current_transaction
from .outgoing import Turns

__all__ = ["PutsMany", "Sink", "Sinks"]


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


@runtime_checkable
class PutsMany(Sink, Protocol):
    """A sink that can put a batch of ``publish_many`` in fewer steps than one for each event."""

    async def put_many(self, batch: Sequence[Outbound], within: Any, /) -> Sequence[Receipt]:
        """Put all of them there, as :meth:`Sink.put` would one after another, and return a receipt for each, in the
        order of the batch, which is not empty. What it raises is what ``publish_many`` raises: the caller rolls back,
        and it does not matter how many were written."""
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
        sink = self._sink_for(within)
        turn = self._turns.take("within", str(id(within)))
        try:
            await turn.wait()
            receipt = await sink.put(outbound, within)
        finally:
            turn.leave()
        return _of_event(receipt, outbound, sink)

    async def put_many(self, batch: Sequence[Outbound], within: object) -> list[Receipt]:
        """The same with several events, between which nothing else is put into this transaction."""
        sink = self._sink_for(within)
        turn = self._turns.take("within", str(id(within)))
        try:
            await turn.wait()
            if isinstance(sink, PutsMany) and len(batch) > 1:
                receipts = await sink.put_many(batch, within)
            else:
                receipts = [await sink.put(outbound, within) for outbound in batch]
        finally:
            turn.leave()
        if not isinstance(receipts, Sequence) or len(receipts) != len(batch):
            raise TypeError(
                f"the sink {sink!r} did not return {len(batch)} receipts for as many events; they may be written"
            )
        return [_of_event(receipt, outbound, sink) for receipt, outbound in zip(receipts, batch, strict=True)]

    def _sink_for(self, within: object) -> Sink:
        sink = next((each for each in self._sinks if each.takes(within)), None)
        if sink is None:
            raise ConfigError(
                "publish(within=)",
                f"no sink of the Bus takes a {type(within).__name__}",
                "Give the Bus an outbox for it: Bus(sinks=[…]).",
            )
        return sink


def _of_event(receipt: Receipt, outbound: Outbound, sink: Sink) -> Receipt:
    """What a sink returned, with the event."""
    if receipt.__class__ is not Receipt:
        raise TypeError(f"the sink {sink!r} returned {receipt!r} instead of a Receipt; the event may be written")
    receipt.event = outbound.event  # type: ignore[assignment] # what is published is an Event
    return receipt
