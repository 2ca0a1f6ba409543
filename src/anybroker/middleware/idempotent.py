"""Handling each event once: copies of what is done are acknowledged without a start of the handler."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import TYPE_CHECKING, Any

from ..adapter import Inbound
from ..cloudevents.event import Event
from ..codec.annotations import show
from ..delivery import Delivery
from ..errors import ConfigError, Reject
from ..handlers.signature import Wants
from ..idempotency._store import (
    Busy,
    Claim,
    ClaimLost,
    Key,
    Store,
    StoreUnavailable,
    Transaction,
    TransactionalStore,
    TransactionConflict,
)
from ..idempotency._transaction import current_transaction
from .layer import Chain, Handler, Layer
from .retry import Uncounted
from .store_down import LONGEST_WAIT, OUTAGES, StoreDown

if TYPE_CHECKING:
    from ..engine.lanes import LaneState
from ..names import hashed

__all__ = ["idempotent"]

_CONFLICT = 0.05
"""Seconds, about, until a handler runs again whose transaction met another one."""
_LONGEST_TEXT = 128
"""Characters of a source, an id or another key that a store is asked to remember as it is."""


class idempotent(Layer):  # noqa: N801 - used as a decorator
    """Handle each event once, as far as a store can say: copies of what is done are acknowledged and counted
    (``stats.suppressed``).

    :param store: where it is remembered (:mod:`anybroker.idempotency`); by default the Bus's (``Bus(idempotency=)``,
        ``ANYBROKER_IDEMPOTENCY``), else memory under a broker in memory, a file of this machine under others.
    :param key: a function of the event to the string that takes the place of its source and id, where the same fact may
        arrive as several events: ``lambda event: event.subject``. A source, an id or a key of more than 128 characters
        is remembered by its hash.
    :param lease: seconds for which a claim lasts unless it is extended, which happens while the handler runs; what a
        crashed member was handling waits so long. By default the Bus's.
    :param retain: seconds for which what is done is remembered, at least; by default the store's.

    For each event of a group and handler: it is claimed, the handler runs, it is marked done, it is acknowledged.

    - **Exactly one effect** where the effect shares the store's transaction: the handler asks for it by a parameter
      (``transaction: SqliteTransaction``).
    - **Otherwise a bounded window**: when the process dies, or loses its lease, after the effect and before the mark,
      the handler runs again. Never is an event marked done before its handler returned.
    - A live claim elsewhere: the event comes again later, and is not acknowledged. Neither that nor a store that is
      down counts as an attempt.
    - The store down: nothing is handled and nothing acknowledged until it is back; ``subscription.problem`` says so. A
      handler that had returned already is not run again, only the mark is made later, while the process lives.
    - A handler that fails, is cancelled or runs into its time-out releases the claim. If the store's database undid
      its transaction because of another one (a serialization failure, a deadlock), no attempt is counted.
    - A handler whose claim was taken over meanwhile (its process slept through its lease) marks nothing and
      acknowledges nothing: its event comes again, and what the other owner made of it decides.
    """

    kind = "idempotent"
    after = "timeout"

    def __init__(
        self,
        store: Store | None = None,
        *,
        key: Callable[[Event[Any]], str] | None = None,
        lease: float | None = None,
        retain: float | None = None,
    ) -> None:
        if store is not None and not hasattr(store, "claim"):
            raise ConfigError(
                "idempotent(store)",
                f"{store!r} is not an idempotency store",
                "Give a store, such as SqliteStore('shop.db'), or write @idempotent() to use the Bus's.",
            )
        for name, value in (("lease", lease), ("retain", retain)):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"idempotent({name}=)", f"{value!r} is not a number of seconds over 0")
        if key is not None and not callable(key):
            raise ConfigError(
                "idempotent(key=)", f"{key!r} is not a function", "Write: key=lambda event: event.subject"
            )
        self.store = store
        self.key = key
        self.lease = lease
        self.retain = retain

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler. ConfigError for a transaction that the store does not have."""
        keeper = chain.stores.use(self.store)
        store, owner, held = keeper.store, keeper.owner, keeper.held
        lease = chain.lease if self.lease is None else self.lease
        retain = store.retain if self.retain is None else self.retain
        keeper.lease(lease)
        group, name, key_of, stats = chain.group, chain.handler.name, self.key, chain.stats
        claim_key, mark, release = store.claim, store.done, store.release
        transaction_of, served = _transaction_of(store, chain)
        trouble = StoreDown(f"{chain.topic}/{chain.group}, handler {name}", chain.problem)
        unmarked: dict[Inbound, tuple[Claim, LaneState]] = {}
        # Handlers that have returned, and whose mark could not be written.

        async def run(delivery: Delivery) -> None:
            if unmarked and delivery.inbound in unmarked:
                await finish(delivery, unmarked.pop(delivery.inbound)[0])
                return
            if key_of is None:
                attributes = delivery.event._attributes
                source: Any = attributes["source"]
                id_: Any = attributes["id"]
                if len(source) > _LONGEST_TEXT or len(id_) > _LONGEST_TEXT:
                    source, id_ = _bounded(source), _bounded(id_)
                key: Key = (group, name, source, id_)
            else:
                key = (group, name, "", _bounded(_checked(key_of(delivery.event))))
            try:
                claim = await claim_key(key, owner, lease, retain)
            except OUTAGES as exc:
                raise trouble.down(exc) from exc
            if trouble.since is not None:
                trouble.over()
            if not isinstance(claim, Claim):
                if isinstance(claim, Busy):
                    raise Uncounted(_wait(claim), "another owner has the event")
                delivery.suppressed = True
                stats.suppressed += 1
                stats.started -= 1
                return
            held[claim] = None
            transaction: Transaction | None = None
            try:
                if transaction_of is None:
                    await call_next(delivery)
                else:
                    transaction = transaction_of(claim)
                    await share(delivery, transaction)
            except BaseException as exc:
                held.pop(claim, None)
                await give_up(claim)
                reason = exc
                if transaction is not None and isinstance(exc, Exception):
                    reason = transaction.reason(exc) or exc
                if isinstance(reason, StoreUnavailable):
                    raise trouble.down(reason) from exc
                if isinstance(reason, ClaimLost):
                    raise _taken_over() from exc
                if isinstance(reason, TransactionConflict):
                    raise Uncounted(_CONFLICT * (0.5 + random()), "another transaction was in the way") from exc
                raise
            try:  # as in finish(), without the cost of a call
                if await mark(claim):
                    return
            except OUTAGES as exc:
                raise keep_for_later(delivery, claim, exc) from exc
            finally:
                held.pop(claim, None)
            raise _taken_over()

        async def share(delivery: Delivery, transaction: Transaction) -> None:
            given = transaction if served is None else await transaction.given(served)
            token = current_transaction.set(given)
            try:
                await call_next(delivery)
                if served is not None:
                    await transaction.finish()
            finally:
                current_transaction.reset(token)

        async def finish(delivery: Delivery, claim: Claim) -> None:
            """Mark what had returned while the store was down."""
            try:
                ours = await mark(claim)
            except OUTAGES as exc:
                raise keep_for_later(delivery, claim, exc) from exc
            trouble.over()
            if not ours:
                raise _taken_over()

        def keep_for_later(delivery: Delivery, claim: Claim, exc: Exception) -> Uncounted:
            for inbound in [item for item, (_, lane) in unmarked.items() if lane.gone]:
                del unmarked[inbound]
            unmarked[delivery.inbound] = claim, delivery.lane_state
            return trouble.down(exc)

        async def give_up(claim: Claim) -> None:
            try:
                await release(claim)
            except OUTAGES as exc:  # the handler's own failure goes on; the claim ends with its lease
                trouble.down(exc)

        return run


