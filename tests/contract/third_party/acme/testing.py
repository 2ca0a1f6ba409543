"""What the contract suite is given: ``--adapter acme.testing:AcmeBroker``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from anybroker.capabilities import Capabilities
from anybroker_contract import BrokerHarness

from .adapter import AcmeAdapter, AcmeFactory

__all__ = ["AcmeBroker"]


class AcmeBroker(BrokerHarness):
    """Each test has a server of its own."""

    name: ClassVar[str] = "acme"
    detail = "a log in this process"

    def capabilities(self) -> Capabilities:
        """The adapter is not installed under a URL scheme, so this is said here."""
        return AcmeAdapter.capabilities

    def broker(self, folder: Path) -> AcmeFactory:
        """What the Buses of one test share."""
        return AcmeFactory()
