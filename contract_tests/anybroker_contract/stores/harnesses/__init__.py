"""The harnesses of anybroker's own stores, one per file; the plugin finds them by their short names."""

from __future__ import annotations

__all__ = ["BUILT_IN", "PACKAGES"]

BUILT_IN: dict[str, str] = {
    "memory": "anybroker_contract.stores.harnesses.memory:MemoryStores",
    "sqlite": "anybroker_contract.stores.harnesses.sqlite:SqliteStores",
    "postgres": "anybroker_contract.stores.harnesses.postgres:PostgresStores",
    "redis": "anybroker_contract.stores.harnesses.redis:RedisStores",
}
"""Short name to class: what ``all`` means, as far as the packages are there."""

PACKAGES = {"postgres": ("anybroker_postgres", "psycopg"), "redis": ("anybroker_redis", "redis")}
"""What the store is a part of, and its client."""
