"""What the contract suite is given: ``--adapter acme.testing:AcmeBroker``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from anybroker.bus import AdapterFactory
from anybroker.capabilities import Capabilities, Support
from anybroker.testing import FaultyBroker, drop
from anybroker_contract import BrokerHarness, BrokerUnavailable

from .adapter import AcmeAdapter, AcmeFactory

__all__ = ["AcmeBroker", "BorrowedBroker", "LossyBroker", "SleepingBroker"]


class AcmeBroker(BrokerHarness):
    """Each test has its own server."""

    name: ClassVar[str] = "acme"
    detail = "a log in this process"

    def capabilities(self) -> Capabilities:
        """The adapter is not installed under a URL scheme, so this is said here."""
        return AcmeAdapter.capabilities

    def broker(self, folder: Path) -> AdapterFactory:
        """What the Buses of one test share."""
        return AcmeFactory()


class SleepingBroker(AcmeBroker):
    """A broker that is unavailable today."""

    name = "sleeping"

    def setup(self) -> str:
        """Never."""
        raise BrokerUnavailable("it sleeps until noon", "acme wake")


class LossyBroker(AcmeBroker):
    """One whose every tenth record is lost."""

    name = "lossy"

    def broker(self, folder: Path) -> AdapterFactory:
        """With a fault in between."""
        return FaultyBroker(AcmeFactory(), drop("publish", every=10))


class BorrowedBroker(AcmeBroker):
    """One that is somebody else's, as its setup finds out: it cannot be restarted."""

    name = "borrowed"
    ours = True

    def capabilities(self) -> Capabilities:
        """As if it could be restarted, were it ours."""
        return replace(AcmeAdapter.capabilities, durable=Support.NATIVE)

    def setup(self) -> str:
        """In the session's process."""
        self.ours = False
        return "borrowed"

    def can(self) -> frozenset[str]:
        """No restart."""
        return super().can() if self.ours else super().can() - {"restart"}

    def restart(self) -> None:
        """Never."""
        raise RuntimeError("this broker is not ours")
