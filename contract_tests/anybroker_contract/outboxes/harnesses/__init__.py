"""The harnesses of anybroker's own outboxes, one per file; the plugin finds them by their short names."""

from __future__ import annotations

__all__ = ["BUILT_IN", "PACKAGES"]

BUILT_IN: dict[str, str] = {
    "sqlite": "anybroker_contract.outboxes.harnesses.sqlite:SqliteOutboxes",
    "postgres": "anybroker_contract.outboxes.harnesses.postgres:PostgresOutboxes",
}
"""Short name to class: what ``all`` means, as far as the packages are there."""

PACKAGES = {"postgres": ("anybroker_postgres", "psycopg")}
"""What the outbox is a part of, and its client."""
