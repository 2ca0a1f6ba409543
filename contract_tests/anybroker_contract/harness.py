"""What the suite asks of whoever brings an adapter: a broker, and what can be done to it."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from anybroker.bus import AdapterFactory
from anybroker.capabilities import Capabilities

__all__ = ["DISTURBANCES", "BrokerHarness", "BrokerUnavailable"]

DISTURBANCES = frozenset({"restart", "kill", "start", "freeze", "thaw", "cut"})
"""What may be done to the broker: a test that does one of them runs on a broker of its own."""


class BrokerUnavailable(Exception):
    """There is no broker to test on: why, and the command that would get it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class BrokerHarness:
    """One adapter under test. Subclass it, set ``name``, and override what your broker needs.

    The session's process calls :meth:`setup` once; its text reaches every worker process through :meth:`attach`; each
    test calls :meth:`broker`; at the end the session's process calls :meth:`teardown`. Tests that disturb the broker
    run on a second one, set up, and torn down, by the process that runs them. Only ``name`` and ``broker`` (or
    ``setup``) must be given::

        class AcmeBroker(BrokerHarness):
            name = "acme"

            def setup(self) -> str:
                self.server = start_acme()
                return self.server.url

            def teardown(self) -> None:
                self.server.stop()

    What can be done to the broker is what is overridden: ``restart()`` (end it gracefully and start it, same URL, same
    data), ``kill()`` (SIGKILL) and ``start()`` (after a kill), ``freeze()`` and ``thaw()`` (SIGSTOP and SIGCONT),
    ``cut()`` (end every connection that there is now), ``absent_url()`` (a URL where no broker answers). They block, or
    are ``async``, and return when it is done.
    """

    name: ClassVar[str]
    """The adapter's name in test ids, in the table and in the ledger."""
    scheme: ClassVar[str] = ""
    """The scheme of its URLs, where that is not its name."""
    detail: str = ""
    """Which broker this is, where it comes from and why: one line for the header of the run. Set by ``setup``."""
    started: str = ""
    """What ``setup`` returned, in every process."""

    # ------------------------------------------------------------------------------------------ once a session

    def setup(self) -> str:
        """Start or find the broker; return its URL, or any text that ``broker`` in another process makes sense of.

        Raises :class:`BrokerUnavailable` where there is none.
        """
        return ""

    def attach(self, started: str) -> None:
        """Take what ``setup`` returned; in this process and in the workers."""
        self.started = started

    def teardown(self) -> None:
        """End what ``setup`` started. Called after every run, also an interrupted one."""

    # ----------------------------------------------------------------------------------------------- each test

    def broker(self, folder: Path) -> str | AdapterFactory:
        """What the Buses of one test are given: a URL, or an object that makes adapters.

        ``folder`` is empty and of this test only. A URL is needed where ``processes`` is declared: other processes open
        it. By default what ``setup`` returned.
        """
        return self.started

    async def clean(self, topics: list[str]) -> None:
        """Remove what a test has declared, where the broker outlives the run. By default nothing."""

    def capabilities(self) -> Capabilities:
        """What the adapter declares; asked before the broker is started.

        By default the class attribute of the installed adapter whose URL scheme is ``scheme``.
        """
        (entry,) = entry_points(group="anybroker.adapters", name=self.scheme or self.name)
        declared: Capabilities = entry.load().capabilities
        return declared

    # -------------------------------------------------------------------------------------------- disturbances

    def can(self) -> frozenset[str]:
        """The names of what can be done to this broker: by default what the subclass overrides."""
        names = (*DISTURBANCES, "absent_url")
        return frozenset(name for name in names if getattr(type(self), name) is not getattr(BrokerHarness, name))

    def restart(self) -> Any:
        """End the broker gracefully and start it again, with its data; return when it answers."""
        raise NotImplementedError

    def kill(self) -> Any:
        """SIGKILL the broker; return when it is gone."""
        raise NotImplementedError

    def start(self) -> Any:
        """Start it again after ``kill``, with its data; return when it answers."""
        raise NotImplementedError

    def freeze(self) -> Any:
        """Stop the broker from answering, with its connections open."""
        raise NotImplementedError

    def thaw(self) -> Any:
        """Let it go on after ``freeze``."""
        raise NotImplementedError

    def cut(self) -> Any:
        """End every connection to the broker that there is now; new ones are welcome."""
        raise NotImplementedError

    def absent_url(self) -> str:
        """A URL of this kind of broker where none answers."""
        raise NotImplementedError
