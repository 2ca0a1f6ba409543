"""Inputs to start from: the messages that the contract suite sends as other programs, and short handwritten lines."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from hashlib import shake_128
from importlib import import_module
from typing import Any

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from anybroker.cloudevents import HeaderBinding, format_json, format_json_batch
from anybroker.event import Event
from anybroker_contract.raw import RawClient, RawMessage
from anybroker_rabbitmq.frames import native_table

from .messages import join

__all__ = [
    "amqp_names",
    "amqp_properties",
    "attributes",
    "batches",
    "dead_letters",
    "documents",
    "headers",
    "kafka_batches",
    "kafka_records",
    "lines",
    "nats_blocks",
    "nats_inboxes",
    "payloads",
    "random",
    "sqs_messages",
    "traces",
]

_EVENTS = [
    Event.create({"a": [1, "ä", None]}, source="/shop", type="t", subject="s", key="k", extensions={"n": 5, "b": True}),
    Event.create("text", source="s", type="t", datacontenttype="text/plain; charset=latin-1"),
    Event.create(b"\xff\x00", source="s", type="t", extensions={"raw": b"\x01"}),
    Event.create(source="s", type="t", time="2016-12-31T23:59:60.123+01:00"),
]
_CLIENTS = {  # made, and never connected
    "kafka": ("KafkaClient", "kafka://127.0.0.1"),
    "rabbitmq": ("RabbitmqClient", "amqp://127.0.0.1"),
    "nats": ("NatsClient", "nats://127.0.0.1"),
    "sqs": ("SqsClient", "sqs://us-east-1?access_key_id=x&secret_access_key=x"),
}
_LINES = {
    "times": (
        *("2018-04-05T17:31:00Z", "2016-12-31t23:59:60z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60Z"),
        *(
            "2018-04-05 17:31:00.123456789-23:59",
            "2018-02-30T00:00:00Z",
            "2018-04-05T24:00:00Z",
            "2018-W14-4T00:00:00Z",
        ),
    ),
    "uris": (
        *(
            "/shop",
            "https://user@example.com:8/a;b?c#d",
            "urn:uuid:1",
            "//[::1]/x",
            "a:b",
            "%41",
            "./a:b",
            "mailto:a@b",
        ),
        *("http://" + "a" * 200 + "%", "?" * 100, "//" + "@" * 100 + "\\"),
    ),
    "media types": (
        *(
            "application/json",
            'text/plain; charset="utf-8"',
            "a/b;;; ; x=y",
            "Application/CloudEvents+JSON; charset=UTF-8",
        ),
        *(
            "text/plain; charset=idna",
            "text/plain; charset=utf-16",
            'a/b; x="\\"',
            "a/b" + "; " * 200,
            "a/b; charset=rot13",
        ),
    ),
    "percent": ("%c3%a4%20b", "100%", '"a\\"b"', "%ff", "%", "ä", "%00"),
    "notes": ('{"/s 1": 3}', "[]", '{"/s 1": -1}', '{"a": 1e3}', '{"a": true}', "[" * 3000, '{"a": ' + "9" * 100 + "}"),
    "nats notes": ("7.3", "7.3\n7.9\n8.1", "7", ".", "٣.٣", "7." + "9" * 300, "x.y", "-7.3"),
    "positions": (
        "1|1200|3-5,9|0:2",
        "1|1200||",
        "2|1|1|1",
        "1|0|0-1000000|",
        "1|1200|0-|:",
        "1|-5|1-2|0:-1",
        "1|1_2|٣|0:1",
    ),
    "counts": ("3", "999999999", "٣", "-1", "1e3", "9" * 5000, "", " 3", "1_0"),
    "reasons": ("the bank says no", "\x1b[2J\n", "\udcff", "ä" * 600, "\u202e", "a\u2028b"),
    "urls": (
        *(
            "kafka://a:9092,b:9092",
            "amqp://u:p%40@h/vhost?x=1",
            "sqlite:////var/shop.db",
            "nats://[::1]:4222",
            "memory://",
        ),
        *(
            "sqs://us-east-1?endpoint_url=http%3A%2F%2F127.0.0.1",
            "kafka://h:99999999",
            "kafka://[",
            "a://u:p@h@i",
            "://",
        ),
        "amqp://\u2100/",
    ),
    "settings": (
        'url = "sqlite:///shop.db"\n[topics.orders]\ngroups = ["billing"]\nkey = "data.customer"\nlanes = 8\n',
        "[adapters.sqlite]\nbusy_timeout = 5\n",
        'lease = 20.0\ndrain = nan\n[topics."a.b"]\nretention = inf\ndead_letter = "x"\n',
        "a = " + "[" * 2000,
        "unknown = 1979-05-27T07:32:00Z\n",
    ),
}


@cache
def _client(name: str) -> RawClient:
    kind, url = _CLIENTS[name]
    client: RawClient = getattr(import_module(f"anybroker_contract.raw.{name}"), kind)(url)
    return client


@cache
def _odd(name: str) -> tuple[RawMessage, ...]:
    client = _client(name)
    found = [quirk.message for quirk in client.quirks().values()]
    return (*found, *client.unreadable().values(), *client.without_content_type().values())


def lines(name: str) -> list[bytes]:
    """Short handwritten texts."""
    return [line.encode("utf-8", "surrogatepass") for line in _LINES[name]]


def random() -> list[bytes]:
    """Bytes that choose events."""
    return [bytes(1024), *(shake_128(bytes((number,))).digest(1024) for number in range(8))]


def documents() -> Iterator[bytes]:
    """Events in JSON, and documents that are not events."""
    yield from map(format_json, _EVENTS)
    yield from (message.body for name in ("kafka", "nats") for message in _odd(name) if message.body)
    yield b'{"data_base64":"AP8=","\\u0064ata":1,"specversion":"1.0","id":"\\ud800","source":"/s","type":"t"}'
    yield b'{"specversion":"1.0","id":"1","source":"/s","type":"t","n":' + b"9" * 400 + b',"data":' + b"[" * 400
    core = b'{"specversion":"1.0","id":"1","source":"/s","type":"t",'
    yield b"\xef\xbb\xbf" + core + b'"datacontenttype":"a/b;charset=utf-16","data":""}'
    yield core + b'"datacontenttype":"application/cloudevents+json","data":{}}'


def batches() -> Iterator[bytes]:
    """Several events in JSON."""
    yield format_json_batch(_EVENTS)
    yield b" [ ] "
    yield b'[{"specversion":"1.0","id":"1","source":"/s","type":"t"},]'


def headers() -> Iterator[bytes]:
    """The first byte is the kind of headers."""
    bindings = (HeaderBinding(bytes, prefix="ce_"), HeaderBinding(str, prefix="ce-"))
    for kind in range(4):
        for event in _EVENTS:
            own = bindings[kind > 0].binary_headers(event)
            first = [("", "application/json")] if kind == 1 else []
            yield bytes((kind,)) + join([*first, *own], event.body)
        for name in ("kafka", "nats", "sqs"):
            for message in _odd(name):
                yield bytes((kind,)) + join(message.headers, message.body)


def attributes() -> Iterator[bytes]:
    """Of every type."""
    core = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    yield join({**core, "n": b"i\x05", "b": b"b1", "raw": b"y\x01", "time": b"t\x01\x02\x03\x04\x05"}, b"x")
    yield join({**core, "time": "2018-04-05T17:31:00Z", "f": b"f1", "m": b"mx", "datacontenttype": "text/plain"}, None)
    yield join({**core, "dataschema": "https://e.com/s#f", "subject": "", "key": "k"}, b"")
    yield join({**core, "n": b"i" + b"\x7f" * 16, "l": b"l", "data": "d", "e" * 30: "x"}, None)


def payloads() -> Iterator[bytes]:
    """A content type and data."""
    for kind in (
        "application/json",
        "text/plain",
        "text/plain; charset=utf-16",
        "a/b+json; charset=latin-1",
        "",
        "x/y",
    ):
        for body in (b'{"a":[1,2.5,null]}', "ä".encode(), b"\xff\xfe1\x00", b"[" * 300, b"9" * 5000, b"NaN"):
            yield kind.encode() + b"\x1d" + body


def kafka_records() -> Iterator[bytes]:
    """The first header is the key."""
    for message in _odd("kafka"):
        yield join([("", message.key), *message.headers.items()], message.body)
    binding = HeaderBinding(bytes, prefix="ce_")
    for event in _EVENTS:
        yield join([("", event.key), *binding.binary_headers(event), ("anybroker-attempts", b"3")], event.body)


def kafka_batches() -> Iterator[bytes]:
    """As they are in the log, also compressed."""
    for codec in (0, 1, 2, 3, 4):
        builder: Any = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1_000_000)
        for at, message in enumerate(_odd("kafka")):
            if not isinstance(message.native, bytes):
                fields = list(message.headers.items())
                builder.append(at, 1_700_000_000_000 + at, (message.key or "k").encode(), message.body, fields)
        yield bytes(builder.build())
    for message in _odd("kafka"):
        builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 1_000_000)
        fields = list(message.headers.items())
        name = message.native if isinstance(message.native, bytes) else b""
        builder.append(0, 1_700_000_000_000, None, message.body or b"", [*fields, ("~" * len(name), b"1")])
        yield bytes(builder.build()).replace(b"~" * len(name), name) if name else bytes(builder.build())


def amqp_properties() -> Iterator[bytes]:
    """Flags and properties, and a body."""
    for message in _odd("rabbitmq"):
        if message.native is not None:
            yield message.native.properties + b"\x1d" + (message.body or b"")
            continue
        kind = message.content_type
        short = b"" if kind is None else bytes((len(kind),)) + kind.encode()
        flags = 0x2000 | (0 if kind is None else 0x8000)
        yield flags.to_bytes(2, "big") + short + native_table(message.headers) + b"\x1d" + (message.body or b"")
    table = native_table({"a": "é", "n": [1, {"x": None}], "f": 1.5, "CC": "x", "x-death": [{"count": 3}]})
    rest = b"\x02\x09" + b"\x01c" * 2 + b"\x0260" + b"\x01i" + struct.pack(">Q", 1_700_000_000) + b"\x01x" * 4
    yield b"\xff\xfc" + b"\x03a/b" + b"\x01g" + table + rest + b"\x1dbody"
    every = b"".join(b"\x01" + code + code + value for code, value in _AMQP_VALUES.items())
    yield b"\x20\x00" + struct.pack(">I", len(every)) + every + b"\x1d"


_AMQP_VALUES = {
    **dict.fromkeys((b"t", b"b", b"B"), b"\xff"),
    **dict.fromkeys((b"s", b"u"), b"\xff\xfe"),
    **dict.fromkeys((b"I", b"i", b"f"), b"\xff\xfe\xfd\xfc"),
    **dict.fromkeys((b"L", b"l", b"d"), b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"),
    b"D": b"\x02\x00\x00\x00\x07",
    b"T": b"\x00\x00\x01\x8b\xcf\xe5\x68\x07",
    b"V": b"",
    b"\0": b"",
    b"x": b"\x00\x00\x00\x01\xff",
    b"A": b"\x00\x00\x00\x02t\x01",
    b"F": b"\x00\x00\x00\x04\x01at\x01",
}


def amqp_names() -> list[bytes]:
    """An exchange and a routing key."""
    return [b"orders\x1d5", b"caf\xe9\x1d\xff" * 3, b"\x1d" + b"\xc3" * 255, "ä".encode() * 127 + b"\x1d\xf0\x9f\x98"]


def nats_blocks() -> Iterator[bytes]:
    """A block of headers and a body."""
    for message in _odd("nats"):
        if message.native is not None:
            yield message.native.headers[:3000] + b"\x1d" + (message.body or b"")
            continue
        lines = "".join(f"{name}: {value}\r\n" for name, value in message.headers.items())
        yield (f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b"") + b"\x1d" + (message.body or b"")


def nats_inboxes() -> list[bytes]:
    """To whom, subject and reply."""
    ack = "$JS.ACK.orders.g@0.1.7.7.1700000000000000000.0"
    long = "$JS.ACK.hub.hash.orders.g@1.1.7.7.1700000000000000000.0.x"
    found = [b"\x00" + join([("", "0.0"), ("", each)], b"x") for each in (ack, long, "x", "a.b.c.d.e.f.g.h.i")]
    found += [b"\x80" + join([("", each)], b"503 No Responders") for each in ("0.0", "members", "7.0", "x", "0")]
    return [*found, *(bytes((kind,)) + join([("", "x")], b"{}") for kind in (1, 2, 0x81, 0x82))]


def sqs_messages() -> Iterator[bytes]:
    """The first header is the message group; values begin with the attribute's type."""
    for message in _odd("sqs"):
        fields = [("", message.key), *((name, f"s{value}") for name, value in message.headers.items())]
        for name, native in (message.native or {}).items():
            binary = native["DataType"].startswith("Binary")
            fields.append((name, b"b" + native["BinaryValue"] if binary else "s" + native["StringValue"]))
        yield join(fields, message.body)
    more = '"anybroker-attributes":{"x":["String","y"],"z":["Binary","AP8="]},"anybroker-key":"k"'
    moved = f'{{"anybroker-dead-reason":"r",{more}}}'
    yield join([("", None), ("anybroker", "s" + moved)], b"{}")
    yield join([("", None), ("anybroker", "s" + "[" * 3000)], b"{}")
    foreign = "sapplication/vnd.anybroker.foreign+json"
    yield join(
        [("", "g"), ("content-type", foreign)], b'{"body":"AP8=","headers":[["a","AP8="],["b",null]],"key":null}'
    )


