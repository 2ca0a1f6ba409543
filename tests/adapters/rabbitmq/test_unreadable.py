"""A message that pamqp cannot decode reaches aiormq as one that it can, and is dead-lettered byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from struct import pack
from types import SimpleNamespace
from typing import Any

import pamqp.frame
import pytest
from aiormq.abc import DeliveredMessage
from aiormq.connection import FrameReceiver, TCPTransportFactory
from aiormq.exceptions import AMQPConnectionError
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel
from pamqp.header import ContentHeader

from anybroker.adapter import Foreign, Lane, Outbound
from anybroker_contract.raw.rabbitmq import RabbitmqClient
from anybroker_rabbitmq.foreign import DecodedForeign
from anybroker_rabbitmq.frames import header_frame, native_table
from anybroker_rabbitmq.transport import ReadableTransport
from anybroker_rabbitmq.unreadable import UnreadableForeign, original
from anybroker_rabbitmq.wire import Wire

Run = Callable[[Any], Any]
UNREADABLE: Mapping[str, Any] = RabbitmqClient("amqp://127.0.0.1").unreadable()
GOOD = ContentHeader(0, 5, Basic.Properties(headers={"a": "é", "n": [1, {"x": None}]}, content_type="text/plain"))


def a_frame(kind: int, payload: bytes, channel: int = 7) -> bytes:
    return pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def a_header(properties: bytes, size: int = 5) -> bytes:
    return a_frame(2, pack(">HHQ", 60, 0, size) + properties)


async def seen(data: bytes, *, cut: int = 1 << 20, blocked: Any = None) -> list[Any]:
    """The frames that aiormq's reader gets of a connection on which this comes, in pieces."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(data), cut):
            writer.write(data[at : at + cut])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        url: Any = SimpleNamespace(scheme="amqp", host=host, port=port)
        reader, writer = await ReadableTransport(blocked).create(url)
        found: list[Any] = []
        receiver = FrameReceiver(reader)
        try:
            while True:
                found.append(await receiver.get_frame())
        except AMQPConnectionError as exc:
            if "Read 0 bytes but 1" not in str(exc):  # else it has ended between two frames
                raise
        finally:
            writer.close()
        return found


def read(properties: bytes, body: bytes = b"body!") -> Any:
    """One message through the reader, as the wire reads it."""
    [(_, channel, header)] = asyncio.run(seen(a_header(properties, len(body))))
    assert channel == 7
    assert header.body_size == len(body)
    delivery = Basic.Deliver(delivery_tag=7, exchange="orders", routing_key="5")
    message = DeliveredMessage(delivery=delivery, header=header, body=body, channel=None)  # type: ignore[arg-type]
    return Wire().read(message, Lane("orders/0", 1), 7, None)


def written(foreign: Any, **headers: str) -> bytes:
    """The properties of the message that it becomes, flags first, without the message's id."""
    flags, properties, body = Wire().write(Outbound(foreign, "dead", headers=headers), "the id")
    assert body == foreign.body
    assert flags & 0x0080
    return (flags & ~0x0080).to_bytes(2, "big") + properties.replace(b"\x06the id", b"")


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_what_can_be_read_comes_as_it_was(run: Run, cut: int) -> None:
    async def check() -> None:
        deliver = Basic.Deliver("tag", 1, False, "orders", "é")
        sent = [deliver, GOOD, ContentBody(b"12345"), Channel.CloseOk(), deliver, GOOD, ContentBody(b"x" * 300)]
        data = b"".join(pamqp.frame.marshal(frame, 3) for frame in sent) + b"\x08\0\0\0\0\0\0\xce"
        found = await seen(data, cut=cut)
        assert [channel for _, channel, _ in found] == [3] * 7 + [0]
        assert [pamqp.frame.marshal(frame, 3) for _, _, frame in found[:-1]] == [
            pamqp.frame.marshal(frame, 3) for frame in sent
        ]

    run(check())


