"""What the suite needs from the author of an adapter: a broker, and what can be done to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anybroker.bus import AdapterFactory
from anybroker.capabilities import Capabilities

from .content_mode import Mode
from .proxy import Route
from .secured import Refused, Secured

if TYPE_CHECKING:
    from .brokers.cluster import Cluster
    from .raw import RawClient

__all__ = ["DISTURBANCES", "BrokerHarness", "BrokerUnavailable", "Clustered", "Mode", "Refused", "Route", "Secured"]

DISTURBANCES = frozenset({"restart", "kill", "start", "freeze", "thaw"})
"""What may be done to the broker: a test that does one of them runs on a separate broker."""


class BrokerUnavailable(Exception):
    """There is no broker to test on: the reason, and the command that would get one."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy

    @property
    def why(self) -> str:
        """Reason and remedy in one line."""
        return f"{self.reason}; get it with: {self.remedy}" if self.remedy else self.reason


@dataclass(frozen=True)
class Clustered:
    """Several servers that are one broker."""

    url: str
    """Names all servers; each keeps a copy of every topic that is created through this URL."""
    servers: Cluster
    in_sync: Callable[[str], Awaitable[bool]]
    """Whether each server has everything in this topic."""
    too_few: tuple[str, ...]
    """What the error of a publish says when there are not enough of them to store an event: one of these."""
    election: float = 0.0
    """Seconds that the others need to notice that a leader is dead and to choose another one, if that is long."""
    catch_up: float = 60.0
    """Seconds within which a returning server has all events."""


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
    ``absent_url()`` (a URL where no broker answers), ``delete()`` and ``grow()`` (a topic, as an operator does),
    ``route()`` (how to put a proxy before it). They block, or are ``async``, and return when it is done. ``secured()``
    starts another one, with TLS and credentials; ``cluster()`` one of three servers.
    """

    name: ClassVar[str]
    """The adapter's name in test ids, in the table and in the ledger."""
    scheme: ClassVar[str] = ""
    """The scheme of its URLs, where that is not its name."""
    detail: str = ""
    """Which broker this is, where it comes from and why: one line for the header of the run. Set by ``setup``."""
    started: str = ""
    """What ``setup`` returned, in every process."""

    handed_over_again: ClassVar[float] = 25.0
    """Seconds by which an event that went to a half-open connection is handled on the next one, with our defaults: the
    lease and five, or less where the broker can be told sooner."""

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
        names = (*DISTURBANCES, "absent_url", "delete", "delete_lane", "distrust", "grow", "hurried", "in_mode")
        names += ("cluster", "raw", "route", "secured")
        found = frozenset(name for name in names if getattr(type(self), name) is not getattr(BrokerHarness, name))
        given = {"in_mode": "content_mode", "hurried": "request_timeout"}
        return found | {name for name, setting in given.items() if _has_setting(self.scheme or self.name, setting)}

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

    def route(self) -> Route:
        """How clients reach the broker by way of a proxy that cuts, freezes and slows their connections."""
        raise NotImplementedError

    def absent_url(self) -> str:
        """A URL of this kind of broker where none answers."""
        raise NotImplementedError

    async def delete(self, topic: str) -> None:
        """Delete the topic as an operator does, with what is in it, while Buses use it; return when it is gone. Its
        inlets and dead-letter topics stay. By default tests of that do not apply."""
        raise NotImplementedError

    async def delete_lane(self, topic: str) -> None:
        """Delete what one lane of the topic's group ``g`` is at the broker, as an operator may by mistake; the rest
        stays. Return when it is gone. By default tests of that do not apply: lanes are nothing by themselves."""
        raise NotImplementedError

    async def grow(self, topic: str, lanes: int) -> None:
        """Give the topic that many lanes as an operator does, while Buses use it; return when it has them. Its inlets
        stay as they are. By default tests of that do not apply: the lanes are the groups', or are never changed."""
        raise NotImplementedError

    async def distrust(self, topic: str) -> None:
        """From now on let the broker take the clock of this machine for wrong in all that is published to the topic. By
        default tests of that do not apply: the broker does not look at clocks."""
        raise NotImplementedError

    def hurried(self, url: str) -> str:
        """That URL of this broker, with one second for each request.

        By default with the option ``request_timeout``, where the installed adapter's ``Settings`` have it; else tests
        of that do not apply."""
        return f"{url}{'&' if '?' in url else '?'}request_timeout=1"

    # ------------------------------------------------------------------------------------------- content modes

    def in_mode(self, url: str, mode: Mode) -> str:
        """That URL of this broker, with events published in this content mode.

        By default with the option ``content_mode``, where the installed adapter's ``Settings`` have it; else tests of
        the modes do not apply."""
        return f"{url}{'&' if '?' in url else '?'}content_mode={mode}"

    def raw(self) -> RawClient:
        """A program at the broker that does not use anybroker, not connected. In any process."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ security

    def secured(self, folder: Path) -> Secured:
        """Start a broker with TLS and credentials, for the security tests: every way to it, right and wrong.

        Its certificates may be written into ``folder``, which is empty, and stays. Called once in a process;
        ``Secured.stop`` ends it. Raises :class:`BrokerUnavailable` where there is none. By default there is none, and
        the security tests do not apply."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ clusters

    def cluster(self) -> Clustered:
        """Start a broker of three servers, for the fault scenarios; ``servers.stop()`` ends it. Two of them are enough
        to publish and consume. Raises :class:`BrokerUnavailable` where there is none. By default there is none, and
        those scenarios are left out."""
        raise NotImplementedError


@cache
def _has_setting(scheme: str, name: str) -> bool:
    """Whether the installed adapter of that scheme has the setting. Asked once: it means a search of all packages."""
    found = list(entry_points(group="anybroker.adapters", name=scheme))
    return bool(found) and name in found[0].load().Settings.model_fields
