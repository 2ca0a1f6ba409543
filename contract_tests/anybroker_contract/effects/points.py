"""Named points at which a program of a run kills itself with SIGKILL."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable

from anybroker_postgres.connection import Connection

from ..faults.history import Writer

__all__ = ["ENVIRONMENT", "POINTS", "STOP", "Points", "send_commit"]

STOP = "stop"

ENVIRONMENT = "ANYBROKER_EFFECTS_POINT"
"""``point:passes``: armed from the start; else the run arms a program by a line on its standard input."""

POINTS = {
    "worker": ("before-effect", "after-effect", "after-publish", "in-commit", "after-commit"),
    "relay": ("before-send", "after-send", "before-delete", "after-delete"),
    "last": ("after-effect", "in-commit", "after-commit"),
    "shop": ("after-publish", "in-commit"),
}
"""By program. ``in-commit``: COMMIT was sent, its answer not read. ``after-commit``: before the event is acknowledged.
``after-send``: the broker has the event, its row is there; ``before-delete`` the same for a batch."""


class Points:
    """Of one process. At most one is armed at a time."""

    def __init__(self, role: str, history: Writer) -> None:
        self._role = role
        self._history = history
        self._lock = threading.Lock()
        self._armed: str | None = None
        self.stopped = False
        """The shop has been told to sell no more."""
        self._left = 0
        if given := os.environ.get(ENVIRONMENT):
            self.arm(given)

    def told(self, line: str) -> None:
        """A line of standard input: ``stop``, or what :meth:`arm` reads."""
        if line == STOP:
            self.stopped = True
        else:
            self.arm(line)

    def arm(self, text: str) -> None:
        """``point:passes``: die when the point is passed for that time; from any thread."""
        name, _, passes = text.partition(":")
        with self._lock:
            self._armed, self._left = name, int(passes or 1)

    def reached(self, name: str) -> bool:
        """Whether to die now, counting this pass."""
        if self._armed != name:  # the path of nearly every call
            return False
        with self._lock:
            self._left -= 1
            return self._left <= 0

    def die(self, name: str) -> None:
        """Say so in the history, and be gone."""
        number = f"{os.getpid()}-{name}"
        self._history.write("fault", name=f"{self._role} killed {name}", number=number, target=os.getpid(), point=name)
        self._history.write("over", name=name, number=number)
        os.kill(os.getpid(), signal.SIGKILL)

    def pass_(self, name: str) -> None:
        """A program calls this where it passes the point."""
        if self.reached(name):
            self.die(name)

    def watch_commits(self) -> None:
        """Make ``in-commit`` a point of every connection of the store in this process."""
        commit: Callable[[Connection], object] = Connection.commit
        points = self

        async def dying(self: Connection) -> None:
            if points.reached("in-commit"):
                send_commit(self)
                points.die("in-commit")
            await commit(self)  # type: ignore[misc] # it is the method

        Connection.commit = dying  # type: ignore[method-assign] # in this process of a test only


def send_commit(connection: object) -> None:
    """Send COMMIT and do not wait for the answer: nobody will read it."""
    raw = connection.pgconn  # type: ignore[attr-defined] # of psycopg
    raw.send_query(b"COMMIT")
    for _ in itertools.takewhile(bool, iter(raw.flush, 0)):
        pass
