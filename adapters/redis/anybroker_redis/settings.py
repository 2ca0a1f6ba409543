"""The store's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from anybroker.kit.tls import TlsSettings

__all__ = ["RedisSettings"]


class RedisSettings(TlsSettings):
    """What can stand in the URL's query. Names in brackets are Redis's own."""

    retain: float = Field(
        7 * 86_400.0, gt=0, allow_inf_nan=False, description="Seconds for which done events are remembered, at least."
    )
    prefix: str = Field(
        "anybroker",
        min_length=1,
        max_length=64,
        pattern=r"^[^{}\s\x00-\x1f]+$",
        description="What the names of all keys begin with. No braces and no white space.",
    )
    timeout: float = Field(5.0, gt=0, le=60, description="Seconds by which every call has ended.")
    eviction: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="What a server that may evict keys is [maxmemory-policy]: refused, or not looked at.",
    )
    db: int = Field(0, ge=0, description="Number of the database, for a Unix socket; elsewhere it is the URL's path.")
