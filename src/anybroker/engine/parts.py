"""What lives and dies with a Bus beside its subscriptions: relays, timers, projections, servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from inspect import iscoroutinefunction
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from ..errors import ConfigError, StateError
from ..printable import brief, logger
from .calls import bounded, cancelled_by_nobody

__all__ = ["Added", "Part", "Parts"]

_log = logger("anybroker.bus")

_STOP_GRACE = 10.0
"""Seconds that a part may take beyond the drain time. The rest of the Bus is closed then all the same."""


@runtime_checkable
class Part(Protocol):
    """Started with a Bus and stopped with it: ``bus.add(part)``.

    Parts start in the order in which they were added, after the connection and before the subscriptions (those that are
    added to a running Bus: at once); they stop in reverse order of their starts, after the subscriptions and before the
    connection, so that they can publish from start to end. When the Bus starts again, so do its parts.

    Three things more a part may have. ``attach(bus)``: called by ``bus.add`` with the Bus, before the part starts; what
    it raises, ``add`` raises, and the part is not added. ``early = True``: it starts before the connection, so it must
    not publish then, and stops after the other parts. On a running Bus that changes nothing. ``async pending()``: what
    waits in it for the broker, for :meth:`anybroker.Observer.pending`.
    """

    @property
    def name(self) -> str:
        """Unique in its Bus. It names the part in ``bus.problems`` and in logs."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it does not work now; None while it does. Read at any time, also before the start."""
        ...

    async def start(self) -> None:
        """Begin, and return once it works. If it raises or is cancelled it must leave nothing open. The start of the
        Bus raises the same error."""
        ...

    async def stop(self, drain: float, /) -> None:
        """End, and leave nothing behind. What is under way may take ``drain`` seconds. It is called once for each
        start."""
        ...


@runtime_checkable
class Attaches(Protocol):
    """A part that wants to know its Bus."""

    def attach(self, bus: Any, /) -> None:
        """Called with the Bus that it is added to."""
        ...


@runtime_checkable
class StartsEarly(Protocol):
    """A part that may start before the connection."""

    @property
    def early(self) -> bool:
        """Whether it does."""
        ...


_RESERVED = ("publish", "lag")

_P = TypeVar("_P", bound=Part)


class Added(Generic[_P]):
    """What ``bus.add(part)`` returns. On a running Bus, awaiting it waits for the part's start, and raises what that
    raised; on one that does not run there is nothing to wait for. Its result is the part."""

    __slots__ = ("_starting", "part")

    def __init__(self, part: _P, starting: asyncio.Task[None] | None) -> None:
        self.part = part
        self._starting = starting

    def __await__(self) -> Generator[Any, Any, _P]:
        """The part, once it is started."""
        if self._starting is not None:
            try:
                yield from asyncio.shield(self._starting).__await__()
            except asyncio.CancelledError as exc:
                if self._starting.cancelled() and cancelled_by_nobody():
                    raise StateError("add: the Bus was closed before the start had ended") from exc
                raise
        return self.part