def _wait(busy: Busy) -> float:
    """Seconds until it is worth asking again: as long as it is claimed by now, so that waits grow, or to its end."""
    return min(max(busy.age, 0.05), busy.left + 0.05, LONGEST_WAIT) * (0.75 + random() / 2)


def _taken_over() -> Uncounted:
    """Not acknowledged: should the other owner fail, this may be the last copy; if not, it is suppressed next time."""
    return Uncounted(0.1, "another owner took the event over")


def _bounded(text: str) -> str:
    """What a store is given of it: itself, or where it is long its hash. Others choose it, and a store keeps thousands
    for days."""
    return text if len(text) <= _LONGEST_TEXT else hashed(text)


def _checked(key: object) -> str:
    if isinstance(key, str) and key:
        return key
    what = "an empty string" if key == "" else f"a {type(key).__name__}"
    raise Reject(f"idempotent(key=): the function returned {what} where a string is needed")


def _transaction_of(store: Store, chain: Chain) -> tuple[Callable[[Claim], Transaction] | None, object]:
    """What makes the transactions, if the handler asks for one, and the annotation that it gives something else for."""
    handler = chain.handler
    wanted = next((parameter for parameter in handler.parameters if parameter.wants is Wants.TRANSACTION), None)
    if wanted is None:
        return None, None
    if not isinstance(store, TransactionalStore) or not issubclass(store.transaction_type, wanted.type):
        asks, own = f"asks for a {wanted.type.__name__}", "has none"
        remedy = "Give @idempotent(store) the store whose transaction the effect shares."
        if wanted.served is not None:
            asks = f"asks for the {show(wanted.served)} of a {wanted.type.__name__}"
        if isinstance(store, TransactionalStore):
            own = f"has a {store.transaction_type.__name__}"
            if wanted.served is not None:
                remedy = f"Ask for 'transaction: {store.transaction_type.__name__}' instead, or g{remedy[1:]}"
        raise ConfigError(
            f"handler {handler.name}, parameter {wanted.name!r}",
            f"{asks}, and the handler's {type(store).__name__} {own}",
            remedy,
        )
    return store.transaction, wanted.served
