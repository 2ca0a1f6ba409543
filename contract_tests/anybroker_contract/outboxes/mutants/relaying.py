"""Flaws of relaying: which rows are read, when, by whom, and what becomes of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anybroker import Event, Receipt
from anybroker.errors import BrokerError, PublishOutcomeUnknown, Unavailable
from anybroker.outbox import OutboxRelay, OutboxUnavailable, Parked, Row, Taken, Waiting
from anybroker.outbox.relay import Forwards

from ..harness import Outbox
from .breaking import BrokenRelay, Flaw


class LosesLateRows(Flaw):
    """Rows that appear behind what was read are never read."""

    def __init__(self) -> None:
        self._last = 0

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        rows = [row for row in await super().rows(outbox, shards, limit) if row.position > self._last]
        self._last = max((self._last, *(row.position for row in rows)))
        return rows


class ReadsBackwards(Flaw):
    """Rows come newest first."""

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        return list(reversed(await super().rows(outbox, shards, limit)))


class ReadsAllShards(Flaw):
    """Rows of shards that somebody else holds are read too."""

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        rows = await super().rows(outbox, range(16), limit)
        mine = next(iter(shards))
        return [row._replace(shard=mine) for row in rows]


class ReadsOnlyFullBatches(Flaw):
    """The last rows wait until there are more."""

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        rows = await super().rows(outbox, shards, limit)
        if len(rows) < min(limit, 4):
            outbox.again()
            return ()
        return rows


class RemovesNothing(Flaw):
    """What was relayed stays in the table."""

    async def remove(self, outbox: Outbox, positions: Sequence[int]) -> None:
        """OutboxTable.remove."""


class RemovesTooMuch(Flaw):
    """With what was relayed goes what was written before."""

    async def remove(self, outbox: Outbox, positions: Sequence[int]) -> None:
        """OutboxTable.remove."""
        await super().remove(outbox, range(max(positions) + 1))


class RemovesWhatItReads(Flaw):
    """Rows are removed before they are sent."""

    async def rows(self, outbox: Outbox, shards: Collection[int], limit: int) -> Sequence[Row]:
        """OutboxTable.rows."""
        rows = await super().rows(outbox, shards, limit)
        if rows:
            await outbox.remove([row.position for row in rows])
        return rows


class EverybodyHasEverything(Flaw):
    """Each relay is told that it holds all shards."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        await super().take(outbox, relay, lease)
        return Taken(frozenset(range(16)), frozenset())


class LeasesForEver(Flaw):
    """A lease does not end."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        return await super().take(outbox, relay, 3_600.0)


class LeasesTooShort(Flaw):
    """A lease ends in half its time."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        return await super().take(outbox, relay, lease / 2)


class NeverShares(Flaw):
    """A relay that comes is left without anything."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        taken = await super().take(outbox, relay, lease)
        return Taken(taken.held, frozenset())


class LeavesQuietly(Flaw):
    """A relay that leaves keeps its shards until the lease ends."""

    async def give_up(self, outbox: Outbox, relay: str, shards: Collection[int] | None) -> None:
        """OutboxTable.give_up."""
        if shards is not None:
            await super().give_up(outbox, relay, shards)


class GivesUpWhatOthersHave(Flaw):
    """Giving up shards takes them from any relay that has them."""

    async def give_up(self, outbox: Outbox, relay: str, shards: Collection[int] | None) -> None:
        """OutboxTable.give_up."""
        await super().give_up(outbox, relay, shards)
        for other in ("a", "relay-0"):
            await super().give_up(outbox, other, shards)


class ParksWithoutAReason(Flaw):
    """The reason of what is set aside is lost."""

    async def park(self, outbox: Outbox, rejected: Sequence[tuple[int, str]]) -> None:
        """OutboxTable.park."""
        await super().park(outbox, [(position, "") for position, _ in rejected])


class DropsWhatIsRejected(Flaw):
    """What the broker rejects is gone."""

    async def park(self, outbox: Outbox, rejected: Sequence[tuple[int, str]]) -> None:
        """OutboxTable.park."""
        await outbox.remove([position for position, _ in rejected])


class ForgetsWhichKeysAreHeld(Flaw):
    """A relay that starts does not learn which keys wait."""

    async def parked_keys(self, outbox: Outbox) -> Collection[tuple[str, str]]:
        """OutboxTable.parked_keys."""
        return []


class RetriesAll(Flaw):
    """Whichever row is to be retried, all are."""

    async def retry(self, outbox: Outbox, positions: Sequence[int] | None) -> int:
        """OutboxTable.retry."""
        return await super().retry(outbox, None)


class DiscardsNothing(Flaw):
    """What is discarded stays."""

    async def discard(self, outbox: Outbox, positions: Sequence[int] | None) -> int:
        """OutboxTable.discard."""
        return len(await outbox.parked() if positions is None else positions)


class CountsNothing(Flaw):
    """The table says that nothing waits."""

    async def waiting(self, outbox: Outbox) -> Waiting:
        """OutboxTable.waiting."""
        return Waiting(0, None, 0)


class RaisesTheClientsErrors(Flaw):
    """While the database is away, errors of its client are raised."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        try:
            return await super().take(outbox, relay, lease)
        except OutboxUnavailable as exc:
            raise RuntimeError("the connection is lost") from exc


