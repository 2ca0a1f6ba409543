"""What programs in other languages send, as NATS messages, read without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anybroker.adapter import Inbound, Lane
from anybroker_contract.raw import Quirk, RawMessage
from anybroker_contract.raw.nats import NatsClient
from anybroker_nats.wire import Wire

LANE = Lane("orders/0", 1)
QUIRKS = NatsClient("nats://127.0.0.1").quirks()


def read(message: RawMessage) -> Inbound:
    """As the server sends it: headers as lines."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in message.headers.items())
    block = f"NATS/1.0\r\n{lines}\r\n".encode() if lines else None
    client: Any = None
    return Wire().read(client, b"orders.7", b"", message.body or b"", block, LANE, 7)


@pytest.mark.parametrize("quirk", QUIRKS.values(), ids=QUIRKS)
def test_is_read_as_what_it_is(quirk: Quirk, is_what_it_is: Callable[[Inbound, Quirk], None]) -> None:
    is_what_it_is(read(quirk.message), quirk)
