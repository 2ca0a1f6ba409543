"""What counts as an answer in each protocol, with servers that say a few bytes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from anybroker_contract.brokers import amqp, kafka, nats, postgres, redis, sqs
from anybroker_contract.brokers.waiting import NotYet

Step = bytes | int
"""Bytes to send, or how many to read."""


@contextmanager
def server(*steps: Step) -> Iterator[int]:
    """Serve each connection by the same steps, then close it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            # A probe that has seen enough closes the connection: what was still to say is not wanted then.
            with connection, suppress(ConnectionError):
                connection.settimeout(10)
                for step in steps:
                    if isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        connection.recv(step, socket.MSG_WAITALL)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def kafka_reply(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 1) + body


def kafka_text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def kafka_steps(brokers: int = 1, controller: int = 1, coordinator: int = 0, group: int = 0) -> list[Step]:
    one = struct.pack(">i", 1) + kafka_text("127.0.0.1") + struct.pack(">ih", 9092, -1)
    metadata = struct.pack(">i", brokers) + one * brokers + struct.pack(">ii", controller, 0)
    header = 4 + 8 + 2 + len("anybroker")
    name = 2 + len(kafka.GROUP)
    return [
        header + 4,
        kafka_reply(metadata),
        header + name,
        kafka_reply(struct.pack(">hi", coordinator, 1) + kafka_text("127.0.0.1") + struct.pack(">i", 9092)),
        header + 4 + name,
        kafka_reply(struct.pack(">ih", 1, group)),
    ]


NATS_ASKS = len(
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
    b"SUB _INBOX.anybroker 1\r\nPUB $JS.API.INFO _INBOX.anybroker 0\r\n\r\n"
)


def amqp_method(method: tuple[int, int], arguments: bytes = b"") -> bytes:
    payload = struct.pack(">HH", *method) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


HEARTBEAT = struct.pack(">BHI", 8, 0, 0) + b"\xce"
START_OK = 7 + 4 + 4 + 6 + 4 + 12 + 6 + 1
TUNE_OK, OPEN, CLOSE = 7 + 4 + 8 + 1, 7 + 4 + 4 + 1, 7 + 4 + 7 + 1

Answers = Callable[[str, int], None]

SERVING: list[tuple[Answers, list[Step]]] = [
    (kafka.answers, kafka_steps()),
    (kafka.answers, kafka_steps(brokers=2, group=16)),  # another server has the group
    (nats.answers, [b"INFO {}\r\n", NATS_ASKS, b"PING\r\n", 6, b"MSG _INBOX.anybroker 1 2\r\n{}\r\n"]),
    (redis.answers, [6, b"+PONG\r\n"]),
    (postgres.answers, [8, b"R\0\0\0\x08\0\0\0\0"]),
    (
        amqp.answers,
        [
            *(8, amqp_method(amqp.START), START_OK, amqp_method(amqp.TUNE, b"\0" * 8), TUNE_OK + OPEN),
            *(HEARTBEAT, amqp_method(amqp.OPEN_OK, b"\0"), CLOSE, amqp_method(amqp.CLOSE_OK)),
        ],
    ),
]

NOT_SERVING: list[tuple[Answers, list[Step], str]] = [
    (kafka.answers, [], "closed the connection|reset"),
    (kafka.answers, kafka_steps(brokers=0), "does not know itself"),
    (kafka.answers, kafka_steps(controller=-1), "does not know itself"),
    (kafka.answers, kafka_steps(coordinator=15), "no group coordinator yet"),
    (kafka.answers, kafka_steps(group=14), "still loads"),
    (nats.answers, [b"SSH-2.0\r\n"], "does not greet"),
    (nats.answers, [b"INFO {}\r\n", NATS_ASKS, b"HMSG _INBOX.anybroker 1 16 16\r\n"], "JetStream does not answer"),
    (nats.answers, [b"INFO {}\r\n", b"-ERR 'Authorization Violation'\r\n"], "Authorization Violation"),
    (redis.answers, [6, b"-LOADING Redis is loading\r\n"], "LOADING"),
    (postgres.answers, [8, b"E\0\0\0\x11SFATAL\0C57P\0\0"], "FATAL"),
    (amqp.answers, [8, b"AMQP\0\0\x09\x01"], "closed the connection|reset"),
    (amqp.answers, [8, amqp_method(amqp.CLOSE, b"\0\0\x0dACCESS_REFUSED")], "ACCESS_REFUSED"),
]


@pytest.mark.parametrize(("answers", "steps"), SERVING)
def test_a_broker_that_serves(answers: Answers, steps: list[Step]) -> None:
    with server(*steps) as port:
        answers("127.0.0.1", port)


@pytest.mark.parametrize(("answers", "steps", "said"), NOT_SERVING)
def test_a_broker_that_does_not_serve_yet(answers: Answers, steps: list[Step], said: str) -> None:
    with server(*steps) as port, pytest.raises((NotYet, ConnectionResetError), match=said):
        answers("127.0.0.1", port)


class Emulator(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]]
    line: ClassVar[bytes]

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.wfile.write(self.line + b"\r\nContent-Length: 0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Not on stderr."""


@contextmanager
def emulator(line: bytes) -> Iterator[int]:
    Emulator.asked, Emulator.line = [], line
    with HTTPServer(("127.0.0.1", 0), Emulator) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield http.server_port
        finally:
            http.shutdown()
            thread.join()


def test_sqs_and_sns_are_both_asked() -> None:
    with emulator(b"HTTP/1.1 200 OK") as port:
        sqs.answers("127.0.0.1", port)
    assert [form.partition("&")[0] for form in Emulator.asked] == ["Action=ListQueues", "Action=ListTopics"]


@pytest.mark.parametrize(("line", "said"), [(b"HTTP/1.1 503 Slow", "sqs answers 503"), (b"SSH-2.0", "no HTTP")])
def test_an_emulator_that_does_not_serve_yet(line: bytes, said: str) -> None:
    with emulator(line) as port, pytest.raises(NotYet, match=said):
        sqs.answers("127.0.0.1", port)


@pytest.mark.parametrize(
    "answers", [kafka.answers, nats.answers, redis.answers, postgres.answers, amqp.answers, sqs.answers]
)
def test_nothing_there(answers: Answers) -> None:
    with server() as port:
        pass
    with pytest.raises(OSError, match="refused"):
        answers("127.0.0.1", port)
