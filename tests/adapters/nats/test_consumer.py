"""What a member knows about one consumer: whose the lane is, what is unacknowledged, and when the order is certain."""

from __future__ import annotations

import json
from types import SimpleNamespace

from anybroker_nats.commands import ACK, NAK, pull_request, touch_request
from anybroker_nats.consumer import Arrived, Consumer


def arrived(kit: SimpleNamespace, sequence: int, at: int, pin: str = "p1", deliveries: int = 1) -> tuple[Arrived, int]:
    """The message with this stream sequence, as delivery number ``at`` of the consumer."""
    reply = f"$JS.ACK.orders.g@0.{deliveries}.{sequence}.{at}.1.0".encode()
    return Arrived(deliveries, b"orders.1", reply, b"", kit.block(pin=pin)), sequence


def test_the_first_delivery_says_whose_the_lane_is(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    assert b'"id"' not in pull_request(5, 10, 99, consumer.pin)
    assert consumer.arrived(*arrived(kit, 7, 1)) == b""
    assert consumer.pin == b"p1"
    asked = json.loads(pull_request(5, 10, 99, consumer.pin))
    assert asked == {"batch": 5, "expires": 10, "max_bytes": 99, "group": "lane", "id": "p1"}
    assert json.loads(touch_request(consumer.pin))["id"] == "p1"
    assert json.loads(pull_request(1, 2, 3, None)) == {"batch": 1, "expires": 2, "max_bytes": 3}


def test_a_redelivery_of_what_we_have_is_not_another_event(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    consumer.arrived(*arrived(kit, 7, 1))
    consumer.unsettled[7] = consumer.buffer.pop(7).reply
    item, sequence = arrived(kit, 7, 2, deliveries=2)
    assert consumer.arrived(item, sequence) == b""
    assert consumer.buffer == {}
    assert consumer.unsettled == {7: item.reply}
    consumer.remember_ack(7, consumer.unsettled.pop(7))
    assert consumer.arrived(item, sequence) == b"PUB " + item.reply + ACK
    assert consumer.buffer == {}


def test_what_comes_after_the_lane_was_given_back_goes_back(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    consumer.arrived(*arrived(kit, 7, 1))
    consumer.left_pin = consumer.pin
    consumer.lose_pin()
    consumer.forget()
    late, sequence = arrived(kit, 8, 2, pin="p1")
    assert consumer.arrived(late, sequence) == b"PUB " + late.reply + NAK
    assert consumer.buffer == {}
    assert consumer.arrived(*arrived(kit, 8, 3, pin="p2")) == b""
    assert (list(consumer.buffer), consumer.pin) == ([8], b"p2")


def test_only_deliveries_that_the_server_had_made_count(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    for sequence, at in ((7, 1), (8, 2), (9, 3), (10, 4)):
        consumer.arrived(*arrived(kit, sequence, at))
    consumer.unsettled[7] = consumer.buffer.pop(7).reply
    consumer.released[8] = consumer.buffer.pop(8).reply
    assert consumer.count_held(2, 10) == 2
    assert consumer.count_held(3, 10) == 3
    assert consumer.count_held(3, 8) == 2, "a server that was killed knows less than it had sent"
    domain = b"$JS.ACK.hub.hash.orders.g@0.1.11.5.1.0.random"
    consumer.arrived(Arrived(1, b"orders.1", domain, b"", None), 11)
    assert (consumer.count_held(4, 11), consumer.count_held(5, 11)) == (4, 5)


def test_everything_unacknowledged_goes_back_in_the_streams_order(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    for at, sequence in enumerate((9, 3, 5, 4), 1):
        consumer.arrived(*arrived(kit, sequence, at))
    consumer.unsettled[4] = consumer.buffer.pop(4).reply
    consumer.released[5] = consumer.buffer.pop(5).reply
    assert [int(reply.split(b".")[5]) for reply in consumer.unacknowledged()] == [3, 4, 5, 9]
    assert {int(reply.split(b".")[5]) for reply in consumer.leased()} == {3, 4, 9}


def test_acknowledgements_are_remembered_up_to_a_bound() -> None:
    consumer = Consumer(0, "g@0", True)
    for sequence in range(12_000):
        consumer.remember_ack(sequence, b"reply")
    assert len(consumer.acked) == 10_000
    assert next(iter(consumer.acked)) == 2_000


def test_a_lost_pin_keeps_what_is_unacknowledged(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    consumer.synced = True
    consumer.arrived(*arrived(kit, 7, 1))
    consumer.outstanding = 5
    generation = consumer.generation
    consumer.lose_pin()
    assert (consumer.pin, consumer.synced, consumer.outstanding, list(consumer.buffer)) == (b"", False, 0, [7])
    assert consumer.generation == generation + 1
    shared = Consumer(0, "g", False)
    shared.unsync()
    assert shared.synced, "an unordered group waits for no one"


def test_a_stream_that_was_made_again_has_other_messages_under_the_same_numbers(kit: SimpleNamespace) -> None:
    consumer = Consumer(0, "g@0", True)
    for sequence in (7, 8):
        consumer.arrived(*arrived(kit, sequence, sequence))
        consumer.unsettled[sequence] = consumer.buffer.pop(sequence).reply
    consumer.remember_ack(8, consumer.unsettled.pop(8))
    for sequence in (7, 8):
        item, _ = arrived(kit, sequence, sequence)
        item = item._replace(reply=item.reply.replace(b".1.0", b".2.0"))
        assert consumer.arrived(item, sequence) == b"", "not acknowledged"
    assert (list(consumer.buffer), consumer.unsettled, consumer.acked) == ([7, 8], {}, {})


def test_a_pin_that_a_publisher_wrote_is_not_believed() -> None:
    """The server's own is at the end, even of a block without an end."""
    for written in (b"NATS/1.0\r\nNats-Pin-Id: forged\r\n", b"NATS/1.0\r\nNats-Pin-Id: forged\r\nx: y"):
        consumer = Consumer(0, "g@0", True)
        headers = written + b"Nats-Pin-Id: real\r\n\r\n"
        consumer.arrived(Arrived(1, b"orders.1", b"$JS.ACK.orders.g@0.1.1.1.1.0", b"", headers), 1)
        assert consumer.pin == b"real"
