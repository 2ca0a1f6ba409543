"""Listing, replaying and discarding the dead letters of one group, on any broker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TextIO

from ..adapter import Inbound, SubscriptionSpec
from ..capabilities import Acknowledgement
from ..cloudevents.event import Event
from ..engine.calls import as_failure
from ..engine.core import Core
from ..errors import ConfigError, MissingGroup
from ..idempotency._parking import ParkingStore, plain
from ..kit.pace import Pace
from ..names import DEAD_LETTER_GROUP, bounded_key, dead_letter_topic, one_or_several
from ..printable import logger
from .archive import Archived, line_of
from .audit import Audit, this_user
from .each import Action, Progress, do_each, settle_each
from .edit import event_of
from .filters import LetterFilter
from .letter import DeadLetter, digest_of, named
from .pages import NotExact, pages
from .parked import in_order
from .reader import Reader
from .sending import replay, restore
from .tally import LetterStats, Tally

__all__ = ["DeadLetterQueue"]

_log = logger("anybroker.dead_letters")


_Which = str | DeadLetter | Iterable[str | DeadLetter]
_Letters = list[DeadLetter]  # inside the class below, `list` is its method
_Inbounds = list[Inbound]
_MOST_HELD = 10_000
"""Most messages that are held for counting, where the broker cannot show them."""
_SHOWN = 10
"""Most ids in one line of the log."""
_BRIEF = 0.3
"""Seconds to wait for a message where the broker says that there is none."""


class _Rounds:
    """Leaves those that were replayed often enough."""

    def __init__(self, topic: str, most: int, left: Callable[[DeadLetter], None] | None) -> None:
        if most < 1:
            raise ConfigError(
                "max_rounds", f"{most!r} lets nothing be replayed", "Give a number of 1 or more, or None."
            )
        self._topic = topic
        self._most = most
        self._left = left

    def allowed(self, letters: _Letters) -> _Letters:
        """The others."""
        stay = [letter for letter in letters if letter.replays >= self._most]
        if stay:
            _log.warning(
                "%s: %d left, because of max_rounds=%d: %s",
                self._topic,
                len(stay),
                self._most,
                ", ".join(letter.id for letter in stay[:_SHOWN]) + (", …" if len(stay) > _SHOWN else ""),
            )
        for letter in stay:
            if self._left is not None:
                self._left(letter)
        return [letter for letter in letters if letter.replays < self._most]


@dataclass(frozen=True)
class _Change:
    """What is done to letters."""

    name: str
    act: Action
    pace: Pace
    progress: Progress | None = None
    rounds: _Rounds | None = None
    force: bool = True
    """Whether letters of a parked key may be taken before older ones."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """For the audit."""


class _Lines:
    """Writes letters to a file."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.count = 0

    def extend(self, letters: Iterable[DeadLetter], /) -> None:
        for letter in letters:
            self._file.write(line_of(letter) + "\n")
            self.count += 1

    def clear(self) -> None:
        if self.count:
            self._file.seek(0)
            self._file.truncate()
            self.count = 0


def _not_archived(letter: object) -> NoReturn:
    raise ConfigError(
        "restore(letters)", f"{type(letter).__name__} is not an exported letter", "Read lines with read_line."
    )


class _Into(Protocol):
    """A list of letters, or what counts them."""

    def extend(self, letters: Iterable[DeadLetter], /) -> None: ...

    def clear(self) -> None: ...


