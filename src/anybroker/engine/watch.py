"""Looking from outside at what runs: slow handlers, a blocked event loop, and since when there is a problem."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from time import monotonic, time
from typing import Any, Protocol

from ..delivery import Delivery
from ..printable import logger
from .facts import about_delivery, named
from .observing import Observers
from .seldom import Seldom

__all__ = ["BLOCKED", "Guard", "Watch", "Watched"]

_log = logger("anybroker.loop")
_health_log = logger("anybroker.health")

BLOCKED = 1.0
"""Seconds without a turn after which the event loop counts as blocked."""
_BEAT = 0.25
"""Seconds between two beats of the event loop, and between two looks at them."""
_EVERY = 1.0
"""Seconds between two looks at what runs."""
_QUIET = 10.0
"""Seconds for which nothing is said of what is away again so soon."""
_AGAIN = 10
"""It is said again that the loop is blocked when that lasts so many times as long."""
_FRAMES = 4
"""How many frames of the stack are shown, innermost last."""


class Watched(Protocol):
    """A subscription, as far as it is watched."""

    @property
    def slow_after(self) -> float:
        """Seconds after which a handler that still runs is slow."""
        ...

    def handling(self) -> list[Delivery]:
        """What is handled now."""
        ...

    def handled_in(self, task: asyncio.Task[object] | None, /) -> Delivery | None:
        """What this task handles now. Called in any thread."""
        ...

    def look(self) -> None:
        """Called each second."""
        ...


class Looks(Protocol):
    """What is asked to look at itself."""

    def look(self) -> None:
        """Called each second."""
        ...


class Watch:
    """Looks at the subscriptions of one Bus each second, while it runs."""

    def __init__(
        self,
        subscriptions: Callable[[], Iterable[Watched]],
        problems: Callable[[], Iterable[str]],
        unavailable: Callable[[], Mapping[str, str]],
        observers: Observers,
        publisher: Callable[[], Looks | None],
    ) -> None:
        """``problems``: the names of those that there are. ``unavailable``: by name, those for which the Bus is not
        ready. ``publisher``: None while there is none."""
        self._publisher = publisher
        self._subscriptions = subscriptions
        self._problems = problems
        self._unavailable = unavailable
        self._away: dict[str, float] = {}
        """By name, since when it is away, of what that was said of."""
        self._back: dict[str, float] = {}
        """By name, when it came back."""
        self._observers = observers
        self._running: dict[Delivery, float] = {}
        self._due: dict[Delivery, float] = {}
        """By what has been told to be slow, after how many seconds of its handler it is told again."""
        self._guard = Guard(self._handled_in, observers)
        self._timer: asyncio.TimerHandle | None = None
        self._say = Seldom()
        self.since: dict[str, float] = {}
        """By the name of a problem, when it was first seen: seconds since the epoch."""

    def start(self) -> None:
        """Begin."""
        self._guard.start()
        self._look()

    def stop(self) -> None:
        """End. What was seen is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
        self._guard.stop()
        self._running.clear()
        self._due.clear()
        self._away.clear()
        self._back.clear()

    @property
    def blocked_for(self) -> float:
        """Seconds without a turn of the event loop, 0.0 while it turns. Readable in any thread."""
        return self._guard.blocked_for

    def _handled_in(self, task: asyncio.Task[Any] | None) -> Delivery | None:
        found = (each.handled_in(task) for each in self._subscriptions())
        return next((delivery for delivery in found if delivery is not None), None)

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_EVERY, self._look)
        try:
            self._look_at_handlers()
            if (publisher := self._publisher()) is not None:
                publisher.look()
            now = time()
            self.since = {name: self.since.get(name, now) for name in self._problems()}
            self._look_at_readiness()
        except Exception:  # noqa: BLE001 - what is watched must not depend on the one who watches
            if self._say():
                _log.exception("looking at what runs failed; it is tried again each second")

    def _look_at_handlers(self) -> None:
        now = monotonic()
        running: dict[Delivery, float] = {}
        for subscription in self._subscriptions():
            subscription.look()
            for delivery in subscription.handling():
                began = running[delivery] = self._running.get(delivery, now)
                due = self._due.get(delivery, subscription.slow_after)
                if now - began >= due - _EVERY / 2:
                    self._due[delivery] = 2 * max(due, now - began)
                    if self._observers.slow is not None:
                        self._observers.slow(delivery, now - began)
        self._running = running
        self._due = {delivery: due for delivery, due in self._due.items() if delivery in running}

    def _look_at_readiness(self) -> None:
        now = monotonic()
        unavailable = self._unavailable()
        for name in [name for name in self._away if name not in unavailable]:
            _health_log.info("%s: ready again, after %.0f s", name, now - self._away.pop(name))
            self._back[name] = now
        for name, why in unavailable.items():
            if name not in self._away and now - self._back.get(name, -_QUIET) >= _QUIET:
                self._away[name] = now
                _health_log.warning("%s: not ready: %s", name, why)


