"""Parked keys: after a dead letter, the later events of its key are set aside behind it, in order.

The store has a row for each event that was set aside, and a key is parked while one of its rows is not finished. An
event of a parked key is started only if no row comes before its own: it is the first one, and was replayed, or comes
again after a crash. Whether an event is the same one is decided by its contents, so that nobody can take the place of
another one by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..adapter import Inbound
from ..delivery import Delivery
from ..engine.seldom import Seldom
from ..errors import ConfigError, ExpiredError, ParkedError
from ..idempotency._parking import ParkedRow, ParkingStore, identity, plain
from ..printable import logger
from ..stats import SubscriptionStats
from .layer import Handler, ReportsProblem
from .store_down import OUTAGES, StoreDown

__all__ = ["Parking", "parks"]

_log = logger("anybroker.dead_letters")


def parks(where: str, ordered: bool, handlers: Mapping[str, Sequence[object]]) -> bool:
    """Whether a subscription parks keys. ``handlers``: by name, the middleware of each. Raises ConfigError."""
    asked = {
        name: next((item for item in items if getattr(item, "then", "go on") == "park"), None)
        for name, items in handlers.items()
    }
    if not any(asked.values()):
        return False
    setting = f'{where}, dead_letter(then="park")'
    if not ordered:
        raise ConfigError(
            setting,
            "the subscription is not ordered, so that no event comes after another one",
            "Leave out then=, or subscribe with ordered=True.",
        )
    if others := [name for name, layer in asked.items() if layer is None]:
        raise ConfigError(
            setting,
            f"is not what the handler {others[0]!r} of the same subscription says, and both have events of one key",
            'Say it once for all: subscription(…, middleware=[dead_letter(then="park")]).',
        )
    for name, items in handlers.items():
        if any(getattr(item, "kind", "") == "retry" and getattr(item, "mode", None) == "release" for item in items):
            raise ConfigError(
                setting,
                f"the handler {name!r} has retry(mode='release'), which gives up the order that then=\"park\" keeps",
                "Use mode='hold', or leave out then=.",
            )
    return True


class Parking:
    """Of one subscription, from its start to its end."""

    def __init__(
        self,
        topic: str,
        group: str,
        store: ParkingStore,
        exclusive: bool,
        stats: SubscriptionStats,
        problem: ReportsProblem,
        set_aside: Callable[[Delivery, Exception], Awaitable[None]],
    ) -> None:
        """``exclusive``: whether all events of a key come on one lane, which one member has. ``set_aside``: sends a
        dead letter of what was not started."""
        self._name = self._place = f"{topic}/{group}"
        self._store = store
        self._exclusive = exclusive
        self._stats = stats
        self._set_aside = set_aside
        self._down = StoreDown(f"{self._name}, parked keys", problem)
        self._reading = asyncio.Lock()
        self._handled: dict[Inbound, Delivery] = {}
        """Those whose handler has returned, and whose row could not be finished."""
        self._say_parked = Seldom()

    def is_concerned(self, delivery: Delivery) -> bool:
        """Whether :meth:`run` has to decide about it. False: its key is free. Only the member that has a lane parks its
        keys, so what is known to be free stays free; but an inlet may be on another lane."""
        key = delivery.key
        if key is None:
            return False
        known = delivery.lane_state.parked_keys
        return known is None or delivery.inbound.inlet or (bool(known) and plain(key) in known)

    async def run(self, delivery: Delivery, handler: Handler) -> None:
        """Start the handler if it is this event's turn; else set the event aside, behind those of its key."""
        if delivery.inbound in self._handled:
            del self._handled[delivery.inbound]
            await self._finish(delivery)
            return
        row = await self._row(delivery)
        if row is None:
            await handler(delivery)
        elif row.finished:  # a copy of what was handled while others of its key still wait
            self._stats.suppressed += 1
            self._stats.started -= 1
        elif row.first == identity(delivery.inbound):
            if isinstance(delivery.verdict, ParkedError):  # those before it were finished meanwhile
                delivery.verdict = None
                delivery.attempt += 1
            await handler(delivery)
            if not delivery.is_dead_lettered:
                await self._finish(delivery)
        else:
            self._stats.parked += 1
            await self._set_aside(delivery, ParkedError(row.first.partition(" ")[2]))

    async def before_letter(self, delivery: Delivery, error: Exception) -> None:
        """It failed for good: its key is parked before the dead letter is sent. Raises what says that the store is
        down: the dead letter then waits.

        What comes through the inlet without a row has lost its place already, and parks nothing that is free. An event
        that expired is one that nobody needs any more.
        """
        if delivery.key is None or delivery.lane_state.lost or isinstance(error, ParkedError | ExpiredError):
            return
        name = identity(delivery.inbound)
        row = await self._write(delivery, name, behind=delivery.inbound.inlet)
        if row is not None and row.first == name and (keys := self._say_parked()):
            _log.warning(
                "%s: the key %s is parked: event %s failed for good, and what follows it under this key is set aside "
                "until it is replayed or discarded (%d keys since this was said last)",
                self._name,
                plain(delivery.key),
                name.partition(" ")[2],
                keys,
            )

    async def after_letter(self, delivery: Delivery, error: Exception) -> None:
        """The dead letter is stored. One that expired does not keep those behind it."""
        if isinstance(error, ExpiredError) and self.is_concerned(delivery) and not delivery.lane_state.lost:
            await self._store.unpark(self._place, plain(str(delivery.key)), identity(delivery.inbound))

    async def _row(self, delivery: Delivery) -> ParkedRow | None:
        """Of an event that may be started now: None if its key is free. Written if its key is parked."""
        state = delivery.lane_state
        try:
            if self._exclusive and state.parked_keys is None:
                async with self._reading:
                    if state.parked_keys is None:
                        state.parked_keys = set(await self._store.parked(self._place))
                if not self.is_concerned(delivery):
                    self._down.over()
                    return None
            row = await self._write(delivery, identity(delivery.inbound), behind=True)
        except OUTAGES as exc:
            raise self._down.down(exc) from exc
        if self._down.since is not None:
            self._down.over()
        if row is None and state.parked_keys:
            state.parked_keys.discard(plain(str(delivery.key)))
        return row

    async def _write(self, delivery: Delivery, name: str, behind: bool) -> ParkedRow | None:
        key = plain(str(delivery.key))
        row = await self._store.park(self._place, key, name, behind)
        if row is not None and not row.finished:
            if (known := delivery.lane_state.parked_keys) is not None:
                known.add(key)
            delivery.parked_as = f"{row.number} {name}"
        return row

    async def _finish(self, delivery: Delivery) -> None:
        """Its handler has returned. While the store is down, only this is tried again."""
        try:
            await self._store.unpark(self._place, plain(str(delivery.key)), identity(delivery.inbound))
        except OUTAGES as exc:
            for inbound in [each for each, one in self._handled.items() if one.lane_state.gone]:
                del self._handled[inbound]
            self._handled[delivery.inbound] = delivery
            raise self._down.down(exc) from exc
        self._down.over()
