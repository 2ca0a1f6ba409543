"""Doing something to each of many letters, several at once, and settling them in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from ..adapter import Inbound
from ..errors import BrokerError
from ..kit.pace import Pace
from ..printable import logger
from .archive import Archived
from .letter import DeadLetter
from .reader import Reader

__all__ = ["Action", "Progress", "do_each", "settle_each"]

_log = logger("anybroker.dead_letters")

_AT_ONCE = 100
"""Most replays in progress at once: this many may be replayed twice after a crash."""

Action = Callable[[DeadLetter], Awaitable[None]]
Progress = Callable[[int], None]
"""Called with the number that were replayed or discarded since the last call."""


async def settle_each(
    reader: Reader,
    topic: str,
    letters: Iterable[DeadLetter],
    action: Action,
    pace: Pace,
    progress: Progress | None,
    done: list[DeadLetter],
    left: dict[Inbound, None],
) -> None:
    """Process each, several at once, and settle each in order when it is done: it is then in ``done``, and no longer in
    ``left``. Raises the first failure; no other is started after it. ``topic``: of the dead letters, for the log."""
    rest = iter(letters)
    waiting = next(rest, None)
    under_way: deque[tuple[DeadLetter, asyncio.Future[None]]] = deque()
    failure: BaseException | None = None
    try:
        while True:
            soon: float | None = None
            while failure is None and waiting is not None and len(under_way) < _AT_ONCE:
                if soon := pace.wait():
                    break
                if waiting.inbound not in reader.not_ours:
                    pace.started()
                    under_way.append((waiting, asyncio.ensure_future(action(waiting))))
                waiting = next(rest, None)
            if under_way:
                await asyncio.wait((under_way[0][1],), timeout=soon or None)
            elif soon:
                await asyncio.sleep(soon)
            else:
                break
            ended = list[DeadLetter]()
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
                _log.warning("%s: replayed or discarded letters may still be there: %s", topic, exc)
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


async def do_each(
    letters: Iterable[Archived],
    action: Callable[[Archived], Awaitable[None]],
    pace: Pace,
    progress: Progress | None,
    done: list[str],
) -> None:
    """Process each, several at once, without a queue to settle them in; the ids of those that are done, in order, are
    in ``done``. Raises the first failure; no other is started after it."""
    under_way: deque[tuple[Archived, asyncio.Future[None]]] = deque()

    async def end_first() -> None:
        letter, doing = under_way[0]
        await asyncio.wait((doing,))
        under_way.popleft()
        doing.result()
        done.append(letter.id)
        if progress is not None:
            progress(1)

    try:
        for letter in letters:
            while len(under_way) >= _AT_ONCE:
                await end_first()
            if wait := pace.wait():
                await asyncio.sleep(wait)
            while under_way and under_way[0][1].done():
                await end_first()
            pace.started()
            under_way.append((letter, asyncio.ensure_future(action(letter))))
        while under_way:
            await end_first()
    finally:
        for _, doing in under_way:
            doing.cancel()
        if under_way:
            await asyncio.wait([doing for _, doing in under_way])
