"""What programs in other languages send, as the SQS messages that they are: read without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anybroker.adapter import Inbound, Lane
from anybroker_contract.raw import Quirk, RawMessage
from anybroker_contract.raw.sqs import SqsClient
from anybroker_sqs.wire import Wire

LANE = Lane("orders/0", 1)
QUIRKS = SqsClient("sqs://us-east-1?access_key_id=k&secret_access_key=s").quirks()


def read(message: RawMessage) -> Inbound:
    """As boto3 gives it."""
    found: dict[str, Any] = {
        "Body": (message.body or b"").decode(),
        "MessageAttributes": {
            name: {"DataType": "String", "StringValue": value} for name, value in message.headers.items()
        },
    }
    return Wire().read(found, LANE)


@pytest.mark.parametrize("quirk", QUIRKS.values(), ids=QUIRKS)
def test_is_read_as_what_it_is(quirk: Quirk, is_what_it_is: Callable[[Inbound, Quirk], None]) -> None:
    is_what_it_is(read(quirk.message), quirk)
