"""What programs in other languages send, as the Kafka messages that they are: read without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition

from anybroker.adapter import Inbound
from anybroker_contract.raw import Quirk, RawMessage
from anybroker_contract.raw.kafka import KafkaClient
from anybroker_kafka.wire import Wire

QUIRKS = KafkaClient("kafka://127.0.0.1:9092").quirks()


def read(message: RawMessage) -> Inbound:
    """As a consumer of aiokafka gives it."""
    key = None if message.key is None else message.key.encode()
    headers: Any = tuple(message.headers.items())
    record = ConsumerRecord("orders", 0, 7, 0, 0, key, message.body, None, -1, -1, headers)
    return Wire().read(TopicPartition("orders", 0), record)


@pytest.mark.parametrize("quirk", QUIRKS.values(), ids=QUIRKS)
def test_is_read_as_what_it_is(quirk: Quirk, is_what_it_is: Callable[[Inbound, Quirk], None]) -> None:
    is_what_it_is(read(quirk.message), quirk)
