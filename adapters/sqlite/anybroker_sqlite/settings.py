"""What can be set, in the URL's query or in the table ``sqlite`` of ``anybroker.toml``."""

from __future__ import annotations

from pydantic import Field

from anybroker.adapter import RESERVED_BYTES, SECURITY, AdapterSettings

__all__ = ["SqliteSettings"]

_MIB = 1024 * 1024


class SqliteSettings(AdapterSettings):
    """Options of ``sqlite:///file.db?option=value``."""

    busy_timeout: float = Field(
        default=5.0,
        ge=0,
        le=600,
        description="Seconds to wait for the write lock of another process; then the call is Unavailable.",
    )
    retention: float = Field(
        default=86_400.0,
        ge=0,
        description="Seconds for which events are kept, unless the topic says otherwise; 'inf': for ever. Events that "
        "a group of the topic has not finished are always kept.",
    )
    deduplication_window: float = Field(
        default=300.0,
        ge=0,
        description="Seconds for which a second copy of an event is recognised and dropped; 0: never. Events are kept "
        "for at least this long.",
    )
    max_event_bytes: int = Field(
        default=16 * _MIB,
        ge=64 * 1024 + RESERVED_BYTES,
        le=512 * _MIB,
        description="Bytes that one event may take, attributes and headers counted.",
    )
    poll: float = Field(
        default=0.5,
        ge=0.01,
        le=10,
        description="Seconds after which a waiting receiver checks without being woken: for expired leases, dead "
        "members, and events whose wake-up was lost.",
    )
    wake_folder: str | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="Folder for the FIFOs with which processes wake each other, the same in all of them; by default "
        "the database's name with '-wake'.",
    )
