"""The adapter's settings, and the nats-py options that they and the URL become."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr

from anybroker.adapter import SECURITY, BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import TlsSettings

from .credentials import credentials

__all__ = ["MAX_PAYLOAD", "NatsSettings", "connection_options"]

DEFAULT_PORT = 4222
MAX_PAYLOAD = 1_048_576
"""Bytes of one message that a server takes by default [max_payload]; its own word counts once we are connected."""


class NatsSettings(TlsSettings):
    """What can stand in the URL's query, or under ``[adapters.nats]``. Names in brackets are NATS's own."""

    content_mode: Literal["binary", "structured"] = Field(
        "binary", description="CloudEvents as headers and body, or as one JSON document."
    )
    replicas: int = Field(1, ge=1, le=5, description="Servers that keep a stream that is made [num_replicas].")
    storage: Literal["file", "memory"] = Field("file", description="Where a stream that is made lies [storage].")
    max_age: float = Field(
        604_800,
        ge=0,
        description="Seconds that a stream that is made keeps events, consumed or not, where the topic says nothing; "
        "0: for ever [max_age].",
    )
    duplicate_window: float = Field(
        120, ge=1, description="Seconds that a stream that is made remembers ids, to drop copies [duplicate_window]."
    )
    confirm_acks: bool = Field(
        False, description="Whether each acknowledgement is confirmed by the server (a round trip) [double ack]."
    )
    ping_interval: int = Field(
        4, ge=1, le=20, description="Seconds between pings; a path is dead after two that nobody answered."
    )
    request_timeout: float = Field(
        5.0, ge=1, le=60, description="Seconds that JetStream has to answer a request of its API."
    )
    token: SecretStr | None = Field(
        None, json_schema_extra=SECURITY, description="Token to authenticate with, instead of user and password."
    )
    nkey_seed: SecretStr | None = Field(None, json_schema_extra=SECURITY, description="Seed of the user's NKey (SU…).")
    nkey_seed_file: Path | None = Field(
        None, json_schema_extra=SECURITY, description="File with the seed of the user's NKey."
    )
    credentials_file: Path | None = Field(
        None, json_schema_extra=SECURITY, description="File with the user's JWT and seed (.creds)."
    )


def connection_options(url: BrokerUrl, settings: NatsSettings) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
    """The servers, the keyword arguments of ``Client.connect`` that say who we are, and the setting they come from."""
    login, options = credentials(
        url, settings.token, settings.nkey_seed, settings.nkey_seed_file, settings.credentials_file
    )
    if not url.hosts:
        raise ConfigError("url", f"{url} names no server", f"Write {url.scheme}://host:4222,host2:4222.")
    if url.path.strip("/"):
        raise ConfigError("url", f"{url} has the path {url.path!r}, and NATS has none", "Leave it out.")
    tls = settings.tls_context(url, "natss")
    if tls is not None:
        options["tls"] = tls
    return [(host, port or DEFAULT_PORT) for host, port in url.hosts], options, login
