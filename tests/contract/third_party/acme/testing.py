"""What the contract suite is given: ``--adapter acme.testing:AcmeBroker``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from anybroker.bus import AdapterFactory
from anybroker.capabilities import Capabilities
from anybroker.testing import FaultyBroker, drop
from anybroker_contract import BrokerHarness, BrokerUnavailable

from .adapter import AcmeAdapter, AcmeFactory

__all__ = ["AcmeBroker", "BorrowedBroker", "LossyBroker", "SleepingBroker"]


class AcmeBroker(BrokerHarness):
    """Each test has a server of its own."""

    name: ClassVar[str] = "acme"
    detail = "a log in this process"

    def capabilities(self) -> Capabilities:
        """The adapter is not installed under a URL scheme, so this is said here."""
        return AcmeAdapter.capabilities

    def broker(self, folder: Path) -> AdapterFactory:
        """What the Buses of one test share."""
        return AcmeFactory()


class SleepingBroker(AcmeBroker):
    """One that cannot be had today."""

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
    """One that somebody else runs: it could be frozen, and must not be."""

    name = "borrowed"

    def setup(self) -> str:
        """Found, not started."""
        self.ours = False
        return "acme://somebody.example"

    def freeze(self) -> None:
        """Never."""
        raise RuntimeError("this broker is somebody else's")

    def thaw(self) -> None:
        """Never."""
        raise RuntimeError("this broker is somebody else's")
