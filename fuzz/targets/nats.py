"""NATS: blocks of headers, what may reach an inbox, and notes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from anybroker.adapter import Foreign, Lane, Outbound, SubscriptionSpec
from anybroker_nats.answers import Answers
from anybroker_nats.client import RawClient
from anybroker_nats.notes import read_notes
from anybroker_nats.receiver import NatsReceiver
from anybroker_nats.sender import NatsSender
from anybroker_nats.wire import Wire

from .. import seeds
from ..messages import split, text
from ..registry import target
from ..using import use_any

_WIRE = Wire()
_LANE = Lane("orders/0", 1)
_LOOP = asyncio.new_event_loop()


def _read(block: bytes | None, body: bytes) -> Any:
    return _WIRE.read(None, b"orders.7", b"$JS.ACK.orders.g@0.1.7.7.1700000000000000000.0", body, block, _LANE, 7)


@target("nats-block", seeds.nats_blocks)
def block(data: bytes) -> object:
    """A block of headers, the body behind a group separator"""
    headers, _, body = data.partition(b"\x1d")
    inbound = _read(headers or None, body)
    event = use_any(inbound.event)
    assert all(isinstance(value, str) for value in inbound.headers.values())
    written, again_body = _WIRE.write(Outbound(event, "dead", headers={"anybroker-dead-reason": "r"}), "")
    again = _read(written, again_body)
    assert again.headers["anybroker-dead-reason"] == "r"
    if isinstance(event, Foreign):
        assert isinstance(again.event, Foreign)
        assert (again.event.body, again.event.headers) == (event.body, event.headers), "another dead letter"
        bare = event.without_headers()
        assert _WIRE.write(Outbound(bare, "dead"), "")[1] == body
    else:
        assert again.event == event
    return inbound


def _client() -> RawClient:
    """A client with the adapter's listeners, and no connection."""
    client = RawClient(False)
    link: Any = SimpleNamespace(timeout=1.0, watchers=set())
    spec = SubscriptionSpec("orders", "g", True, 2, "new", 10)
    listener: Any = SimpleNamespace()
    receiver: Any = NatsReceiver(link, client, _WIRE, spec, listener, iter(range(9)), 2, 20.0, False)
    receiver._member.prefix = b"_INBOX.x.d."
    answers: Any = Answers(client, "_INBOX.x", 1.0)
    sender: Any = NatsSender.__new__(NatsSender)
    sender._waiting, sender._prefix = {}, b"_INBOX.x.p."
    client._listeners = {1: receiver._arrived, 2: answers._answered, 3: sender._confirmed}
    return client


@target("nats-inbox", seeds.nats_inboxes)
def inbox(data: bytes) -> object:
    """What anybody who knows an inbox may send to it; the first byte says to which, the first headers are the subject
    and the reply"""
    fields, body = split(data[1:])
    subject, reply = ((fields + [(b"", None)] * 2)[at][1] or b"" for at in (0, 1))
    number = 1 + data[0] % 3 if data else 1
    prefix = (b"_INBOX.x.d.", b"_INBOX.x.a.", b"_INBOX.x.p.")[number - 1]

    async def arrive() -> None:
        client = _client()
        headers: Any = b"NATS/1.0 " + (body or b"") if data and data[0] & 0x80 else None
        await client._process_msg(number, prefix + subject, reply, body or b"", headers)

    _LOOP.run_until_complete(arrive())
    return None


@target("nats-notes", lambda: seeds.lines("nats notes"))
def notes(data: bytes) -> object:
    """Subjects below those of notes, to which anybody may publish who may publish to the topic"""
    subjects = {f"orders.@.g.~.{text(line)}": 1 for line in data.split(b"\n")}

    async def api(*_: object) -> Any:
        return {"state": {"subjects": subjects}}

    link: Any = SimpleNamespace(api=api)
    starts = _LOOP.run_until_complete(read_notes(link, "orders", "g"))
    assert all(sequence >= 0 and 0 <= count < 10**9 for sequence, count in starts.items())
    return starts