@pytest.mark.parametrize("name", [name for name, each in UNREADABLE.items() if "routing" not in name])
def test_what_cannot_be_read_is_foreign_and_goes_on_as_it_came(name: str) -> None:
    raw = UNREADABLE[name].native.properties
    inbound = read(raw)
    foreign = inbound.event
    assert isinstance(foreign, UnreadableForeign)
    assert foreign.body == b"body!"
    assert ("x-legacy", b"yes") in foreign.headers
    assert inbound.headers["x-legacy"] == "yes"
    assert str(foreign.reason).startswith("its AMQP headers cannot be read: ")
    dead = read(written(foreign, **{"anybroker-reason": "é", "x-legacy": "ours gives way"}))
    assert list(dead.event.headers)[:-1] == list(foreign.headers)
    assert list(dead.event.headers)[-1] == ("anybroker-reason", "é".encode())
    assert dead.headers["anybroker-reason"] == "é"
    # Replayed without what was added, it is what it was, but persistent.
    assert read(written(dead.event)).event.raw == written(foreign)
    assert raw[-3:] in written(foreign)


def test_the_reason_names_what_is_wrong() -> None:
    reasons = {name: str(read(each.native.properties).event.reason) for name, each in UNREADABLE.items()}
    assert r"a header's name is not UTF-8: b'caf\xe9'" in reasons["a header's name that is not UTF-8"]
    assert "its property content_type is not UTF-8" in reasons["a content type that is not UTF-8"]
    assert str(2**62) in reasons["a time in nanoseconds"]
    assert "32 tables or arrays" in reasons["1,500 arrays within each other"]


def test_a_stub_cannot_be_sent() -> None:
    """A publisher whose message looks like a stub is read as what it is: the weight is the broker's."""
    inbound = read(pack(">H", 0x2000) + native_table({"": bytearray(b"\x20\x00")}))
    assert isinstance(inbound.event, DecodedForeign)


def test_what_is_returned_is_matched_although_its_headers_cannot_be_read(run: Run) -> None:
    """A dead letter with such headers for which there is no queue: its confirmation must not count as stored."""

    async def check() -> None:
        raw = UNREADABLE["a header's name that is not UTF-8"].native.properties
        properties = pack(">H", 0x2080) + raw[2:] + b"\x05abc-1"
        data = pamqp.frame.marshal(Basic.Return(312, "NO_ROUTE", "dead", "7"), 3) + a_header(properties)
        (_, _, returned), (_, _, header) = await seen(data)
        assert returned.exchange == "dead"
        assert header.properties.message_id == "abc-1"
        assert original(header) == properties

    run(check())


def test_names_that_are_not_utf_8_are_shown_escaped(run: Run) -> None:
    async def check() -> None:
        name = b"\x06caf\xe9.7"
        long = b"\xff" + b"x" * 254 + b"\xc3"
        data = a_frame(1, pack(">HH", 60, 60) + b"\x03tag" + pack(">QB", 9, 1) + b"\x06orders" + name)
        data += a_frame(1, pack(">HHH", 60, 50, 312) + b"\x08NO_ROUTE" + b"\x06orders" + name)
        data += a_frame(1, pack(">HHQB", 60, 71, 5, 0) + b"\x06orders" + name + pack(">I", 3))
        data += a_frame(1, pack(">HHH", 20, 40, 404) + long + pack(">HH", 50, 10))
        data += a_frame(1, pack(">HH", 20, 41))
        deliver, returned, got, close, last = [frame for _, _, frame in await seen(data)]
        assert {each.routing_key for each in (deliver, returned, got)} == {r"caf\xe9.7"}
        assert (deliver.consumer_tag, deliver.delivery_tag, deliver.redelivered) == ("tag", 9, True)
        assert got.message_count == 3
        assert (close.reply_code, close.class_id, close.method_id) == (404, 50, 10)
        assert close.reply_text.startswith("x" * 254)
        assert last.name == "Channel.CloseOk"

    run(check())


def test_a_connection_that_ends_within_a_frame_says_so(run: Run) -> None:
    async def check() -> None:
        with pytest.raises(AMQPConnectionError, match="unexpectedly closed"):
            await seen(pamqp.frame.marshal(GOOD, 3)[:-3])

    run(check())


def test_what_is_not_made_of_frames_is_for_aiormq_to_judge(run: Run) -> None:
    async def check() -> None:
        with pytest.raises(Exception, match="protocol header"):
            await seen(b"AMQP\0\0\x09\x01")

    run(check())


