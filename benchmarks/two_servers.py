"""PostgreSQL and NATS JetStream for a benchmark that is a program of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from anybroker_contract.brokers import Broker, start_brokers

__all__ = ["postgres_and_nats"]


@contextmanager
def postgres_and_nats(console: Console) -> Iterator[tuple[str, str] | None]:
    """Their URLs while it lasts; None, once it has said why, where one cannot be had."""
    servers = start_brokers(["postgres", "nats"], say=lambda name, text: console.print(f"{name}: {text}"))
    try:
        urls = []
        for server in (servers["postgres"], servers["nats"]):
            if isinstance(server, Broker):
                urls.append(server.url)
            else:
                console.print(f"not run: {server.reason}; {server.remedy}")
        yield (urls[0], urls[1]) if len(urls) == len(servers) else None
    finally:
        for server in servers.values():
            if isinstance(server, Broker):
                server.stop()
