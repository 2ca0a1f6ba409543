"""What the suite needs from the author of an outbox: how to make it, what it declares, and what can be done to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from anybroker import Sink
from anybroker.outbox import OutboxTable

from .._disturbances import DISTURBANCES, Disturbable
from ..harness import BrokerUnavailable

__all__ = ["DECLARED", "DISTURBANCES", "EXTRAS", "BrokerUnavailable", "Outbox", "OutboxHarness", "Writer"]

DECLARED = ("aborts", "concurrent", "server", "whole")
"""What a harness declares of its outbox."""
EXTRAS = frozenset({"store", "dead_rows"})
"""What else a harness may have."""


class Outbox(Sink, OutboxTable, Protocol):
    """Both sides in one object: what is given to ``Bus(sinks=[…])`` and to ``OutboxRelay(…)``."""


class Writer(Protocol):
    """A transaction of the application. It begins with the first use, and again after each end."""

    within: Any
    """What is given to ``publish(within=)``."""

    async def effect(self, text: str) -> None:
        """Write ``text`` in this transaction, beside the events."""

    async def fail(self) -> None:
        """Let a statement fail that aborts the transaction, where the database has such a thing."""

    async def commit(self) -> None:
        """End it: all of it is there."""

    async def rollback(self) -> None:
        """End it: nothing is there."""

    async def close(self) -> None:
        """Close the connection, which rolls back what is open."""


class OutboxHarness(Disturbable):
    """One kind of outbox under test. Subclass it, set ``name``, and override what yours needs.

    The session's process calls :meth:`setup` once; its text reaches every worker process through :meth:`attach`; each
    test calls :meth:`place` and :meth:`prepare`, then :meth:`outbox` and :meth:`writer` as often as it needs objects;
    at the end the session's process calls :meth:`teardown`. Tests that disturb the server run on a second one, set up,
    and torn down, by the process that runs them. A child process of a test imports the class, and calls ``attach`` and
    ``outbox``.

    What is declared (``aborts``, ``concurrent``, ``server``, ``whole``) decides which tests apply; what can be done to
    the server is what is overridden: ``restart``, ``kill`` and ``start``, ``freeze`` and ``thaw``, ``make_read_only``
    and ``make_writable``. These block, or are ``async``, and return when it is done.
    """

    name: ClassVar[str]
    """The outbox's name in test ids and in the ledger."""
    server: ClassVar[bool] = False
    """It is kept by a server, whose clock decides when a lease ends."""
    concurrent: ClassVar[bool] = False
    """Several transactions can have written and not committed at the same time, so that one may commit late."""
    timeout: ClassVar[float] = 5.0
    """Seconds within which each call of a table that :meth:`outbox` made ends, also if the server does not answer."""
    aborts: ClassVar[bool] = False
    """A failed statement aborts its transaction."""
    whole: ClassVar[bool] = False
    """With :meth:`store`: all that a handler does in its transaction is one commit. Where not, each step is one."""
    detail: str = ""
    """What this is and where it comes from: one line for the header of the run. Set by ``setup``."""
    started: str = ""
    """What ``setup`` returned, in every process."""

    # ------------------------------------------------------------------------------------------ once a session

    def setup(self) -> str:
        """Start or find the server; return its URL, or any text that ``place`` and ``outbox`` make sense of.

        Raises :class:`BrokerUnavailable` where there is none."""
        return ""

    def attach(self, started: str) -> None:
        """Take what ``setup`` returned; in this process, in the workers, and in the processes that tests start."""
        self.started = started

    def teardown(self) -> None:
        """End what ``setup`` started. Called after every run, also an interrupted one."""

    # ----------------------------------------------------------------------------------------------- each test

    def place(self, folder: Path) -> str:
        """An empty database of one test: a URL, or any text that ``outbox`` makes sense of. ``folder`` is empty and of
        this test only. Blocks."""
        raise NotImplementedError

    def prepare(self, place: str) -> None:
        """Create the tables of the outbox, and one that :attr:`Writer.effect` writes to. Blocks."""
        raise NotImplementedError

    def outbox(self, place: str, *, create: bool = True) -> Outbox:
        """A new object for this place, not opened. ``create=False``: it must not make tables."""
        raise NotImplementedError

    def clean(self, place: str) -> None:
        """Remove what a test has left in this place, where the server outlives the run. By default nothing."""

    def names(self, place: str) -> str:
        """What the message of ``OutboxUnavailable`` must contain, so that people see which database is down. By
        default any message will do."""
        return ""

    # -------------------------------------------------------------------------------------------- transactions

    def kinds(self) -> Sequence[str]:
        """The kinds of objects that ``publish(within=)`` takes, as far as their libraries are installed; tests use the
        first where it does not matter."""
        raise NotImplementedError

    def threads(self) -> Sequence[str]:
        """Those of :meth:`kinds` that belong to the thread that made them: ``bus.from_thread.publish`` takes them."""
        return ()

    async def writer(self, place: str, kind: str) -> Writer:
        """A connection, or session, of the application to this place, of this kind."""
        raise NotImplementedError

    async def reader(self, place: str, *, writes: bool) -> Writer:
        """A connection in a transaction that stays open, and has a number of its own (``writes``) or has only read."""
        raise NotImplementedError

    def insert(self, place: str, topic: str, key: str | None, payload: str, headers: str | None) -> None:
        """Write a row as another program does, with whatever is in its columns; committed. Blocks."""
        raise NotImplementedError

    def fill(self, place: str, count: int, keys: int) -> None:
        """Write so many rows of topic ``backlog`` in one transaction, as fast as the database can: copies of the one
        row of that topic that is there, each with a key of its own of ``keys``, and of the shard that this key has.
        Blocks."""
        raise NotImplementedError

    def effects(self, place: str) -> Sequence[str]:
        """All effects that are committed, in order, read without the outbox. Blocks."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------------- extras

    def store(self, place: str) -> Any:
        """A ``TransactionalStore`` in the same database, whose transactions this outbox takes. By default the tests of
        handlers' transactions do not apply."""
        raise NotImplementedError

    def dead_rows(self, place: str) -> int:
        """How many removed rows still take up room in the table of waiting events. Blocks."""
        raise NotImplementedError

    def can(self) -> frozenset[str]:
        """The names of what can be done: by default what the subclass overrides."""
        return frozenset(
            name for name in DISTURBANCES | EXTRAS if getattr(type(self), name) is not getattr(OutboxHarness, name)
        )
