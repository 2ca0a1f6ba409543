"""One replay: what is read, filtered, sent, and written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapter import Foreign, Peeked, ReadsHistory
from ..cloudevents.event import Event
from ..engine.core import Core
from ..errors import ConfigError, text_of
from ..handlers.signature import handler_name
from ..kit.pace import Pace
from ..names import check_stored, one_or_several
from ..printable import brief, logger
from .bounds import Bound, check_bound, extent, written
from .cursor import Cursor
from .handling import Handling
from .outcome import Replayed, ReplayFailure, ReplayProgress
from .reading import Reading
from .targets import Sent, Target, to_group, to_topic

__all__ = ["Wanted", "replay"]

_log = logger("anybroker.history")
_KEPT = 1_000
"""Failures in the result."""
_READ = 2_000
"""Events read at once where nothing is sent."""
_QUIET = 1.0
"""Seconds after which the file is written although nothing was sent."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a caller asked for."""

    topic: str
    from_: Bound
    to: Bound
    group: str | None
    handler: Callable[..., object] | None
    into: str | None
    types: str | Iterable[str]
    keys: str | Iterable[str]
    where: Callable[[Event[Any]], object] | None
    rate: float | None
    resume: str | Path | None
    dry_run: bool
    stop_on_failure: bool
    progress: Callable[[ReplayProgress], None] | None

    @property
    def target(self) -> str:
        """In words."""
        if self.group is not None:
            return f"group {self.group}"
        if self.into is not None:
            return f"topic {self.into}"
        return "" if self.handler is None else f"handler {handler_name(self.handler)}"


async def replay(core: Core, wanted: Wanted) -> Replayed:
    """See :meth:`anybroker.Bus.replay`."""
    core.check_started("replay")
    topic = wanted.topic
    check_stored(topic, None)
    check_bound("from_", wanted.from_)
    check_bound("to", wanted.to)
    types = frozenset(one_or_several("replay(type=)", wanted.types))
    keys = frozenset(one_or_several("replay(key=)", wanted.keys))
    if wanted.rate is not None and not 0 < wanted.rate < float("inf"):
        raise ConfigError("replay(rate=)", f"{wanted.rate!r} is not a number of events a second over 0")
    chosen = [name for name in ("group", "handler", "into") if getattr(wanted, name) is not None]
    if len(chosen) > 1 or not (chosen or wanted.dry_run):
        raise ConfigError(
            "replay(group=, handler=, into=)",
            f"{' and '.join(chosen) or 'none of them'} is given",
            "Give one: a group of the topic, a function, or another topic.",
        )
    adapter = core.adapter
    adapter.capabilities.require(
        "history",
        setting=f"replay of {topic!r}",
        remedy="Use a broker that keeps what was consumed ('anybroker adapters' lists what each can do).",
    )
    assert isinstance(adapter, ReadsHistory)
    told = {
        "broker": adapter.capabilities.adapter,
        "topic": topic,
        "target": wanted.target,
        "from": written(wanted.from_),
        "to": written(wanted.to),
        "types": sorted(types),
        "keys": sorted(keys),
    }
    path = None if wanted.resume is None else Path(wanted.resume)
    lanes = await extent(adapter, topic, wanted.from_, wanted.to)
    if path is not None and path.exists():
        cursor = Cursor.read(path, told)
        _skip_deleted(cursor, topic, lanes)
    else:
        cursor = Cursor(told, lanes, {lane: begin for lane, (begin, _) in lanes.items()}, path)
    target = await _target(core, wanted, cursor)
    run = _Run(Reading(adapter, topic, cursor.lanes), cursor, target, wanted, types, keys)
    try:
        if target is None or wanted.dry_run:
            return await run.count()
        await _write(cursor)  # now, so that a file that cannot be written is an error before anything is sent
        return await run.send(target)
    finally:
        if target is not None:
            await target.close()


def _skip_deleted(cursor: Cursor, topic: str, lanes: dict[str, tuple[int, int]]) -> None:
    """Where the broker has deleted what was to come next, go on behind it. Where the start is a moment, what it has
    not deleted is the same as before."""
    for lane, (at, end) in cursor.lanes.items():
        if lane not in lanes:
            raise ConfigError("replay(resume=)", f"{topic!r} has no lane {lane!r} any more", "Begin anew.")
        begin = lanes[lane][0]
        if at < min(begin, end):
            _log.warning(
                "%s: positions %d to %d were deleted before they were replayed, and are left out", lane, at, begin - 1
            )
            cursor.lanes[lane] = min(begin, end), end


async def _target(core: Core, wanted: Wanted, cursor: Cursor) -> Target | None:
    """None: only count. The target is checked all the same."""
    target: Target | None = None
    if wanted.group is not None:
        target = await to_group(core, wanted.topic, wanted.group)
    elif wanted.handler is not None:
        target = Handling(core, wanted.topic, wanted.handler, cursor.run)
        if not wanted.dry_run:
            await core.stores.open()
    elif wanted.into is not None and not wanted.dry_run:  # a dry run makes no topic
        target = await to_topic(core, wanted.topic, wanted.into)
    return target


