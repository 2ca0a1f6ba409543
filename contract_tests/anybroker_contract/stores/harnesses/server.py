"""A store on a server: found or started by :mod:`anybroker_contract.brokers`."""

from __future__ import annotations

from typing import ClassVar

from ..._on_server import OnServer
from ..harness import StoreHarness

__all__ = ["StoreServer"]


class StoreServer(OnServer, StoreHarness):
    """Subclasses name the ``kind`` of server."""

    server: ClassVar[bool] = True
    timeout: ClassVar[float] = 2.0