class WaitsUntilItIsBack(Flaw):
    """A call waits until the database is back."""

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        for _ in range(20):
            try:
                return await super().take(outbox, relay, lease)
            except OutboxUnavailable:
                await asyncio.sleep(0.1)
        return await super().take(outbox, relay, lease)


class StaysDown(Flaw):
    """After an outage the table has to be opened again."""

    down = False

    async def take(self, outbox: Outbox, relay: str, lease: float) -> Taken:
        """OutboxTable.take."""
        if self.down:
            raise OutboxUnavailable(f"{outbox.target} is closed")
        try:
            return await super().take(outbox, relay, lease)
        except OutboxUnavailable:
            self.down = True
            raise


class OpensForAll(Flaw):
    """A second relay may open the same object."""

    def __init__(self) -> None:
        self._opened: set[int] = set()

    async def open(self, outbox: Outbox) -> None:
        """OutboxTable.open."""
        if id(outbox) not in self._opened:
            self._opened.add(id(outbox))
            await super().open(outbox)


# ------------------------------------------------------------------------------------------------------- the relay


class SendsAnotherId(Flaw):
    """Each try of an event has an id of its own."""

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        from .writing import copied

        attributes = {name: value for name, value in event.attributes.items() if name != "specversion"}
        other = copied(event, {**attributes, "id": f"{event.id}.{uuid.uuid4().hex[:4]}"})
        return await super().forward(bus, topic, other, headers)


class ForgetsHeaders(Flaw):
    """The relay sends events without their headers."""

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        return await super().forward(bus, topic, event, None)


class TakesUnknownForStored(Flaw):
    """An event whose outcome is unknown is taken for stored."""

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        try:
            return await super().forward(bus, topic, event, headers)
        except PublishOutcomeUnknown:
            return Receipt(topic, "0", event)


class TakesEveryErrorForStored(Flaw):
    """An event that the broker has refused is taken for stored."""

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        try:
            return await super().forward(bus, topic, event, headers)
        except BrokerError:
            return Receipt(topic, "0", event)


class TriesRejectedAgain(Flaw):
    """An event that was rejected for good is tried again for ever."""

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        try:
            return await super().forward(bus, topic, event, headers)
        except Unavailable:
            raise
        except BrokerError as exc:
            raise Unavailable(str(exc)) from exc


class DoesNotWaitForTheBroker(Flaw):
    """The next event of a key is sent before the one before it is accepted."""

    def __init__(self) -> None:
        self._sending: set[asyncio.Future[Receipt]] = set()

    def _ended(self, done: asyncio.Future[Receipt]) -> None:
        self._sending.discard(done)
        if not done.cancelled():
            done.exception()

    async def forward(self, bus: Forwards, topic: str, event: Event[Any], headers: Mapping[str, str] | None) -> Receipt:
        """Bus.forward."""
        sending = asyncio.ensure_future(bus.forward(topic, event, headers=headers))
        self._sending.add(sending)
        sending.add_done_callback(self._ended)
        await asyncio.sleep(0)
        return Receipt(topic, "0", event)


class HoldsNothing(Flaw):
    """``rejected="hold"`` is taken for ``"pass"``."""

    def relay(self, outbox: Outbox, **settings: Any) -> OutboxRelay:
        """A relay."""
        return BrokenRelay(outbox, self, **{**settings, "rejected": "pass"})


class HoldsAlways(Flaw):
    """``rejected="pass"`` is taken for ``"hold"``."""

    def relay(self, outbox: Outbox, **settings: Any) -> OutboxRelay:
        """A relay."""
        return BrokenRelay(outbox, self, **{**settings, "rejected": "hold"})


class ShowsNoProblem(Flaw):
    """A relay that cannot relay has no problem."""

    def relay(self, outbox: Outbox, **settings: Any) -> OutboxRelay:
        """A relay."""
        return Silent(outbox, self, **settings)


class Silent(BrokenRelay):
    """Without a problem."""

    @property
    def problem(self) -> str | None:
        """None."""
        return None


class CountsWhatIsParked(Flaw):
    """What is set aside is listed newest first, and without its key."""

    async def parked(self, outbox: Outbox, limit: int) -> Sequence[Parked]:
        """OutboxTable.parked."""
        return [parked._replace(key=None) for parked in await super().parked(outbox, limit)]
