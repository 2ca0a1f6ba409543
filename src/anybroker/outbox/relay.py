"""The relay: brings the events of an outbox to the broker, in order for each key, and forgets those that are stored."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Literal, Protocol

from ..adapter import Receipt
from ..cloudevents.event import Event
from ..engine.backoff import Backoff
from ..engine.calls import cancelled_by_nobody
from ..engine.pending import Pending
from ..errors import BrokerError, ConfigError, EventError, PublishOutcomeUnknown, StateError, Unavailable
from ..printable import logger, printable
from .entry import read_event, read_headers
from .table import OutboxTable, Row

__all__ = ["Forwards", "OutboxRelay"]

_log = logger("anybroker.outbox")

_OUTAGES: Final = (Unavailable, PublishOutcomeUnknown, OSError)
_MOST: Final = 4
"""How many batches of rows a relay holds at most, those included that are published and not yet forgotten."""


class Forwards(Protocol):
    """The Bus, as a relay uses it."""

    @property
    def source(self) -> str:
        """The service's name."""
        ...

    def forward(
        self, topic: str, event: Event[Any], /, *, headers: Mapping[str, str] | None = None
    ) -> Awaitable[Receipt]:
        """Publish what has passed ``publish`` before, as it is."""
        ...


class OutboxRelay:
    """``bus.add(OutboxRelay(outbox))``: relays what ``publish(…, within=…)`` has written, once its transaction is
    committed, while the Bus runs.

    Any number of relays may work on one table at once: each has a share of its shards, under a lease. Every event is
    published at least once, under its own id, and with the headers that it was published with. Of one key, an event is
    sent when the broker has accepted the one before it. An event whose outcome is unknown is sent again.

    :param table: of the outbox.
    :param batch: rows that are read at once.
    :param poll: seconds after which the table is looked at again where nothing says that there is something new.
    :param lease: seconds after which the shards of a relay that has died go to others.
    :param rejected: what becomes of the later events of a key after one that was rejected for good (too large, not an
        event) and set aside: they are relayed (``"pass"``) or wait until it is retried or discarded (``"hold"``).
    :param name: unique in its Bus.
    """

    def __init__(
        self,
        table: OutboxTable,
        *,
        batch: int = 500,
        poll: float = 1.0,
        lease: float = 10.0,
        rejected: Literal["pass", "hold"] = "pass",
        name: str = "outbox",
    ) -> None:
        for setting, value in (("batch", batch), ("poll", poll), ("lease", lease)):
            if isinstance(value, bool) or not 0 < value < float("inf"):
                raise ConfigError(f"OutboxRelay({setting}=)", f"{value!r} is not a number over 0")
        if batch < 1:
            raise ConfigError("OutboxRelay(batch=)", f"{batch!r} is less than one row")
        if rejected not in ("pass", "hold"):
            raise ConfigError("OutboxRelay(rejected=)", f"{rejected!r} is unknown", "Write 'pass' or 'hold'.")
        self.name = name
        self.table = table
        self.relayed = 0
        """Events that the broker has accepted since the first start."""
        self.set_aside = 0
        """Events that were rejected for good since the first start."""
        self._batch = int(batch)
        self._poll = poll
        self._lease = lease
        self._holds = rejected == "hold"
        self._bus: Forwards | None = None
        self._run: _Run | None = None

    def attach(self, bus: Forwards, /) -> None:
        """Called by ``bus.add``. ConfigError where it is in a Bus already."""
        if self._bus is not None:
            raise ConfigError(f"OutboxRelay({self.table.target})", "is in a Bus already", "Make another one.")
        self._bus = bus

    @property
    def problem(self) -> str | None:
        """Why it relays nothing, or not everything, now: the database or the broker is away."""
        return None if self._run is None else self._run.problem

    async def pending(self) -> Pending:
        """What is in the table. Raises ``OutboxUnavailable``."""
        waiting = await self.table.waiting()
        return Pending(waiting.rows, waiting.age, waiting.parked, self.relayed)

    async def start(self) -> None:
        """Open the table, and begin. Raises what opening it raises."""
        if self._bus is None:
            raise StateError(f"OutboxRelay({self.table.target}): is in no Bus: bus.add(OutboxRelay(outbox))")
        await self.table.open()
        relay = f"{self._bus.source}-{os.getpid()}-{secrets.token_hex(4)}"
        self._run = _Run(self, self._bus, relay, self._batch, self._poll, self._lease, self._holds)

    async def stop(self, drain: float, /) -> None:
        """Wait up to ``drain`` seconds for what is under way, give the shards up, and close the table. What was not
        accepted by then stays in the table."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            await run.end(drain)
        finally:
            await self.table.close()


class _Run:
    """From one start to its stop."""

    def __init__(
        self, owner: OutboxRelay, bus: Forwards, relay: str, batch: int, poll: float, lease: float, holds: bool
    ) -> None:
        self._owner = owner
        self._table = owner.table
        self._bus = bus
        self._relay = relay
        self._batch = batch
        self._poll = poll
        self._lease = lease
        self._holds = holds
        self._loop = asyncio.get_running_loop()
        self._shards: frozenset[int] = frozenset()
        """That may be read, and sent."""
        self._leaving: frozenset[int] = frozenset()
        """That are not read any more, and given up once nothing of them is under way."""
        self._until = 0.0
        """When the lease ends, by the loop's clock, reckoned from before it was asked for."""
        self._known: set[int] = set()
        """The positions of rows that are queued, under way, or not yet forgotten by the table."""
        self._gone: set[int] = set()
        """Of those, what the table has forgotten: a read that began before may still return it."""
        self._chains: dict[tuple[str, str], deque[Row]] = {}
        """By topic and key: the rows under way and waiting behind."""
        self._sending: dict[int, int] = {}
        """By shard: how many rows are under way."""
        self._dropped = 0
        """Counts what makes rows that were read be read again: those of a look that began before are not queued, since
        they would overtake them."""
        self._stored: list[int] = []
        self._rejected: list[tuple[int, str]] = []
        self._held: set[tuple[str, str]] = set()
        """Topics and keys whose rows wait behind one that was set aside."""
        self._troubles: dict[str, str] = {}
        """By what failed: why."""
        self._failing: set[int] = set()
        """The positions of events that are being sent again."""
        self._stopping = False
        self._changed = asyncio.Event()
        """There is room, other shards, or an end."""
        self._to_forget = asyncio.Event()
        self._senders: set[asyncio.Task[None]] = set()
        self._tasks = [
            self._loop.create_task(self._forever(what, work), name=f"anybroker outbox {what}")
            for what, work in (("lease", self._keep), ("read", self._read), ("forget", self._forget))
        ]

    @property
    def problem(self) -> str | None:
        """Of the table or the broker; the table's first."""
        found = next((text for _, text in sorted(self._troubles.items())), None)
        return None if found is None else printable(found)

    async def _forever(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it again and again; an outage is waited for."""
        backoff = Backoff(first=0.1, cap=5.0, floor=0.05)
        while True:
            try:
                await work()
            except _OUTAGES as exc:
                if what not in self._troubles:
                    _log.warning("%s: %s; trying again", self._owner.name, exc)
                self._troubles[what] = f"the outbox's table fails: {exc}"
            except asyncio.CancelledError:
                if not cancelled_by_nobody():
                    raise
                _log.exception("%s: a cancellation came out of %s", self._owner.name, self._table.target)
                self._troubles[what] = f"the outbox's table fails: {self._table.target} was cancelled"
            except Exception as exc:  # noqa: BLE001 - a defect must not end the relay without a word
                _log.exception("%s: the relay of %s failed", self._owner.name, self._table.target)
                self._troubles[what] = f"the relay failed: {exc!r}"
            else:
                if self._troubles.pop(what, None) is not None:
                    _log.info("%s: %s answers again", self._owner.name, self._table.target)
                backoff.reset()
                continue
            await asyncio.sleep(backoff.next())

    # ------------------------------------------------------------------------------------------------------- lease

    async def _keep(self) -> None:
        """Extend the lease, take what is free, and give up what others wait for."""
        began = self._loop.time()
        if self._shards and began >= self._until:
            self._lose(self._shards)
        taken = await self._table.take(self._relay, self._lease)
        if self._holds:
            await self._learn_held()
        self._until = began + self._lease
        if lost := self._shards - taken.held:
            self._lose(lost)
        before = self._shards - self._leaving
        self._shards = taken.held
        self._leaving = taken.surplus if not self._stopping else taken.held
        if self._shards - self._leaving - before:
            self._read_again()
            self._changed.set()
        self._drop_queued(self._leaving)
        await self._give_up()
        await asyncio.sleep(self._lease / 3)

    def _lose(self, shards: Collection[int]) -> None:
        """Others may have them: what is queued is dropped; what is under way cannot be called back."""
        _log.warning("%s: the lease of %d shards ran out", self._owner.name, len(shards))
        self._shards -= frozenset(shards)
        self._drop_queued(shards)

    def _drop_queued(self, shards: Collection[int]) -> None:
        for key, chain in list(self._chains.items()):
            if chain and chain[0].shard in shards:
                under_way, *queued = chain
                self._chains[key] = deque([under_way])
                self._drop(queued)

    def _drop(self, rows: Collection[Row]) -> None:
        """They are not sent; the relay that has the shard then reads them again."""
        if rows:
            self._known.difference_update(row.position for row in rows)
            self._read_again()

    def _read_again(self) -> None:
        self._dropped += 1
        self._table.again()

    def _has(self, shard: int) -> bool:
        """Whether rows of it may be sent now."""
        return shard in self._shards and self._loop.time() < self._until

    async def _give_up(self) -> None:
        ready = frozenset(shard for shard in self._leaving if not self._sending.get(shard))
        if ready and not self._stored:
            self._shards -= ready
            self._leaving -= ready
            await self._table.give_up(self._relay, ready)

    async def _learn_held(self) -> None:
        held = set(await self._table.parked_keys())
        if self._held - held:
            self._read_again()
        self._held = held

    # ----------------------------------------------------------------------------------------------------- reading

    async def _read(self) -> None:
        """One look at the table, and the wait for the next."""
        shards = self._shards - self._leaving
        self._known -= self._gone  # a row of these that comes now was put back
        self._gone = set()
        room = _MOST * self._batch - len(self._known)
        if not shards or room < max(1, self._batch // 2) or self._stopping:
            self._changed.clear()
            await self._changed.wait()
            return
        dropped = self._dropped
        limit = min(self._batch, room)
        rows = await self._table.rows(shards, limit)
        if dropped != self._dropped:
            return
        shards = self._shards - self._leaving  # they may have changed meanwhile
        fresh = 0
        for row in rows:
            if row.position not in self._known and row.shard in shards and not self._stopping:
                fresh += self._queue(row)
        if not fresh and len(rows) < limit:  # behind a full page of what is known already there may be more
            await self._table.wait(self._poll)

    def _queue(self, row: Row) -> bool:
        """Send it now, or after the one of its key that is under way."""
        where = (row.topic, row.key if row.key is not None else f"\0{row.position}")
        if where in self._held:
            return False
        self._known.add(row.position)
        chain = self._chains.get(where)
        if chain is None:
            self._chains[where] = deque([row])
            task = self._loop.create_task(self._send(where), name="anybroker outbox send")
            self._senders.add(task)
            task.add_done_callback(self._senders.discard)
        else:
            chain.append(row)
        return True

    # ----------------------------------------------------------------------------------------------------- sending

    async def _send(self, where: tuple[str, str]) -> None:
        """The rows of one key, one after another."""
        try:
            while chain := self._chains.get(where):
                row = chain[0]
                self._sending[row.shard] = self._sending.get(row.shard, 0) + 1
                try:
                    goes_on = await self._publish(row, where)
                finally:
                    self._sending[row.shard] -= 1
                chain = self._chains[where]
                chain.popleft()
                if not goes_on or row.shard in self._leaving or self._stopping:
                    self._drop(chain)
                    return
        finally:
            self._chains.pop(where, None)
            self._changed.set()

    async def _publish(self, row: Row, where: tuple[str, str]) -> bool:
        """Until the broker has it, or has rejected it; whether the next one of the key may follow."""
        backoff = Backoff(first=0.1, cap=5.0, floor=0.05)
        try:
            event, headers = read_event(row.payload), read_headers(row.headers)
            while self._has(row.shard):
                try:
                    await self._bus.forward(row.topic, event, headers=headers)
                except _OUTAGES as exc:
                    self._failing.add(row.position)
                    self._troubles["send"] = f"the broker does not take what the outbox has: {exc}"
                    if self._stopping:
                        break
                    await asyncio.sleep(backoff.next())
                else:
                    self._owner.relayed += 1
                    self._stored.append(row.position)
                    self._to_forget.set()
                    return True
        except (BrokerError, EventError, ConfigError) as exc:
            self._set_aside(row, exc)
            if self._holds and row.key is not None:
                self._held.add(where)
            return not self._holds
        except StateError:  # the Bus ends
            await asyncio.sleep(backoff.next())
        except Exception as exc:  # noqa: BLE001 - a defect must neither lose the row nor end its key without a word
            _log.exception("%s: an event for %r could not be relayed", self._owner.name, row.topic)
            self._failing.add(row.position)
            self._troubles["send"] = f"an event could not be relayed: {exc!r}"
            await asyncio.sleep(1.0)
        finally:
            self._failing.discard(row.position)
            if not self._failing:
                self._troubles.pop("send", None)
        self._drop([row])
        return False

    def _set_aside(self, row: Row, error: Exception) -> None:
        self._owner.set_aside += 1
        reason = printable(f"{type(error).__name__}: {error}")
        _log.error(
            "%s: an event for %r was rejected and set aside, at position %d: %s",
            self._owner.name,
            row.topic,
            row.position,
            reason,
        )
        self._rejected.append((row.position, reason))
        self._to_forget.set()

    # -------------------------------------------------------------------------------------------------- forgetting

    async def _forget(self) -> None:
        """Remove what is stored at the broker, and set aside what is rejected."""
        await self._to_forget.wait()
        self._to_forget.clear()
        await self._forget_now()

    async def _forget_now(self) -> None:
        try:
            while self._rejected:
                rejected = self._rejected[: self._batch]
                await self._table.park(rejected)
                del self._rejected[: len(rejected)]
                self._forgotten([position for position, _ in rejected])
            while self._stored:
                stored = self._stored[: 2 * self._batch]
                await self._table.remove(stored)
                del self._stored[: len(stored)]
                self._forgotten(stored)
        except BaseException:
            self._to_forget.set()
            raise

    def _forgotten(self, positions: Collection[int]) -> None:
        self._gone.update(positions)
        self._changed.set()

    # --------------------------------------------------------------------------------------------------------- end

    async def end(self, drain: float) -> None:
        """Stop reading, wait for what is under way, and leave."""
        self._stopping = True
        self._drop_queued(self._shards)
        keep, read, forget = self._tasks
        read.cancel()
        await asyncio.wait({read})
        if self._senders:
            await asyncio.wait(self._senders, timeout=drain)
        left = list(self._senders)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
            _log.warning("%s: %d events were under way at the end; they are relayed again", self._owner.name, len(left))
        for task in (forget, keep):
            task.cancel()
        await asyncio.wait({forget, keep})
        try:
            await self._forget_now()
            await self._table.give_up(self._relay, None)
        except _OUTAGES as exc:
            _log.warning("%s: what was relayed last may be relayed again: %s", self._owner.name, exc)
