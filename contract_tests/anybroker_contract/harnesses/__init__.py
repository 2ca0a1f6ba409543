"""The harnesses of anybroker's own adapters, one per file; the plugin finds them by their short names."""

from __future__ import annotations

__all__ = ["BUILT_IN", "VARIANTS"]

BUILT_IN: dict[str, str] = {
    "memory": "anybroker_contract.harnesses.memory:MemoryHarness",
    "sqlite": "anybroker_contract.harnesses.sqlite:SqliteHarness",
    "kafka": "anybroker_contract.harnesses.kafka:KafkaHarness",
    "rabbitmq": "anybroker_contract.harnesses.rabbitmq:RabbitmqHarness",
    "nats": "anybroker_contract.harnesses.nats:NatsHarness",
    "sqs": "anybroker_contract.harnesses.sqs:SqsHarness",
}
"""Short name to class, in the order of the table's columns: what ``all`` means."""

VARIANTS: dict[str, str] = {
    "rabbitmq4": "anybroker_contract.harnesses.rabbitmq:Rabbitmq4Harness",
}
"""More short names: other versions of the servers above, which ``all`` leaves out."""
