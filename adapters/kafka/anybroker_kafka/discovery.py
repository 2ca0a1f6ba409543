"""Finding the cluster again by the servers of the URL, when none of the brokers that a client knows answers.

aiokafka asks the URL's servers once, when it starts; afterwards only the brokers of its last metadata, which are those
that were alive then. If they go while the others come back, or if all change their addresses, it asks for ever where
nobody answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from anybroker.printable import logger

from .failures import CLIENT_ERRORS, said

__all__ = ["ask", "find_again"]

_log = logger("anybroker.kafka")


async def ask(host: str, port: int, options: dict[str, Any], request: Any) -> Any:
    """One request over a connection of its own; ``options`` are aiokafka's, without the servers."""
    connection = await create_conn(host, port, **options)
    try:
        return await connection.send(request)
    finally:
        connection.close()


def find_again(client: Any, servers: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
    """Let this ``AIOKafkaClient`` ask the servers too, where no known broker has answered for its metadata.

    There is no public way: ``bootstrap()`` of a running client forgets its topics for a moment, which a consumer takes
    for their deletion and rebalances. So one private method is shadowed, the one that refreshes metadata. Should it be
    called otherwise one day, clients ask as aiokafka does.
    """
    refresh = getattr(client, "_metadata_update", None)
    if refresh is None:
        return
    own = {name: value for name, value in options.items() if name in _CONNECTION}

    async def refresh_by_anyone(cluster: Any, topics: Any) -> Any:
        if await refresh(cluster, topics):
            return True
        brokers = await _brokers(servers, own)
        if not brokers:
            return False
        _log.warning(
            "no broker that a Kafka client knew answers; going on with the cluster that the URL's servers name"
        )
        client.cluster._brokers = brokers
        return await refresh(cluster, topics)

    client._metadata_update = refresh_by_anyone


_CONNECTION = (
    "client_id", "request_timeout_ms", "ssl_context", "security_protocol", "sasl_mechanism", "sasl_plain_username",
    "sasl_plain_password",
)  # fmt: skip


async def _brokers(servers: Sequence[tuple[str, int]], options: dict[str, Any]) -> dict[int, Any]:
    """The brokers that the first server to answer names. All are asked at once: a dead one may cost the time-out."""
    tasks = [asyncio.ensure_future(ask(host, port, options, MetadataRequest([]))) for host, port in servers]
    try:
        for each in asyncio.as_completed(tasks):
            try:
                reply = await each
            except CLIENT_ERRORS as exc:
                _log.debug("one of the URL's servers does not answer: %s", said(exc))
                continue
            cluster = ClusterMetadata()
            cluster.update_metadata(reply)
            if found := {broker.nodeId: broker for broker in cluster.brokers()}:
                return found
        return {}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