def traces() -> list[bytes]:
    """Trace headers and a correlation id."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    return [
        join({"traceparent": parent, "tracestate": "a=b", "baggage": "k=v"}, b"c"),
        join({"traceparent": parent.replace("00-", "ff-", 1) + "-x", "tracestate": "a" * 600, "baggage": "ä\n"}, None),
        join({"traceparent": "01" + parent[2:] + "-" + "z" * 100, "baggage": "b" * 3000}, b"\xff"),
    ]


def dead_letters() -> Iterator[bytes]:
    """The headers of one, and characters that control a terminal."""
    core = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/s", "ce_type": "t"}
    facts = {f"anybroker-dead-{name}": name for name in ("reason", "error", "topic", "group", "handler", "lane", "at")}
    counts = {"anybroker-dead-attempts": "3", "anybroker-dead-replays": "1", "anybroker-dead-position": "7"}
    yield join({**core, **facts, **counts, "content-type": "application/json"}, b'{"a": "\\u001b[2J\\u202e"}')
    yield join({**core, "anybroker-dead-reason": "\x1b[2J", "ce_subject": "\u202eabc"}, "\x1b]0;t\x07\u2066".encode())
    more = {"history": r"1 2026-11-30T06:48:32.123Z E: a\n2 x y", "traceback": r"a\n\\x1b", "host": "h", "pid": "12"}
    told = {f"anybroker-dead-{name}": text for name, text in more.items()}
    yield join({**core, **facts, **told, "anybroker-dead-version": "\u202e"}, b"{}")
    yield join({**facts, "x-\x1b[31m": "\x9b", "x-null": None}, b"\xff\x1b")
    yield join({**core, "content-type": "text/plain"}, "a\u2028b\x0bc\x85d\n\n".encode())
    for message in _odd("kafka"):
        yield join({**message.headers, **counts}, message.body)
