"""A broker that somebody else runs, named by a URL in the environment."""

from __future__ import annotations

import socket
from typing import NoReturn
from urllib.parse import parse_qs, urlsplit

from .api import Broker
from .context import Context
from .errors import BrokerFailed, Missing

__all__ = ["GivenBroker"]

CONNECT_SECONDS = 5.0

PORTS = {"kafka": 9092, "amqp": 5672, "amqps": 5671, "nats": 4222, "tls": 4222, "redis": 6379, "rediss": 6379}
PORTS |= {"postgresql": 5432, "postgres": 5432, "http": 80, "https": 443}


class GivenBroker(Broker):
    """See ``Broker``. It is not ours, so it cannot be restarted or ended."""

    source = "url"
    can_restart = False
    survives_kill = False

    def __init__(self, context: Context, url: str, variable: str) -> None:
        self.name = context.name
        self.url = url
        self.detail = f"the URL in {variable}"

    @classmethod
    def found(cls, context: Context, url: str) -> GivenBroker:
        """Check that something listens there (5 s at most); raises ``Missing`` when not."""
        variable = f"ANYBROKER_TEST_{context.name.upper()}_URL"
        remedy = f"correct or unset {variable}"
        try:
            address = address_of(url)
            if address is not None:
                socket.create_connection(address, CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise Missing(f"nothing answers at the URL in {variable} ({error})", remedy) from error
        return cls(context, url, variable)

    def _refuse(self, what: str) -> NoReturn:
        raise BrokerFailed(f"{self.name} cannot be {what}: it is {self.detail}, not ours")

    def restart(self) -> None:
        self._refuse("restarted")

    def kill(self) -> None:
        self._refuse("killed")

    def start(self) -> None:
        self._refuse("started")

    def freeze(self) -> None:
        self._refuse("frozen")

    def thaw(self) -> None:
        self._refuse("thawed")

    def stop(self) -> None:
        """Do nothing: it is not ours."""


def address_of(url: str) -> tuple[str, int] | None:
    """The first host and port a URL names; ``None`` for AWS itself, which has no address in its URL.

    Raises ``ValueError`` when it has no host, or its port is unknown.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqs":
        endpoint = parse_qs(parts.query).get("endpoint_url")
        return address_of(endpoint[0]) if endpoint else None
    first = urlsplit(f"//{parts.netloc.split(',')[0]}")
    port = first.port or PORTS.get(parts.scheme)
    if not first.hostname or port is None:
        raise ValueError("it has no host and port")
    return first.hostname, port