class DeadLetterQueue:
    """The dead letters of one group. :meth:`replay` and :meth:`discard` join the group ``dlq`` of the dead-letter topic
    while they run; :meth:`list` and :meth:`stats` only look, where the broker can (capability ``inspect``), and else
    join too.

    ``patience``: seconds without a message after which a member counts the queue as read. ``who``: who makes the
    changes, for the audit (``Bus(audit=)``); by default ``user@host``.
    """

    def __init__(self, core: Core, topic: str, group: str, dead_letter_topic: str, patience: float = 3.0) -> None:
        self._core = core
        self.topic = topic
        self.group = group
        self.dead_letter_topic = dead_letter_topic
        self.patience = patience
        self.who = this_user()
        self._audit = Audit(core.settings.audit)

    async def list(self, limit: int = 100, *, only: LetterFilter | None = None) -> Sequence[DeadLetter]:
        """The dead letters among the first ``limit`` messages of the topic, oldest first in each lane; they stay where
        they are. ``only``: those that fit."""
        letters = _Letters()
        await self._look(limit, letters, only)
        return self._sorted(letters)

    async def stats(self, limit: int = 100_000, *, only: LetterFilter | None = None) -> LetterStats:
        """How many there are, and of what they died: one :class:`LetterReason` for each class of exceptions, handler,
        and reason without its values.

        They stay where they are. ``limit``: how many are looked at; ``only``: count those that fit. Where the broker
        can show them without handing them over (capability ``inspect``), memory does not grow with their number, and it
        works while a replay runs: what that takes away meanwhile may be counted or not. Elsewhere at most 10,000 are
        looked at, and all of them are held for that time.
        """
        if not self._core.adapter.capabilities.inspect:
            limit = min(limit, _MOST_HELD)
        tally = Tally()
        looked = await self._look(limit, tally, only)
        return tally.stats(more=looked >= limit)

    async def _look(self, limit: int, into: _Into, only: LetterFilter | None) -> int:
        """Put the dead letters of this group that fit into ``into``, page by page where the broker can. Returns how
        many messages were looked at."""
        looked = 0
        found = False
        try:
            if not self._core.adapter.capabilities.inspect:
                raise NotExact
            async for page in pages(self._core, self.dead_letter_topic, limit):
                looked += len(page)
                letters = self._own(page)
                found = found or bool(letters)
                into.extend(_fitting(letters, only))
        except NotExact:
            into.clear()
            received = await self._read_and_give_back(limit)
            looked, letters = len(received), self._own(received)
            found = bool(letters)
            into.extend(_fitting(letters, only))
        except MissingGroup as exc:
            raise await self._missing() from exc
        if not found:
            await self._check_shared()
        return looked

    async def _is_empty(self) -> bool:
        """Whether the broker says, of all messages and at once, that there are none."""
        if not self._core.adapter.capabilities.inspect:
            return False
        try:
            async for page in pages(self._core, self.dead_letter_topic, 1):
                return not page
        except NotExact:
            return False
        except MissingGroup as exc:
            raise await self._missing() from exc
        return False

    async def _patience_now(self) -> float:
        """Seconds to wait for a message; few where the broker says that there is none."""
        if self._core.adapter.capabilities.backlog:
            try:
                backlog = await self._core.backlog(self.dead_letter_topic, DEAD_LETTER_GROUP)
            except MissingGroup as exc:
                raise await self._missing() from exc
            if backlog.exact and not backlog.lag:
                return min(self.patience, _BRIEF)  # what another reader gave back may be on its way
        return self.patience

    async def _read_and_give_back(self, limit: int) -> _Inbounds:
        patience = await self._patience_now()
        reader = await self._join(limit)
        try:
            received = await reader.read(limit, patience)
            await reader.settle((), received)
        finally:
            await reader.leave()
        return received

    async def _check_shared(self) -> None:
        """Raise MissingGroup if the group does not exist. A dead-letter topic of several groups exists whatever the
        group, and a mistyped name must not look like "no dead letters"."""
        if self.dead_letter_topic != dead_letter_topic(self.topic, self.group):
            await self._core.check_group(self.topic, self.group)

    def _own(self, received: Iterable[Inbound]) -> _Letters:
        """The dead letters of this group. The topic may hold those of several groups, because it is configured so or
        because names coincide (``a`` with ``b.c``, ``a.b`` with ``c``)."""
        read = (DeadLetter.read(inbound, self.topic, self.group) for inbound in received)
        return [letter for letter in read if (letter.topic, letter.group) == (self.topic, self.group)]

    def _sorted(self, letters: _Letters) -> _Letters:
        """Oldest first."""
        if self._core.adapter.capabilities.acknowledgement is Acknowledgement.PER_MESSAGE:
            letters.sort(key=lambda letter: letter.died)  # several members, or several queues, may have written them
        return letters

    async def replay(
        self,
        ids: _Which | None = None,
        limit: int = 100,
        *,
        only: LetterFilter | None = None,
        rate: float | None = None,
        max_rounds: int | None = None,
        left: Callable[[DeadLetter], None] | None = None,
        force: bool = False,
        progress: Progress | None = None,
    ) -> Sequence[DeadLetter]:
        """Send dead letters back to the group that failed, and to no other; all, or those with one of these ids.

        ``ids``: one id or several; dead letters, or their fingerprints. ``only``: those of them that fit. ``limit``:
        how many dead letters are looked at. ``rate``: at most so many a second. ``max_rounds``: one that was replayed
        so often already, and failed again, stays; how many do is logged, and ``left`` is called with each.
        Each is settled, in order, as soon as its replay is confirmed: done again after a crash, it goes on there. Up to
        100 are sent twice then, and none is lost; with a ``deduplication_key``, a broker that drops copies drops these,
        for some minutes at least. Their leases are extended until then. ``progress`` is called with the number
        replayed since its last call. Returns those replayed. Raises BrokerError, after settling what was already
        replayed. Raises ConfigError, before anything is replayed, for ids that are not text and for an id that several
        events have; the error names the fingerprint of each.

        Dead letters of one parked key (``dead_letter(then="park")``) are sent in the order of their events. ConfigError
        if ``ids``, ``only`` or ``max_rounds`` leave out an older one of such a key; ``force=True`` sends them all the
        same, and they are set aside again behind it. What is published under the key meanwhile is set aside too:
        another replay sends it.
        """
        rounds = None if max_rounds is None else _Rounds(self.dead_letter_topic, max_rounds, left)
        change = _Change("replay", self._send_back, Pace(rate), progress, rounds, force)
        return await self._take(change, ids, limit, only)

    async def discard(
        self,
        ids: _Which | None = None,
        limit: int = 100,
        *,
        only: LetterFilter | None = None,
        rate: float | None = None,
        progress: Progress | None = None,
    ) -> Sequence[DeadLetter]:
        """Drop dead letters for good, among the first ``limit``: those with these ids (one or several; dead letters, or
        their fingerprints), those that fit ``only``, or those of which both are true. Returns them. ConfigError as for
        :meth:`replay`, and where neither says which ones, before any is dropped. ``rate``: as there. One of a
        parked key no longer keeps those behind it."""
        if ids is None and (only is None or not only.given):
            raise ConfigError(
                "discard(ids=)", "neither ids nor a filter say which ones", "For all: discard(await queue.list(limit))."
            )
        return await self._take(_Change("discard", self._drop, Pace(rate), progress), ids, limit, only)

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

    async def edit(self, letter: DeadLetter, event: Event[Any], limit: int = 10_000) -> DeadLetter | None:
        """Replay another event in place of a letter's own, which it corrects: it has the same id and source.

        The letter is settled once the replay is confirmed; a crash in between may replay it twice. The header
        ``anybroker-edited`` goes with it; if it fails again, ``letter.edited`` says when it was edited. Returns the
        letter; None if it is not among the first ``limit`` any more. ConfigError for another id or source, and for a
        letter that is not a CloudEvent; else as :meth:`replay`.
        """
        before = event_of(letter)
        if (before.id, before.source) != (event.id, event.source):
            raise ConfigError(
                "edit(event=)",
                "has another id or source than the letter's event",
                "Make it with letter.event.replace(…).",
            )

        async def send(there: DeadLetter) -> None:
            await self._send_back(there, event)

        facts = {"before": digest_of(before), "after": digest_of(event)}
        done = await self._take(_Change("edit", send, Pace(None), force=False, facts=facts), letter, limit, None)
        return done[0] if done else None

    async def export(self, file: TextIO, limit: int = 100_000, *, only: LetterFilter | None = None) -> int:
        """Write the dead letters that fit to a text file, one JSON line each: nothing of them is lost, and
        :func:`anybroker.deadletters.read_line` reads them. They stay where they are. Returns how many were written.

        ``limit``: how many are looked at; as for :meth:`stats`. OSError where the file cannot be written.
        """
        if not self._core.adapter.capabilities.inspect:
            limit = min(limit, _MOST_HELD)
        lines = _Lines(file)
        await self._look(limit, lines, only)
        return lines.count

    async def restore(
        self, letters: Iterable[Archived], *, rate: float | None = None, progress: Progress | None = None
    ) -> int:
        """Put exported dead letters into the dead-letter topic of this group, in order, as the same letters; if another
        group exported them, as this group's. Returns how many are confirmed.

        ``rate``: at most so many a second. Done again, it puts each there again. Raises BrokerError at the first that
        fails: those before it are there, and some after it may be.
        """
        sent = [letter if isinstance(letter, Archived) else _not_archived(letter) for letter in letters]
        await self._patience_now()  # raises if there is no such topic
        facts = {"selected": len(sent)}
        async with self._audit.change("import", self.topic, self.group, self.who, facts) as entry:
            await do_each(sent, self._restore, Pace(rate), progress, entry.done)
        return len(entry.done)

    async def _restore(self, letter: Archived) -> None:
        missing = await restore(self._core.copies, self.dead_letter_topic, self.topic, self.group, letter)
        if missing:
            _log.warning("%s: these headers of an import did not fit: %s", self.dead_letter_topic, ", ".join(missing))

    async def _send_back(self, letter: DeadLetter, edited: Event[Any] | None = None) -> None:
        headers = letter.replay_headers()
        event, digest = letter.event, ""
        if edited is not None:
            event, digest = edited, digest_of(edited)
            headers |= letter.edited_now()
        # Without a secret, somebody who can read the letter could send something under this name in advance.
        name = "" if self._core.settings.deduplication_key is None else letter.fingerprint
        missing = await replay(
            self._core.copies, event, letter.topic, letter.group, headers, letter.inbound, digest, name
        )
        if missing:
            _log.warning(
                "%s: a replay is near the broker's size limit, and these of its headers were cut or left out: %s",
                self.dead_letter_topic,
                ", ".join(missing),
            )

    async def _take(
        self, change: _Change, ids: _Which | None, limit: int, only: LetterFilter | None
    ) -> Sequence[DeadLetter]:
        what = f"{change.name}(ids=)"
        names = None if ids is None else _names(what, ids)
        if await self._is_empty():
            await self._check_shared()
            return []
        patience = await self._patience_now()
        reader = await self._join(limit)
        done = _Letters()
        left: dict[Inbound, None] = {}
        found = False
        try:
            left = dict.fromkeys(await reader.read(limit, patience))
            every = self._sorted(self._own(left))
            found = bool(every)
            letters = every if names is None else named(what, every, names)
            letters = _fitting(letters, only)
            if change.rounds is not None:
                letters = change.rounds.allowed(letters)
            letters = list(in_order(what, every, letters, change.force))
            if letters:
                await self._change(reader, change, letters, names, only, done, left)
        finally:
            try:
                await reader.settle((), left)
            finally:
                await reader.leave()
        if not found:
            await self._check_shared()
        return done

    async def _change(
        self,
        reader: Reader,
        change: _Change,
        letters: _Letters,
        names: tuple[str, ...] | None,
        only: LetterFilter | None,
        done: _Letters,
        left: dict[Inbound, None],
    ) -> None:
        facts = {
            "selected": len(letters),
            "named": names is not None,
            "filter": {} if only is None else only.given,
            **change.facts,
        }
        async with self._audit.change(change.name, self.topic, self.group, self.who, facts) as entry:
            try:
                await settle_each(
                    reader, self.dead_letter_topic, letters, change.act, change.pace, change.progress, done, left
                )
            finally:
                entry.done += [letter.id for letter in done]

    async def _missing(self) -> MissingGroup:
        """What to raise where the dead-letter topic is not there; raises it for the group itself if that is not."""
        await self._core.check_group(self.topic, self.group)
        return MissingGroup(
            f"{self.topic}/{self.group}",
            f"the group exists, but its dead-letter topic {self.dead_letter_topic!r} does not",
            'Start its subscription once with provision="create", or configure the topic that has them '
            "(topics.<name>.dead_letter).",
        )

    async def _join(self, limit: int) -> Reader:
        capabilities = self._core.adapter.capabilities
        reader = Reader(capabilities.acknowledgement is Acknowledgement.CUMULATIVE)
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


def _fitting(letters: _Letters, only: LetterFilter | None) -> _Letters:
    return letters if only is None else [letter for letter in letters if only.matches(letter)]
