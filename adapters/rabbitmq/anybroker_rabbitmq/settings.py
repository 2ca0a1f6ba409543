"""The adapter's settings, and the aio_pika options that they and the URL become."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr

from anybroker.adapter import AdapterSettings, BrokerUrl
from anybroker.errors import ConfigError

__all__ = ["RabbitmqSettings", "connection_options"]

DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


class RabbitmqSettings(AdapterSettings):
    """What can stand in the URL's query, or under ``[adapters.amqp]``. Names in brackets are RabbitMQ's own."""

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
        description="Deliveries that the broker hands over in each lane before one is settled; none: twice the "
        "subscription's max_in_flight.",
    )
    delivery_limit: Literal["argument", "policy"] = Field(
        default="argument",
        description="How the delivery limit of RabbitMQ 4 is lifted: as an argument of the queues "
        "[x-delivery-limit=-1], or by the operator's policy (queues that were made on 3.x).",
    )
    auth: Literal["plain", "external"] = Field(
        default="plain", description="User and password of the URL, or the client's certificate [EXTERNAL]."
    )
    ca_file: Path | None = Field(default=None, description="PEM file of the authorities to trust; none: the system's.")
    cert_file: Path | None = Field(default=None, description="PEM file of the client's certificate.")
    key_file: Path | None = Field(default=None, description="PEM file of the client's key; none: it is in cert_file.")
    key_password: SecretStr | None = Field(default=None, description="Password of the client's key.")
    check_hostname: bool = Field(default=True, description="Whether the server's certificate must name its host.")


def connection_options(url: BrokerUrl, settings: RabbitmqSettings) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The servers, and the keyword arguments that every ``aio_pika.connect`` of this adapter has beside them."""
    if not url.hosts:
        raise ConfigError("url", f"{url} names no server", f"Write {url.scheme}://user:password@host:5672/vhost.")
    tls = url.scheme == "amqps"
    if not tls and (settings.ca_file or settings.cert_file or settings.key_file):
        raise ConfigError("ca_file, cert_file, key_file", "are for TLS, and the URL asks for none", "Use amqps://.")
    if url.username is not None and url.password is None and settings.auth == "plain":
        raise ConfigError("url", f"{url} has a user and no password", f"Write {url.scheme}://user:password@host.")
    if settings.auth == "external" and settings.cert_file is None:
        raise ConfigError(
            "auth", "is 'external', and there is no client certificate", "Set cert_file, and use amqps://."
        )
    servers = [(host, port or DEFAULT_PORTS[url.scheme]) for host, port in url.hosts]
    options: dict[str, Any] = {
        "login": url.username or "guest",
        "password": url.password or "guest",
        "virtualhost": url.path.removeprefix("/") or "/",
        "heartbeat": settings.heartbeat,
        "auth": settings.auth,
        "ssl": tls,
    }
    if tls:
        options["ssl_context"] = _ssl_context(settings)
    return servers, options


def _ssl_context(settings: RabbitmqSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as exc:
        raise ConfigError("ca_file", f"{settings.ca_file} cannot be read: {exc}", "Name a PEM file.") from exc
    context.check_hostname = settings.check_hostname
    if settings.cert_file is not None:
        password = settings.key_password.get_secret_value() if settings.key_password is not None else ""
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, password)
        except OSError as exc:
            raise ConfigError(
                "cert_file, key_file",
                f"{settings.cert_file} and {settings.key_file} cannot be used: {exc}",
                "Name PEM files that belong together, and key_password if the key has one.",
            ) from exc
    elif settings.key_file is not None:
        raise ConfigError("key_file", "is set without cert_file", "Name the certificate too.")
    return context