class _Run:
    """Counts what matches, or sends it."""

    def __init__(
        self,
        reading: Reading,
        cursor: Cursor,
        target: Target | None,
        wanted: Wanted,
        types: frozenset[str],
        keys: frozenset[str],
    ) -> None:
        self._reading = reading
        self._cursor = cursor
        self._target = target
        self._wanted = wanted
        self._types = types
        self._keys = keys
        self._failures: list[ReplayFailure] = []
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._written = self._began
        self._pace = Pace(wanted.rate)

    def _matches(self, item: Peeked) -> bool:
        event = item.event
        if self._keys and item.key not in self._keys:
            return False
        if isinstance(event, Foreign):
            if self._types or self._wanted.where is not None:
                return False
        else:
            if self._types and event.type not in self._types:
                return False
            if self._wanted.where is not None and not self._wanted.where(event):
                return False
        return self._target is None or self._target.takes(item)

    async def count(self) -> Replayed:
        """Read what is left up to the end, and send nothing."""
        cursor = self._cursor
        cursor.counts = dict.fromkeys(cursor.counts, 0)
        self._tell()
        while batch := await self._reading.take(_READ):
            for item in batch:
                self._pass(item, self._matches(item))
            self._tell()
        cursor.finish()
        self._tell()
        return self._result(True)

    def _pass(self, item: Peeked, matched: bool) -> None:
        self._cursor.done(item)
        self._cursor.counts["read"] += 1
        self._cursor.counts["matched"] += matched

    async def send(self, target: Target) -> Replayed:
        """Send what matches, batch by batch, and write down how far it is after each."""
        cursor = self._cursor
        self._tell()
        size = target.batch if self._wanted.rate is None else max(1, min(target.batch, int(self._wanted.rate / 4)))
        try:
            while batch := await self._reading.take(size):
                if not await self._send(target, batch):
                    return self._result(False)
            cursor.finish()
        finally:
            await _write(cursor)
        self._tell()
        return self._result(True)

    async def _send(self, target: Target, batch: list[Peeked]) -> bool:
        """Send one batch. False: it stopped at a failure. Raises BrokerError."""
        matched = [item for item in batch if self._matches(item)]
        if matched:
            if wait := self._pace.wait():
                await asyncio.sleep(wait)
            self._pace.started(len(matched))
        sent: dict[int, Sent] = {}
        try:
            async with aclosing(target.send(matched, self._cursor)) as sending:
                async for result in sending:
                    sent[id(result.item)] = result
                    if result.error is not None and self._wanted.stop_on_failure:
                        break
        finally:  # what was done before a cancellation counts too
            stopped = self._note(batch, matched, sent)
        if stopped is not None:
            self._cursor.tries += 1
            if stopped.ends and stopped.error is not None:
                raise stopped.error
            return False
        if matched or self._loop.time() - self._written > _QUIET:
            await _write(self._cursor)
            self._written = self._loop.time()
        self._tell()
        return True

    def _note(self, batch: list[Peeked], matched: list[Peeked], sent: dict[int, Sent]) -> Sent | None:
        """Go on in each lane up to the first event that has to be sent again. The first result that ends this."""
        counts = self._cursor.counts
        wanted = set(map(id, matched))
        held: set[str] = set()
        stopped: Sent | None = None
        for item in batch:
            if item.lane in held:
                continue
            result = sent.get(id(item))
            if id(item) not in wanted:
                self._pass(item, False)
            elif result is None:  # one before it stopped this, or a cancellation
                held.add(item.lane)
            elif result.error is None:
                self._pass(item, True)
                counts["replayed"] += 1
                counts["duplicates"] += result.duplicate
            else:
                self._failed(result)
                if result.ends or self._wanted.stop_on_failure:
                    held.add(item.lane)
                    stopped = stopped or result
                else:
                    self._pass(item, True)
                    counts["failed"] += 1
        return stopped

    def _failed(self, result: Sent) -> None:
        item = result.item
        place = f"{item.lane}@{item.position}"
        id_ = place if isinstance(item.event, Foreign) else item.event.id
        told = f"{type(result.error).__name__}: {text_of(result.error)}" if result.error else ""
        if len(self._failures) < _KEPT:
            self._failures.append(ReplayFailure(id_, place, brief(told)))
        _log.warning("%s: an event was not replayed into %s: %s", place, self._wanted.target, told)

    def _tell(self) -> None:
        if self._wanted.progress is not None:
            cursor = self._cursor
            self._wanted.progress(
                ReplayProgress(cursor.passed, cursor.total, cursor.counts["matched"], cursor.counts["replayed"])
            )

    def _result(self, complete: bool) -> Replayed:
        return Replayed(
            topic=self._wanted.topic,
            target=self._wanted.target,
            failures=tuple(self._failures),
            complete=complete,
            seconds=self._loop.time() - self._began,
            **self._cursor.counts,
        )


async def _write(cursor: Cursor) -> None:
    if cursor.path is None:
        return
    try:
        await asyncio.shield(asyncio.to_thread(cursor.write, cursor.written()))
    except OSError as exc:
        raise ConfigError("replay(resume=)", f"{cursor.path} cannot be written: {exc}", "Name another file.") from exc
