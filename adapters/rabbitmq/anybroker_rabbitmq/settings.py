"""The adapter's settings, and the aio_pika options that they and the URL become."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from anybroker.adapter import SECURITY, BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import TlsSettings

__all__ = ["RabbitmqSettings", "connection_options"]

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


class RabbitmqSettings(TlsSettings):
    """Settings in the URL's query, or under ``[adapters.amqp]``. Names in brackets are RabbitMQ's own."""

    content_mode: Literal["binary", "structured"] = Field(
        default="binary", description="CloudEvents as headers and body, or as one JSON document."
    )
    header_prefix: Literal["cloudEvents_", "cloudEvents:", "ce-"] = Field(
        default="cloudEvents_", description="Prefix of the attributes' headers that are written; all three are read."
    )
    max_message_bytes: int = Field(
        default=16_777_216, ge=65_536, description="Bytes of one message, headers counted [max_message_size]."
    )
    heartbeat: int = Field(
        default=3,
        ge=1,
        le=3600,
        description="Seconds between heartbeats. A dead path is noticed by aio_pika after 3.5 times this plus 3 s, by "
        "the broker after twice this.",
    )
    request_timeout: float = Field(
        default=10.0, ge=1, le=60, description="Seconds until an unanswered request counts as a dead connection."
    )
    prefetch: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="Unsettled deliveries that the broker hands over in each lane; none: twice the subscription's "
        "max_in_flight.",
    )
    delivery_limit: Literal["argument", "policy"] = Field(
        default="argument",
        description="How the delivery limit of RabbitMQ 4 is lifted: as an argument of the queues "
        "[x-delivery-limit=-1], or by the operator's policy (queues that were made on 3.x).",
    )
    auth: Literal["plain", "external"] = Field(
        default="plain",
        json_schema_extra=SECURITY,
        description="User and password of the URL, or the client's certificate [EXTERNAL].",
    )


def connection_options(url: BrokerUrl, settings: RabbitmqSettings) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The servers, and the other keyword arguments of every ``aio_pika.connect`` of this adapter."""
    if not url.hosts:
        raise ConfigError("url", f"{url} names no server", f"Write {url.scheme}://user:password@host:5672/vhost.")
    ssl_context = settings.tls_context(url, "amqps")
    if url.username is not None and url.password is None and settings.auth == "plain":
        raise ConfigError("url", f"{url} has a user but no password", f"Write {url.scheme}://user:password@host.")
    if settings.auth == "external" and settings.tls_cert_file is None:
        raise ConfigError(
            "auth", "is 'external', but there is no client certificate", "Set tls_cert_file, and use amqps://."
        )
    servers = [(host, port or DEFAULT_PORTS[url.scheme]) for host, port in url.hosts]
    options: dict[str, Any] = {
        "login": url.username or "guest",
        "password": url.password or "guest",
        "virtualhost": url.path.removeprefix("/") or "/",
        "heartbeat": settings.heartbeat,
        "auth": settings.auth,
        "ssl": ssl_context is not None,
    }
    if ssl_context is not None:
        options["ssl_context"] = ssl_context
    return servers, options
