"""What programs in other languages send, as the AMQP messages that they are: read without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from anybroker.adapter import Inbound, Lane
from anybroker_contract.raw import Quirk, RawMessage
from anybroker_contract.raw.rabbitmq import RabbitmqClient
from anybroker_rabbitmq.wire import Wire

LANE = Lane("orders/0", 1)
QUIRKS = RabbitmqClient("amqp://127.0.0.1").quirks()


def read(message: RawMessage) -> Inbound:
    """As a channel of aiormq gives it."""
    properties = Basic.Properties(headers=dict(message.headers), content_type=message.content_type)
    delivery = Basic.Deliver(delivery_tag=7, exchange="orders", routing_key="5")
    channel: Any = None
    header = ContentHeader(properties=properties)
    delivered = DeliveredMessage(delivery=delivery, header=header, body=message.body or b"", channel=channel)
    return Wire().read(delivered, LANE, 7, None)


@pytest.mark.parametrize("quirk", QUIRKS.values(), ids=QUIRKS)
def test_is_read_as_what_it_is(quirk: Quirk, is_what_it_is: Callable[[Inbound, Quirk], None]) -> None:
    is_what_it_is(read(quirk.message), quirk)
