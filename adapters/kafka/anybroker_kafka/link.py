"""Reaching the cluster by the URL's servers: once before any client, for a clear error, and again when no known broker
answers.

aiokafka's start says only that it failed, whatever the reason, so each server is asked first. Afterwards aiokafka asks
only the brokers of its last metadata, which are those that were alive then. If they go while others come back, or if
all change their addresses, it would ask the old ones forever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from anybroker.adapter import BrokerUrl
from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker.kit.tls import tls_failure, tls_refusal
from anybroker.kit.wording import said
from anybroker.printable import logger

from .failures import CLIENT_ERRORS, failure

__all__ = ["check_servers", "keep_asking_servers"]

_log = logger("anybroker.kafka")
_CONNECTION = (
    "client_id", "request_timeout_ms", "ssl_context", "security_protocol", "sasl_mechanism", "sasl_plain_username",
    "sasl_plain_password",
)  # fmt: skip


async def _ask(host: str, port: int, options: dict[str, Any], request: Any) -> Any:
    """One request over a connection of its own; ``options`` are aiokafka's, without the servers."""
    connection = await create_conn(host, port, **options)
    try:
        return await connection.send(request)
    finally:
        connection.close()


async def check_servers(
    url: BrokerUrl, servers: Sequence[tuple[str, int]], options: dict[str, Any], timeout: float
) -> None:
    """Return as soon as one of the servers has answered us; ``options`` are aiokafka's. ConfigError where one reports
    what only a person can fix, else Unavailable."""
    options = {**options, "request_timeout_ms": int(timeout * 1000)}
    del options["bootstrap_servers"]
    problems: list[str] = []
    last: BaseException | None = None
    for host, port in servers:
        try:
            await _ask(host, port, options, MetadataRequest([]))  # a listener that wants a password refuses this
        except CLIENT_ERRORS as exc:
            error = await _why(exc, host, port, options)
            if isinstance(error, ConfigError):
                raise error from error.__cause__ or exc
            problems.append(f"{host}:{port}: {said(exc)}")
            last = exc
        else:
            return
    raise Unavailable(
        f"no Kafka broker answers at {url} ({'; '.join(problems)}). Check host and port, and whether it asks for TLS "
        "(kafkas://) or for user and password"
    ) from last


async def _why(exc: BaseException, host: str, port: int, options: dict[str, Any]) -> AnybrokerError:
    where = f"{host}:{port}"
    error = tls_failure(exc, where) or failure(exc, f"connecting to {where}")
    if not isinstance(error, Unavailable) or isinstance(exc, TimeoutError):
        return error
    # The server closed the connection without an answer.
    if "sasl_mechanism" not in options:
        with contextlib.suppress(*CLIENT_ERRORS):  # then a missing password is not the reason
            answer = await _ask(host, port, options, SaslHandShakeRequest("PLAIN"))
            if answer.enabled_mechanisms:
                return ConfigError(
                    "url",
                    f"Kafka at {where} asks for user and password ({', '.join(answer.enabled_mechanisms)})",
                    "Write them before the host (user:password@host), and sasl_mechanism unless it is PLAIN.",
                )
    if "ssl_context" in options:
        return await tls_refusal(host, port, options["ssl_context"]) or error
    return error


def keep_asking_servers(client: Any, servers: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
    """Let this ``AIOKafkaClient`` ask the servers too, when no broker that it knows answers a request for metadata.

    There is no public way: ``bootstrap()`` of a running client forgets its topics for a moment, which a consumer takes
    for their deletion and rebalances. So one private method is replaced, the one that refreshes metadata. Should it get
    another name, clients ask as aiokafka does.
    """
    refresh = getattr(client, "_metadata_update", None)
    if refresh is None:
        return
    own = {name: value for name, value in options.items() if name in _CONNECTION}

    async def refresh_by_any(cluster: Any, topics: Any) -> Any:
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

    client._metadata_update = refresh_by_any


async def _brokers(servers: Sequence[tuple[str, int]], options: dict[str, Any]) -> dict[int, Any]:
    """The brokers that the first server to answer names. All are asked at once: a dead one may take all the time."""
    tasks = [asyncio.ensure_future(_ask(host, port, options, MetadataRequest([]))) for host, port in servers]
    try:
        for each in asyncio.as_completed(tasks):
            try:
                reply = await each
            except CLIENT_ERRORS as exc:
                _log.debug("one of the URL's servers does not answer: %s", said(exc))
                continue
            cluster = ClusterMetadata()
            cluster.update_metadata(reply)
            if brokers := {broker.nodeId: broker for broker in cluster.brokers()}:
                return brokers
        return {}
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
