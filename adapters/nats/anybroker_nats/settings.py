"""The adapter's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from anybroker.adapter import SECURITY
from anybroker.kit.tls import TlsSettings

__all__ = ["MAX_PAYLOAD", "NatsSettings"]

MAX_PAYLOAD = 1_048_576
"""Bytes of one message that a server takes by default [max_payload]. Once connected, its own limit counts."""


class NatsSettings(TlsSettings):
    """What can stand in the URL's query, or under ``[adapters.nats]``. Names in brackets are NATS's own."""

    content_mode: Literal["binary", "structured"] = Field(
        "binary", description="CloudEvents as headers and body, or as one JSON document."
    )
    replicas: int = Field(1, ge=1, le=5, description="Servers that keep a new stream [num_replicas].")
    storage: Literal["file", "memory"] = Field("file", description="Where a new stream is kept [storage].")
    max_age: float = Field(
        604_800,
        ge=0,
        description="Seconds for which a new stream keeps events, consumed or not, if the topic sets no retention; "
        "0: for ever [max_age].",
    )
    duplicate_window: float = Field(
        120, ge=1, description="Seconds for which a new stream remembers ids, to drop copies [duplicate_window]."
    )
    confirm_acks: bool = Field(
        False, description="Whether each acknowledgement is confirmed by the server (a round trip) [double ack]."
    )
    ping_interval: int = Field(
        4, ge=1, le=20, description="Seconds between pings; a path is dead after two without an answer."
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
