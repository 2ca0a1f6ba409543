"""The harnesses of anybroker's own adapters, one a file; the plugin finds them by their short names."""

from __future__ import annotations

__all__ = ["BUILT_IN"]

BUILT_IN: dict[str, str] = {
    "memory": "anybroker_contract.harnesses.memory:MemoryHarness",
    "sqlite": "anybroker_contract.harnesses.sqlite:SqliteHarness",
    "kafka": "anybroker_contract.harnesses.kafka:KafkaHarness",
}
"""Short name to class, in the order of the table's columns."""
