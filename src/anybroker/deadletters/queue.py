"""Listing, replaying and discarding the dead letters of one group, on any broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..adapter import (
    Ack,
    Commit,
    ExtendsLease,
    Inbound,
    Lane,
    Peeked,
    Receiver,
    Release,
    Settlement,
    SubscriptionSpec,
)
from ..capabilities import Acknowledgement
from ..engine.calls import as_failure
from ..engine.core import Core
from ..engine.inspector import Inspector
from ..engine.lease import LeaseKeeper
from ..engine.ledger import LaneLedger
from ..errors import BrokerError, LeaseLost, MissingGroup, Unavailable
from ..idempotency._parking import ParkingStore, plain
from ..names import DEAD_LETTER_GROUP, bounded_key, dead_letter_topic, one_or_several
from .letter import DeadLetter, named
from .parked import in_order
from .sending import replay

if TYPE_CHECKING:
    pass
from ..printable import logger

__all__ = ["DeadLetterQueue"]

_log = logger("anybroker.dead_letters")


class _Reader:
    """A member of the dead-letter group that reads without a pump, settles one by one, and extends the leases of what
    it holds."""

    def __init__(self, cumulative: bool) -> None:
        self._cumulative = cumulative
        self.ledgers: dict[Lane, LaneLedger] = {}
        self.receiver: Receiver | None = None
        self.not_ours: set[Inbound] = set()
        """Deliveries whose lease was lost: another member may have them by now."""
        self._lease: LeaseKeeper | None = None
        self._extending: asyncio.Task[None] | None = None

    def begin(self, receiver: Receiver, lease: float | None) -> None:
        """Read from this receiver. ``lease``: seconds, where the broker has leases."""
        self.receiver = receiver
        if lease is not None and isinstance(receiver, ExtendsLease):
            self._lease = LeaseKeeper(receiver, lease, self.not_ours.add)
            self._extending = asyncio.create_task(self._lease.run(), name="anybroker dead letters lease")

    async def leave(self) -> None:
        """Leave the group. Idempotent."""
        extending, self._extending = self._extending, None
        if extending is not None:
            extending.cancel()
            await asyncio.wait((extending,))
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            try:
                await as_failure("leaving the dead letters", receiver.stop())
            finally:
                await as_failure("leaving the dead letters", receiver.close())

    def assigned(self, lane: Lane, note: str = "") -> None:
        """LaneListener."""
        self.ledgers[lane] = LaneLedger(note)

    async def revoked(self, lanes: Collection[Lane], /) -> None:
        """LaneListener."""
        self.lost(lanes)

    def lost(self, lanes: Collection[Lane], /) -> None:
        """LaneListener."""
        for lane in lanes:
            self.ledgers.pop(lane, None)

    async def read(self, limit: int, patience: float) -> list[Inbound]:
        """Up to ``limit`` messages; ends when none arrived for ``patience`` seconds, or soon after the last one.

        The patience starts when this member has its part of the topic; ``Unavailable`` if it gets none.
        """
        assert self.receiver is not None
        received: list[Inbound] = []
        loop = asyncio.get_running_loop()
        joined_by = loop.time() + _JOIN
        end: float | None = None
        while len(received) < limit:
            now = loop.time()
            if end is None and self.ledgers:
                end = now + patience
            if end is None and now >= joined_by:
                raise Unavailable(
                    f"this reader got no part of the dead-letter topic within {_JOIN:g} s: another member of its group "
                    f"{DEAD_LETTER_GROUP!r} has all of it. Stop that member first"
                )
            if end is not None and now >= end:
                break
            left = (end or joined_by) - now
            receiving = self.receiver.receive(limit - len(received), lanes=None, timeout=min(left, 0.5))
            batch = await as_failure("reading dead letters", receiving)
            if batch and self.ledgers:
                end = loop.time() + min(patience, 0.5)
            for inbound in batch:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is None or (self._cumulative and ledger.receive(inbound.position) < 0):
                    continue
                received.append(inbound)
                if self._lease is not None:
                    self._lease.received((inbound,))
        return received

    async def settle(self, done: Iterable[Inbound], back: Iterable[Inbound]) -> None:
        """Finish some and give back the others. Raises the first BrokerError."""
        assert self.receiver is not None
        done, back = list(done), list(back)
        if self._lease is not None:
            self._lease.settled((*done, *back))
        batch: list[Settlement] = []
        failure: BrokerError | None = None
        if self._cumulative:
            lanes: dict[Lane, LaneLedger] = {}
            for inbound in done:
                ledger = self.ledgers.get(inbound.lane)
                if ledger is None:
                    failure = LeaseLost(f"{inbound.lane.name} went to another member of {DEAD_LETTER_GROUP!r}")
                else:
                    ledger.finish(inbound.position)
                    lanes[inbound.lane] = ledger
            for lane, ledger in lanes.items():
                note = ledger.note()
                if ledger.position is not None:
                    batch.append(Commit(lane, ledger.position, note))
        else:
            batch += [Ack(inbound) for inbound in done]
            batch += [Release(inbound, inbound.attempts) for inbound in back if inbound not in self.not_ours]
        if batch:
            for result in await as_failure("settling dead letters", self.receiver.settle(batch)):
                failure = failure or result
        if failure is not None:
            raise failure


_Which = str | DeadLetter | Iterable[str | DeadLetter]
_Letters = list[DeadLetter]  # inside the class below, `list` is its method
_JOIN = 20.0
"""Seconds within which a new member must get its part of the topic."""
_AT_ONCE = 100
"""Most replays in progress at once: this many may be replayed twice after a crash."""

Progress = Callable[[int], None]
"""Called with the number that were replayed or discarded since the last call."""


class DeadLetterQueue:
    """The dead letters of one group. :meth:`replay` and :meth:`discard` join the group ``dlq`` of the dead-letter topic
    while they run; :meth:`list` only looks, where the broker can (capability ``inspect``), and else joins too.

    ``patience``: seconds without a message after which a member counts the queue as read.
    """

    def __init__(self, core: Core, topic: str, group: str, dead_letter_topic: str, patience: float = 3.0) -> None:
        self._core = core
        self.topic = topic
        self.group = group
        self.dead_letter_topic = dead_letter_topic
        self.patience = patience

    async def list(self, limit: int = 100) -> Sequence[DeadLetter]:
        """Up to ``limit`` dead letters, oldest first in each lane; they stay where they are."""
        found = await self._peek(limit) if self._core.adapter.capabilities.inspect else None
        if found is None:
            found = await self._read_and_give_back(limit)
        letters = self._oldest_first(found)
        if not letters:
            await self._check_shared()
        return letters

    async def _peek(self, limit: int) -> Sequence[Inbound] | None:
        """What waits for the group ``dlq``; None where the broker cannot tell what of it is settled already."""
        try:
            page = await Inspector(self._core).peek(self.dead_letter_topic, group=DEAD_LETTER_GROUP, limit=limit)
        except MissingGroup as exc:
            raise await self._missing() from exc
        return [_inbound(item) for item in page.events] if page.exact else None

    async def _read_and_give_back(self, limit: int) -> Sequence[Inbound]:
        reader = await self._join(limit)
        try:
            received = await reader.read(limit, self.patience)
            await reader.settle((), received)
        finally:
            await reader.leave()
        return received

    async def _check_shared(self) -> None:
        """Raise MissingGroup if the group does not exist. A dead-letter topic of several groups exists whatever the
        group, and a mistyped name must not look like "no dead letters"."""
        if self.dead_letter_topic != dead_letter_topic(self.topic, self.group):
            await self._core.check_group(self.topic, self.group)

    def _oldest_first(self, received: Iterable[Inbound]) -> _Letters:
        """The dead letters of this group. The topic may hold those of several groups, because it is configured so or
        because names coincide (``a`` with ``b.c``, ``a.b`` with ``c``)."""
        read = (DeadLetter.read(inbound, self.topic, self.group) for inbound in received)
        letters = [letter for letter in read if (letter.topic, letter.group) == (self.topic, self.group)]
        if self._core.adapter.capabilities.acknowledgement is Acknowledgement.PER_MESSAGE:
            letters.sort(key=lambda letter: letter.died)  # several members, or several queues, may have written them
        return letters

    async def replay(
        self,
        ids: _Which | None = None,
        limit: int = 100,
        *,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Sequence[DeadLetter]:
        """Send dead letters back to the group that failed, and to no other; all, or those with one of these ids.

        ``ids``: one id or several; dead letters, or their fingerprints. ``limit``: how many dead letters are looked at.
        Each is settled, in order, as soon as its replay is confirmed: a crash in between replays up to 100 of them
        twice, and never loses one. Their leases are extended until then. ``progress`` is called with the number
        replayed since its last call. Returns those replayed. Raises BrokerError, after settling what was already
        replayed. Raises ConfigError, before anything is replayed, for ids that are not text and for an id that several
        events have; the error names the fingerprint of each.

        Dead letters of one parked key (``dead_letter(then="park")``) are sent in the order of their events. ConfigError
        if ``ids`` leaves out an older one of such a key; ``force=True`` sends them all the same, and they are set aside
        again behind it. What is published under the key meanwhile is set aside too: another replay sends it.
        """
        return await self._take("replay(ids=)", ids, limit, self._send_back, progress, force)

    async def discard(self, ids: _Which, limit: int = 100, *, progress: Progress | None = None) -> Sequence[DeadLetter]:
        """Drop the dead letters with these ids (one or several; dead letters, or their fingerprints) for good, among
        the first ``limit``. Returns them. ConfigError as for :meth:`replay`, before any is dropped. One of a
        parked key no longer keeps those behind it."""
        return await self._take("discard(ids=)", ids, limit, self._drop, progress, force=True)

    async def parked(self) -> Mapping[str, int]:
        """The parked keys of the group (``dead_letter(then="park")``), each with how many of its events are set aside.
        A key that is long or not printable ASCII is shown by its hash. Raises ConfigError, StoreUnavailable."""
        return await (await self._parking()).parked(f"{self.topic}/{self.group}")

    async def unpark(self, key: str) -> None:
        """Forget that a key is parked, where its dead letters are gone, such as by their age. Dead letters that are
        still there stay, and are replayed as those of any other key. Raises ConfigError, StoreUnavailable."""
        name = key if key.startswith("hash:") else plain(bounded_key(key))
        await (await self._parking()).unpark(f"{self.topic}/{self.group}", name, None)
        _log.warning("%s/%s: the key %s is not parked any more: somebody asked for it", self.topic, self.group, name)

    async def _parking(self) -> ParkingStore:
        """Of the Bus, opened."""
        stores = self._core.stores
        store = stores.parking(f"bus.dead_letters({self.topic!r}, {self.group!r})")
        await stores.open()
        return store

    async def _drop(self, letter: DeadLetter) -> None:
        """Discarding a letter takes settling it, and finishing its row where its key is parked."""
        if letter.parked is not None and (key := letter.inbound.key) is not None:
            place = f"{self.topic}/{self.group}"
            await (await self._parking()).unpark(place, plain(bounded_key(key)), letter.parked_as)

    async def _send_back(self, letter: DeadLetter) -> None:
        headers = letter.replay_headers()
        missing = await replay(self._core.copies, letter.event, letter.topic, letter.group, headers, letter.inbound)
        if missing:
            _log.warning(
                "%s: a replay is near the broker's size limit, and these of its headers were cut or left out: %s",
                self.dead_letter_topic,
                ", ".join(missing),
            )

    async def _take(
        self,
        what: str,
        ids: _Which | None,
        limit: int,
        action: Callable[[DeadLetter], Awaitable[None]],
        progress: Progress | None,
        force: bool,
    ) -> Sequence[DeadLetter]:
        names = None if ids is None else _names(what, ids)
        reader = await self._join(limit)
        done = _Letters()
        left: dict[Inbound, None] = {}
        try:
            left = dict.fromkeys(await reader.read(limit, self.patience))
            letters = self._oldest_first(left)
            chosen = letters if names is None else named(what, letters, names)
            letters = list(in_order(what, letters, chosen, force))
            await self._settle_each(reader, letters, action, progress, done, left)
        finally:
            try:
                await reader.settle((), left)
            finally:
                await reader.leave()
        if not done:
            await self._check_shared()
        return done

    async def _settle_each(
        self,
        reader: _Reader,
        letters: Iterable[DeadLetter],
        action: Callable[[DeadLetter], Awaitable[None]],
        progress: Progress | None,
        done: _Letters,
        left: dict[Inbound, None],
    ) -> None:
        """Process each, several at once, and settle each in order when it is done. Raises the first failure; no other
        is started after it."""
        rest = iter(letters)
        under_way: deque[tuple[DeadLetter, asyncio.Future[None]]] = deque()
        failure: BaseException | None = None
        try:
            while True:
                while failure is None and len(under_way) < _AT_ONCE and (letter := next(rest, None)) is not None:
                    if letter.inbound not in reader.not_ours:
                        under_way.append((letter, asyncio.ensure_future(action(letter))))
                if not under_way:
                    break
                await asyncio.wait((under_way[0][1],))
                ended = _Letters()
                while under_way and under_way[0][1].done():
                    letter, doing = under_way.popleft()
                    error = asyncio.CancelledError() if doing.cancelled() else doing.exception()
                    if error is None:
                        ended.append(letter)
                        left.pop(letter.inbound, None)
                    else:
                        failure = failure or error
                if not ended:
                    continue
                done += ended
                try:
                    await reader.settle([letter.inbound for letter in ended], ())
                except BrokerError as exc:
                    _log.warning(
                        "%s: replayed or discarded letters may still be there: %s", self.dead_letter_topic, exc
                    )
                    failure = failure or exc
                if progress is not None:
                    try:  # the caller's function: its exception is raised once what is in progress is settled
                        progress(len(ended))
                    except Exception as exc:  # noqa: BLE001 - raised later
                        failure, progress = failure or exc, None
        finally:
            for _, doing in under_way:
                doing.cancel()
            if under_way:
                await asyncio.wait([doing for _, doing in under_way])
        if failure is not None:
            raise failure

    async def _missing(self) -> MissingGroup:
        """What to raise where the dead-letter topic is not there; raises it for the group itself if that is not."""
        await self._core.check_group(self.topic, self.group)
        return MissingGroup(
            f"{self.topic}/{self.group}",
            f"the group exists, but its dead-letter topic {self.dead_letter_topic!r} does not",
            'Start its subscription once with provision="create", or configure the topic that has them '
            "(topics.<name>.dead_letter).",
        )

    async def _join(self, limit: int) -> _Reader:
        capabilities = self._core.adapter.capabilities
        reader = _Reader(capabilities.acknowledgement is Acknowledgement.CUMULATIVE)
        spec = SubscriptionSpec(self.dead_letter_topic, DEAD_LETTER_GROUP, True, 1, "new", limit)
        try:
            receiver = await as_failure("reading dead letters", self._core.adapter.open_receiver(spec, reader))
        except MissingGroup as exc:
            raise await self._missing() from exc
        reader.begin(receiver, self._core.settings.lease if capabilities.lease_extension else None)
        return reader


def _names(what: str, which: _Which) -> tuple[str, ...]:
    """Ids, or fingerprints of letters. ConfigError for anything else."""
    if isinstance(which, str):
        return (which,)
    if isinstance(which, DeadLetter):
        return (which.fingerprint,)
    given: Any = which
    if isinstance(which, Iterable):
        given = [item.fingerprint if isinstance(item, DeadLetter) else item for item in which]
    return one_or_several(what, given)


def _inbound(item: Peeked) -> Inbound:
    """As a delivery that nobody holds."""
    return Inbound(item.event, Lane(item.lane, 0), item.position, item.key, item.headers, item.raw)
