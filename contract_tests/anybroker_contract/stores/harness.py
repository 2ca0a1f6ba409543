"""What the suite needs from the author of a store: how to make it, what it declares, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from anybroker.idempotency import Store

from .._disturbances import DISTURBANCES, Disturbable
from ..harness import BrokerUnavailable

__all__ = ["DECLARED", "DISTURBANCES", "EXTRAS", "BrokerUnavailable", "StoreHarness"]

DECLARED = ("durable", "parking", "processes", "server", "transactional")
"""What a harness declares of its store."""
EXTRAS = frozenset({"clock", "by_url"})
"""What else a harness may have."""


class StoreHarness(Disturbable):
    """One kind of store under test. Subclass it, set ``name``, and override what your store needs.

    The session's process calls :meth:`setup` once; its text reaches every worker process through :meth:`attach`; each
    test calls :meth:`place`, then :meth:`store` as often as it needs objects; at the end the session's process calls
    :meth:`teardown`. Tests that disturb the server run on a second one, set up, and torn down, by the process that
    runs them. A child process of a test imports the class, calls ``attach`` and ``store``, and nothing else::

        class AcmeStores(StoreHarness):
            name = "acme"
            server = True

            def setup(self) -> str:
                self.running = start_acme()
                return self.running.url

            def teardown(self) -> None:
                self.running.stop()

            def store(self, place: str, *, retain: float | None = None) -> Store:
                return AcmeStore(place, timeout=self.timeout, **({} if retain is None else {"retain": retain}))

    What is declared (``durable``, ``parking``, ``processes``, ``server``, ``transactional``) decides which tests apply;
    what can be done to the server is what is overridden: ``restart`` (end it gracefully and start it, same URL, same
    data), ``kill`` (SIGKILL) and ``start`` (after a kill), ``freeze`` and ``thaw`` (SIGSTOP and SIGCONT, or what is
    like them for a file), ``make_read_only`` and ``make_writable``. These block, or are ``async``, and return when it
    is done.
    """

    name: ClassVar[str]
    """The store's name in test ids and in the ledger."""
    durable: ClassVar[bool] = True
    """What is done outlives the process, and the server's end."""
    processes: ClassVar[bool] = True
    """Several objects, also in several processes, that are made for the same place share what they remember."""
    server: ClassVar[bool] = False
    """It is kept by a server, whose clock decides when a lease ends."""
    transactional: ClassVar[bool] = False
    """It is a ``TransactionalStore``: :meth:`effect` and :meth:`effects` are overridden."""
    parking: ClassVar[bool] = False
    """It is a ``ParkingStore``: it remembers parked keys."""
    timeout: ClassVar[float] = 5.0
    """Seconds within which each call of a store that :meth:`store` made ends, also if the server does not answer."""
    portion: ClassVar[int | None] = None
    """The most entries that one ``purge`` forgets. None: forgetting any number of them costs nothing; 0: what is too
    old goes by itself, and ``purge`` asks nobody."""
    detail: str = ""
    """What this is and where it comes from: one line for the header of the run. Set by ``setup``."""
    started: str = ""
    """What ``setup`` returned, in every process."""

    # ------------------------------------------------------------------------------------------ once a session

    def setup(self) -> str:
        """Start or find the server; return its URL, or any text that ``place`` and ``store`` make sense of.

        Raises :class:`BrokerUnavailable` where there is none."""
        return ""

    def attach(self, started: str) -> None:
        """Take what ``setup`` returned; in this process, in the workers, and in the processes that tests start."""
        self.started = started

    def teardown(self) -> None:
        """End what ``setup`` started. Called after every run, also an interrupted one."""

    # ----------------------------------------------------------------------------------------------- each test

    def place(self, folder: Path) -> str:
        """Where the stores of one test keep what they remember, best apart from all others: a URL, or any text that
        ``store`` makes sense of. ``folder`` is empty and of this test only. By default what ``setup`` returned."""
        return self.started

    def store(self, place: str, *, retain: float | None = None) -> Store:
        """A new store object for this place, not opened, whose calls end within ``timeout``. With ``retain``, that many
        seconds instead of its default."""
        raise NotImplementedError

    def clean(self, place: str) -> None:
        """Remove what a test has left in this place, where the server outlives the run. By default nothing."""

    def names(self, place: str) -> str:
        """What the message of ``StoreUnavailable`` must contain, so that people see which store is down: a path, or a
        host and port. By default any message will do."""
        return ""

    def by_url(self, place: str) -> str:
        """The URL of this place for ``Bus(idempotency=…)``. By default the tests of URLs do not apply."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------- transactions

    async def effect(self, transaction: Any, text: str) -> None:
        """Write ``text`` through this transaction, as a handler does: the effect that must happen once."""
        raise NotImplementedError

    def effects(self, place: str) -> Sequence[str]:
        """All effects that are committed in this place, read without the store. Blocks."""
        raise NotImplementedError

    def prepare_effects(self, place: str) -> None:
        """Create the tables that ``effect`` writes to. Blocks. Called before the first store of the place is made."""

    # --------------------------------------------------------------------------------------------------- time

    def clock(self) -> AbstractContextManager[Callable[[float], None]]:
        """While this is entered, the function moves the clock of the stores in this process forward by so many seconds
        (:func:`anybroker_contract.stores.clock.shifted`). For stores that go by the clock of this machine; by default
        the tests wait."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------- disturbances

    def can(self) -> frozenset[str]:
        """The names of what can be done: by default what the subclass overrides."""
        return frozenset(
            name for name in DISTURBANCES | EXTRAS if getattr(type(self), name) is not getattr(StoreHarness, name)
        )