def test_tls_goes_the_same_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which factory connects follows the scheme; what it is told is passed on."""

    async def check() -> None:
        asked: list[Any] = []

        async def create(_: Any, url: Any, **options: Any) -> Any:
            asked.append((url, options))
            return asyncio.StreamReader(), "writer"

        monkeypatch.setattr(TCPTransportFactory, "create", create)
        url: Any = SimpleNamespace(scheme="amqp")
        reader, writer = await ReadableTransport().create(url, ssl_context_provider=1)
        assert (asked, writer) == ([(url, {"ssl_context_provider": 1})], "writer")
        assert not reader.at_eof()

    run(check())


@given(st.binary(max_size=200), st.sampled_from([0, 0x2000, 0xA000, 0x2040, 0xFFFC, 0xFFFF]))
@example(b"\xff\xff\xff\xff", 0x2000)
@example(b"\0\0\0\x0b\x01aF\0\0\0\x04\x01aV\0", 0x2000)
def test_no_content_header_ends_the_reader(properties: bytes, flags: int) -> None:
    """Whatever the bytes are, pamqp gets something that it decodes, and a foreign message is made and written."""
    inbound = read(pack(">H", flags) + properties)
    foreign = inbound.event
    assert isinstance(foreign, Foreign)
    flags, written, _ = Wire().write(Outbound(foreign, "dead", headers={"anybroker-reason": "r"}), "id")
    frame = header_frame(7, 5, flags, written)
    [(_, _, header)] = asyncio.run(seen(frame))
    dead = header.properties
    assert dead.message_id == "id"


VALUES = st.recursive(
    st.one_of(
        st.tuples(st.just(b"S"), st.binary(max_size=9).map(lambda text: pack(">I", len(text)) + text)),
        st.tuples(st.just(b"x"), st.binary(max_size=9).map(lambda text: pack(">I", len(text)) + text)),
        *(
            st.tuples(st.just(code), st.binary(min_size=size, max_size=size))
            for code, size in {b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8}.items()
        ),
        *(
            st.tuples(st.just(code), st.binary(min_size=size, max_size=size))
            for code, size in {b"f": 4, b"d": 8, b"D": 5, b"T": 8, b"V": 0}.items()
        ),
    ).map(b"".join),
    lambda inner: st.lists(inner, max_size=3).map(b"".join).map(lambda all_: b"A" + pack(">I", len(all_)) + all_),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), VALUES), max_size=4))
def test_every_table_of_amqp_survives_a_dead_letter(entries: list[tuple[bytes, bytes]]) -> None:
    """Of any type and any value: what becomes its dead letter can be written, and is read as the same headers."""
    table = b"".join(bytes((len(name),)) + name + value for name, value in entries)
    first = read(pack(">HI", 0x2000, len(table)) + table)
    second = read(written(first.event))
    assert [(name, value) for name, value in first.event.headers] == list(second.event.headers)


@pytest.mark.parametrize("cut", [1, 1 << 20])
def test_why_the_broker_reads_no_more_is_told(cut: int) -> None:
    reason = b"low on memory"
    data = a_frame(1, b"\0\x0a\0\x3c" + bytes((len(reason),)) + reason, 0) + a_frame(1, b"\0\x0a\0\x3d", 0)
    told: list[str | None] = []
    found = asyncio.run(seen(data + a_header(b"\0\0"), cut=cut, blocked=told.append))
    assert told == ["low on memory", None]
    assert [getattr(frame, "name", "") for _, _, frame in found][-1] == "ContentHeader"


def test_what_cannot_be_read_is_not_routed_by_its_headers_again() -> None:
    table = b"\x04caf\xe9S\0\0\0\x01x" + b"\x02CCA\0\0\0\x06S\0\0\0\x017"
    properties = b"\x20\0" + pack(">I", len(table)) + table
    for _ in range(2):
        foreign = read(properties).event
        assert dict(foreign.headers)["CC"] == b"['7']"
        flags, dead, _ = Wire().write(Outbound(foreign, "dead", headers={"anybroker-dead-reason": "r"}), "id")
        assert b"\x02CC" not in dead
        assert b"\x14anybroker-foreign-ccA" in dead
        properties = pack(">H", flags) + dead


def test_a_header_without_a_value_has_none_beside_what_cannot_be_read() -> None:
    table = b"\x06x-nullV" + b"\x07x-emptyS\0\0\0\0" + b"\x04caf\xe9S\0\0\0\x01x"
    raw = pack(">H", 0x2000) + pack(">I", len(table)) + table
    inbound = read(raw)
    assert isinstance(inbound.event, UnreadableForeign)
    assert dict(inbound.event.headers) == {"x-null": None, "x-empty": b"", "caf\\xe9": b"x"}
    assert "x-null" not in inbound.headers
    assert inbound.headers["x-empty"] == ""
    assert b"\x06x-nullV" in written(inbound.event)
