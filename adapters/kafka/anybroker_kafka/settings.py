"""The adapter's settings, and the aiokafka options that they and the URL become."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from anybroker.adapter import SECURITY, AdapterContext, BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import TlsSettings

__all__ = ["DECOMPRESSED", "MESSAGE_BYTES", "KafkaSettings", "client_options", "servers", "session_of"]

DEFAULT_PORT = 9092
MESSAGE_BYTES = 1_048_576
"""Kafka's own default for message.max.bytes is 12 more."""
DECOMPRESSED = 64 * 1_048_576
"""Sixty times what a broker takes by default: more than text is ever compressed."""


class KafkaSettings(TlsSettings):
    """What can stand in the URL's query, or under ``[adapters.kafka]``. Names in brackets are Kafka's own."""

    acks: Literal["all"] = Field(
        "all", description="Only 'all': what publish() returned for is on every in-sync replica [acks]."
    )
    content_mode: Literal["binary", "structured"] = Field(
        "binary", description="CloudEvents as headers and body, or as one JSON document."
    )
    replication_factor: int = Field(
        -1,
        ge=-1,
        description="Replicas of a topic that is made; -1: the broker's default [default.replication.factor].",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "none", description="Of record batches on the wire and on the broker's disk [compression.type]."
    )
    max_message_bytes: int = Field(
        MESSAGE_BYTES, ge=16_384, description="Bytes the broker takes in one record batch [message.max.bytes]."
    )
    batch_bytes: int = Field(
        65_536, ge=1_024, description="Bytes of records collected into one batch of a partition [batch.size]."
    )
    isolation: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="Whether records of open and aborted transactions are skipped [isolation.level]."
    )
    fetch_bytes: int = Field(
        4_194_304,
        ge=65_536,
        description="Bytes in one answer to a fetch, a quarter of it a partition [fetch.max.bytes].",
    )
    max_decompressed_bytes: int = Field(
        DECOMPRESSED,
        ge=1_048_576,
        description="Bytes that a fetched record batch may take in memory once it is decompressed; one that takes more "
        "is skipped, and dead-lettered without its content.",
    )
    request_timeout: float = Field(
        8.0,
        ge=1,
        le=60,
        description="Seconds until an unanswered request counts as a dead connection [request.timeout.ms].",
    )
    rebalance_timeout: float = Field(
        60.0, ge=1, description="Seconds that members have to let go of their partitions; never less than drain + 30."
    )
    rack: str | None = Field(None, description="Fetch from the replica in this rack where there is one [client.rack].")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, json_schema_extra=SECURITY, description="How the URL's user:password is presented; none: PLAIN."
    )


def servers(url: BrokerUrl) -> list[tuple[str, int]]:
    """The bootstrap servers: host and port."""
    if not url.hosts:
        raise ConfigError("url", f"{url} names no server", "Write kafka://host:9092,host2:9092.")
    if url.path.strip("/"):
        raise ConfigError("url", f"{url} has the path {url.path!r}, and Kafka has none", "Leave it out.")
    return [(host, port or DEFAULT_PORT) for host, port in url.hosts]


def session_of(lease: float) -> float:
    """Seconds of silence after which a member is out of its group: others have what it held within the lease and 5 s.

    A member that is killed while it waits for a rebalance is missed twice: first Kafka waits for the session of the
    member that the rebalance is about, and only then does it begin to count this one's. Two sessions, two seconds for
    heartbeats and rejoining: at most lease + 5.
    """
    return min(lease, (lease + 3) / 2)


def client_options(url: BrokerUrl, settings: KafkaSettings, context: AdapterContext) -> dict[str, Any]:
    """The keyword arguments that every aiokafka client of this adapter has."""
    sasl = url.username is not None
    if settings.sasl_mechanism is not None and not sasl:
        raise ConfigError(
            "sasl_mechanism",
            "is set, but the URL has no user",
            "Write kafka://user:password@host:9092, or leave it out.",
        )
    if sasl and url.password is None:
        raise ConfigError("url", f"{url} has a user and no password", "Write kafka://user:password@host:9092.")
    ssl_context = settings.tls_context(url, "kafkas")
    options: dict[str, Any] = {
        "bootstrap_servers": [f"{_bracketed(host)}:{port}" for host, port in servers(url)],
        "client_id": context.service,
        "security_protocol": ("SASL_" if sasl else "") + ("PLAINTEXT" if ssl_context is None else "SSL"),
        "request_timeout_ms": int(settings.request_timeout * 1000),
    }
    if options["security_protocol"] == "PLAINTEXT":
        return options
    if sasl:
        options["sasl_mechanism"] = settings.sasl_mechanism or "PLAIN"
        options["sasl_plain_username"] = url.username
        options["sasl_plain_password"] = url.password
    if ssl_context is not None:
        options["ssl_context"] = ssl_context
    return options


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