class Guard:
    """A thread that says what blocks the event loop while it is blocked, so also where that never ends."""

    def __init__(self, handled_in: Callable[[asyncio.Task[Any] | None], Delivery | None], observers: Observers) -> None:
        """``handled_in``: what a task handles. Called in the thread."""
        self._handled_in = handled_in
        self._observers = observers
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beat = 0.0
        self._blocked_since: float | None = None
        self._say_after = BLOCKED
        """Seconds without a turn after which that is said next."""
        self._culprit: Delivery | None = None

    @property
    def blocked_for(self) -> float:
        """Seconds without a turn of the event loop, 0.0 while it turns. Readable in any thread."""
        late = monotonic() - self._beat
        return late if self._thread is not None and late > BLOCKED else 0.0

    def start(self) -> None:
        """Begin to guard the loop that runs here."""
        loop = asyncio.get_running_loop()
        self._ended.clear()
        self._beats(loop)
        self._thread = threading.Thread(
            target=self._guard, args=(loop, threading.get_ident()), name="anybroker guard", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End. The thread ends within moments."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)

    def _beats(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the loop: it turns."""
        now = monotonic()
        self._timer = loop.call_later(_BEAT, self._beats, loop)
        since, self._blocked_since = self._blocked_since, None
        self._beat = now
        if since is not None:
            culprit, self._culprit = self._culprit, None
            _log.warning("the event loop goes on after %.1f s", now - since)
            if self._observers.blocked is not None:
                self._observers.blocked(now - since, culprit)

    def _guard(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        """In the thread."""
        before = monotonic()
        while not self._ended.wait(_BEAT) and not loop.is_closed():
            if not loop.is_running():  # it was stopped, which is not blocked
                self._beat = before = monotonic()
                continue
            now, beat = monotonic(), self._beat
            slept, before = now - before, now
            if slept > BLOCKED:
                _log.warning(
                    "this process did not run for %.1f s: it was stopped, the machine is overloaded, or a C function "
                    "kept the interpreter's lock",
                    slept,
                )
                self._ended.wait(BLOCKED)  # the loop has its chance to beat first
                before = monotonic()
                continue
            if self._blocked_since != beat:  # it has turned since then
                self._say_after = BLOCKED
            if now - beat > self._say_after:
                self._blocked_since = beat
                self._say_after = _AGAIN * (now - beat)
                self._tell(loop, ident, now - beat)

    def _tell(self, loop: asyncio.AbstractEventLoop, ident: int, seconds: float) -> None:
        frame = sys._current_frames().get(ident)
        stack = traceback.extract_stack(frame)[-_FRAMES:] if frame is not None else []
        where = " > ".join(f"{each.filename}:{each.lineno} {each.name}" for each in stack)
        try:
            delivery = self._culprit = self._handled_in(asyncio.current_task(loop))
        except RuntimeError:  # what is looked at changes meanwhile
            delivery = None
        if delivery is None:
            _log.warning("the event loop has been blocked for %.1f s, not by a handler: %s", seconds, where)
            return
        _log.warning(
            "the event loop has been blocked for %.1f s by the handler %s of %s/%s, with %s: %s",
            seconds,
            delivery.handler,
            delivery.topic,
            delivery.group,
            named(delivery.event),
            where,
            extra=about_delivery(delivery),
        )
