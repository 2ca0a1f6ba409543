"""Telling observers what waits for groups, and how many dead letters they have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from ..adapter import Backlog
from ..errors import AnybrokerError, Unavailable, exc_info_of, text_of
from ..printable import logger
from .seldom import Seldom

__all__ = ["EVERY", "LagWatch"]

_log = logger("anybroker.broker")

_MOST = 5
"""How many groups are named whose backlog is not known."""

EVERY = 15.0
"""Seconds between two questions to the broker."""


class LagWatch:
    """Asks for the backlog of each group, and the number of its dead letters where somebody wants to know. Where the
    broker does not answer, or has no such group, it asks again the next time."""

    name = "lag"

    def __init__(
        self,
        groups: Callable[[], Iterable[tuple[str, str]]],
        backlog: Callable[[str, str], Awaitable[Backlog]],
        tell: Callable[[str, str, Backlog], None] | None,
        depth: Callable[[str, str], Awaitable[int]] | None = None,
        tell_depth: Callable[[str, str, int], None] | None = None,
    ) -> None:
        """``groups``: the topics and groups to ask for, asked each time."""
        self._groups = groups
        self._backlog = backlog
        self._tell = tell
        self._depth = depth
        self._tell_depth = tell_depth
        self._task: asyncio.Task[None] | None = None
        self._say: dict[tuple[str, str], Seldom] = {}
        """Of each group, so that one that is never there does not hide what is wrong with another."""
        self.last: dict[tuple[str, str], Backlog] = {}
        """By topic and group, what the broker said the last time, if it answered then."""
        self.problem: str | None = None
        """What the broker said last instead of an answer, of some groups."""

    async def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.create_task(self._run(), name="anybroker lag")

    async def stop(self, _drain: float, /) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            problems: list[str] = []
            due: list[str] = []  # of these it is said
            bug: Exception | None = None
            for topic, group in self._groups():
                try:
                    await self._ask_in_time(topic, group)
                except Exception as exc:  # noqa: BLE001 - the next round asks again, whatever the adapter raised
                    self.last.pop((topic, group), None)
                    problem = f"the backlog of {topic}/{group} is not known: {type(exc).__name__}: {text_of(exc)}"
                    problems.append(problem)
                    if self._say.setdefault((topic, group), Seldom())():
                        due.append(problem)
                        bug = bug if isinstance(exc, AnybrokerError) else exc
            self.problem = _together(problems)
            if due:
                _log.warning("%s", _together(due), exc_info=None if bug is None else exc_info_of(bug))
            await asyncio.sleep(EVERY)

    async def _ask_in_time(self, topic: str, group: str) -> None:
        """One group that the broker never answers must not keep the others from being asked for."""
        limit = asyncio.timeout(EVERY)
        try:
            async with limit:
                await self._ask(topic, group)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise Unavailable(f"the broker did not answer within {EVERY:g} s") from exc

    async def _ask(self, topic: str, group: str) -> None:
        backlog = await self._backlog(topic, group)  # first: of a mistyped group nothing must be told
        self.last[topic, group] = backlog
        if self._tell is not None:
            self._tell(topic, group, backlog)
        if self._depth is not None and self._tell_depth is not None:
            self._tell_depth(topic, group, await self._depth(topic, group))


def _together(problems: list[str]) -> str | None:
    if not problems:
        return None
    more = len(problems) - _MOST
    return "; ".join(problems[:_MOST]) + (f"; and {more} more groups" if more > 0 else "")
