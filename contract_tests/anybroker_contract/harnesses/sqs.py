"""The SQS adapter, on an emulator of this session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..brokers import Broker, Unavailable
from ..brokers.ports import free_port
from ..harness import Secured
from ..secured import sqs
from .server import ServerHarness

if TYPE_CHECKING:
    from ..raw import RawClient

__all__ = ["SqsHarness"]


class SqsHarness(ServerHarness):
    """Topics have unique names; the server is shared.

    Polls are one second long: a Bus that closes waits for the poll under way, and every test closes some.
    """

    name: ClassVar[str] = "sqs"
    kind: ClassVar[str] = "sqs"

    def take(self, found: Broker | Unavailable) -> str:
        """With short polls."""
        url = super().take(found)
        return f"{url}{'&' if '?' in url else '?'}wait=1"

    def can(self) -> frozenset[str]:
        """No kill: emulators keep what they accepted only if they end gracefully."""
        return super().can() - {"kill", "start"}

    def absent_url(self) -> str:
        """A port where nobody listens."""
        return f"sqs://us-east-1?endpoint_url=http://127.0.0.1:{free_port()}&access_key_id=any&secret_access_key=any"

    def secured(self, folder: Path) -> Secured:
        """Another one, with TLS, signatures and permissions."""
        return sqs.start(folder)

    def raw(self) -> RawClient:
        """By the broker's own client, which is imported now."""
        from ..raw.sqs import SqsClient

        return SqsClient(self.started)