class Parts:
    """The parts of one Bus."""

    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}
        self._started: list[Part] = []
        self._failed: dict[str, str] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._stopping: asyncio.Task[None] | None = None

    def add(self, part: Part, bus: object) -> None:
        """Have it started with the Bus, and tell it which one that is, if it wants to know. ConfigError for what is not
        a Part, or has the name of another one."""
        if isinstance(part, type) or not isinstance(part, Part) or not _is_async(part):
            raise ConfigError(
                "bus.add(part)",
                f"{type(part).__name__} is not a Part",
                "Give an object with name, problem, async start() and async stop(drain).",
            )
        if part.name in _RESERVED:
            raise ConfigError(f"bus.add(part) {part.name!r}", "is a name of the Bus's own problems", "Rename the part.")
        if part.name in self._parts:
            raise ConfigError(f"bus.add(part) {part.name!r}", "has the name of another part", "Give it its own name.")
        if isinstance(part, Attaches):
            part.attach(bus)
        self._parts[part.name] = part

    def start_now(self, part: Part, context: Context) -> asyncio.Task[None]:
        """Start one that was added to a running Bus. If its start fails it is removed, and the failure stays in the
        problems until the next start."""

        async def start() -> None:
            try:
                await part.start()
            except Exception:
                self._parts.pop(part.name, None)
                raise
            self._started.append(part)

        return self.start_late(part.name, start(), context)

    def start_late(self, name: str, start: Coroutine[Any, Any, None], context: Context) -> asyncio.Task[None]:
        """Run what starts something in a running Bus. Its failure is logged, and a problem until it, or the Bus, starts
        again. StateError where it is being started already."""
        if name in self._starting:
            start.close()
            raise StateError(f"add: {name} is being started already")

        async def run() -> None:
            try:
                await start
            except Exception as exc:
                self._failed[name] = brief(f"did not start: {exc!r}")
                _log.exception("%s did not start in the running Bus", name)
                raise
            finally:
                self._starting.pop(name, None)
            self._failed.pop(name, None)

        # Not by the loop's factory: an eager task would run before it is noted. The context is a copy: a handler may
        # have added it, and what is started must not be a consequence of that handler's event.
        self._starting[name] = task = asyncio.Task(
            run(), loop=asyncio.get_running_loop(), name=f"anybroker start {name}", context=context.copy()
        )
        task.add_done_callback(_take_note)
        return task

    async def abandon_starts(self, drain: float) -> None:
        """Cancel the starts that are under way in a running Bus, and wait for their ends, at most ``drain`` seconds and
        a second."""
        starting = dict(self._starting)
        for task in starting.values():
            task.cancel()
        if starting:
            _, left = await asyncio.wait(starting.values(), timeout=drain + 1.0)
            for name, task in starting.items():
                if task in left:
                    _log.error("the start of %s ignores its cancellation and is left behind", name)

    async def start_early(self) -> None:
        """Start those that do not need the connection. As :meth:`start`, which is to follow."""
        self._failed.clear()
        await self._start_all([part for part in self._parts.values() if _is_early(part)])

    async def start(self) -> None:
        """Start the others, in order. Raises what one raises. Those before it stay started: the caller stops them."""
        await self._start_all([part for part in self._parts.values() if not _is_early(part)])

    async def _start_all(self, parts: list[Part]) -> None:
        for part in parts:
            await part.start()
            self._started.append(part)

    async def stop(self, drain: Callable[[], float]) -> None:
        """Stop those that are started, the last one first. ``drain``: the seconds that are left. What goes wrong is
        logged."""
        while self._started:
            part, left = self._started.pop(), drain()
            stopping = bounded(part.stop(left), left + _STOP_GRACE, f"part {part.name}: stopping")
            self._stopping = asyncio.create_task(stopping, name=f"anybroker stop {part.name}")
            await asyncio.wait([self._stopping])

    @property
    def started(self) -> list[Part]:
        """Those that run."""
        return list(self._started)

    def give_up(self) -> None:
        """Cancel the stop that is under way."""
        if self._stopping is not None:
            self._stopping.cancel()

    @property
    def problems(self) -> dict[str, str]:
        """By name, in printable text."""
        found = dict(self._failed)
        for name, part in list(self._parts.items()):
            try:
                problem = part.problem
            except Exception as exc:  # noqa: BLE001 - what looks at the Bus must see the rest
                problem = f"does not say how it is: {exc!r}"
            if problem is not None:
                found[name] = brief(problem)
        return found


def _is_early(part: Part) -> bool:
    return isinstance(part, StartsEarly) and part.early


def _is_async(part: Part) -> bool:
    return iscoroutinefunction(part.start) and iscoroutinefunction(part.stop)


def _take_note(task: asyncio.Task[None]) -> None:
    """Its failure is logged: asyncio need not complain that nothing awaited it."""
    if not task.cancelled():
        task.exception()
