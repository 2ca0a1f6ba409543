"""Stand-ins for our client, our link and a server: as much of them as the adapter uses, under the tests' control."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeout

from anybroker import Event
from anybroker.adapter import AdapterContext, BrokerUrl, Inbound, Lane, SubscriptionSpec
from anybroker.errors import AnybrokerError, Unavailable
from anybroker_nats import NatsAdapter
from anybroker_nats.client import RawClient
from anybroker_nats.failures import ApiError
from anybroker_nats.link import Link
from anybroker_nats.receiver import NatsReceiver
from anybroker_nats.refusals import Refusal, refusal_of
from anybroker_nats.settings import NatsSettings
from anybroker_nats.wire import Wire


def event(id: str = "1", key: str | None = None, data: Any = "data") -> Event[Any]:
    return Event.create(data, source="/shop", type="com.example.placed", id=id, key=key)


def block(*headers: tuple[str, str], pin: str = "") -> bytes:
    """Headers as they are on the wire."""
    lines = [f"{name}: {value}\r\n" for name, value in (*headers, *((("Nats-Pin-Id", pin),) if pin else ()))]
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def commands(data: bytes) -> list[SimpleNamespace]:
    """The commands in what was written: verb, subject, reply, headers, body."""
    found = []
    while data:
        line, _, data = data.partition(b"\r\n")
        verb, subject, *rest = line.decode().split(" ")
        sizes = [int(size) for size in rest[-2 if verb == "HPUB" else -1 :]]
        reply = rest[0] if len(rest) > len(sizes) else ""
        headers = sizes[0] if verb == "HPUB" else 0
        body = data[headers : sizes[-1]]
        found.append(SimpleNamespace(verb=verb, subject=subject, reply=reply, headers=data[:headers], body=body))
        assert data[sizes[-1] : sizes[-1] + 2] == b"\r\n"
        data = data[sizes[-1] + 2 :]
    return found


class FakeClient:
    """A RawClient without a connection. It keeps what is written."""

    def __init__(self) -> None:
        self.is_connected = True
        self.is_closed = False
        self.max_payload = 1_048_576
        self.pending_data_size = 0
        self.data: list[bytes] = []
        self.listeners: dict[str, Any] = {}

    def new_inbox(self) -> str:
        return "_INBOX.me"

    async def listen(self, subject: str, listener: Any) -> str:
        self.listeners[subject] = listener
        return subject

    async def unlisten(self, subscription: str, timeout: float) -> None:
        del self.listeners[subscription]

    def write(self, data: bytes) -> bool:
        if self.is_connected:
            self.data.append(data)
        return self.is_connected

    def written(self) -> list[SimpleNamespace]:
        """The commands since the last call."""
        data, self.data = b"".join(self.data), []
        return commands(data)


class FakeLink:
    """Answers requests with what ``answers`` says for an operation: a dict, an exception, an asyncio event that is
    never set for a server that does not answer, or nothing for 404."""

    def __init__(self) -> None:
        self.timeout = 0.2
        self.watchers: set[Any] = set()
        self.current = FakeClient()
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}

    async def client(self) -> FakeClient:
        if not self.current.is_connected:
            raise Unavailable("no connection")
        return self.current

    async def api(self, operation: str, body: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        self.asked.append((operation, body))
        await asyncio.sleep(0)
        answer = self.answers.get(operation)
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, asyncio.Event):  # no leader: it answers nothing
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout or self.timeout):
                    await answer.wait()
            raise NatsTimeout
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise ApiError({"code": 404, "err_code": 10059, "description": f"{operation} not found"})
        return answer

    async def find(self, operation: str) -> Any:
        try:
            return await self.api(operation)
        except ApiError as exc:
            if exc.code != 404:
                raise
        return None


class Listener:
    """A LaneListener that remembers."""

    def __init__(self) -> None:
        self.held: list[Lane] = []
        self.gone: list[Lane] = []
        self.given: list[Lane] = []
        self.busy: asyncio.Event | None = None
        """Handlers that run until it is set."""

    def assigned(self, lane: Lane, note: str = "") -> None:
        self.held.append(lane)

    async def revoked(self, lanes: Any, /) -> None:
        self.given += lanes
        if self.busy is not None:
            await self.busy.wait()

    def lost(self, lanes: Any, /) -> None:
        self.gone += lanes


_EVENT = (("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-partitionkey", "k"))


class ReceiverCase:
    """A receiver of one lane, or of an unordered group, and the server's side of it."""

    def __init__(
        self,
        *,
        ordered: bool = True,
        confirm: bool = False,
        lease: float = 60.0,
        lanes: int = 1,
    ) -> None:
        self.link = FakeLink()
        self.client = self.link.current
        self.listener = Listener()
        self.name = "g@0" if ordered else "g"
        self.consumer_sequence = 0
        self.stream_sequence = 0
        self.unacknowledged = 0
        self.waiting = 0
        self.pending = 0
        self.members = 1
        self.pinned = ""
        self.ack_wait = lease
        self.notes: dict[str, int] = {}
        self.link.answers[f"CONSUMER.INFO.orders.{self.name}"] = lambda _: self.info()
        self.link.answers["CONSUMER.INFO.orders.g@members"] = lambda _: {"num_waiting": self.members}
        self.link.answers["CONSUMER.CREATE.orders.g@members"] = {}
        self.link.answers[f"CONSUMER.UNPIN.orders.{self.name}"] = {}
        self.link.answers["STREAM.INFO.orders"] = lambda _: {"state": {"subjects": self.notes}, "config": {}}
        spec = SubscriptionSpec("orders", "g", ordered, 4, "new", 10)
        many = lanes if ordered else 0
        self.receiver = NatsReceiver(
            self.link, self.client, Wire(), spec, self.listener, itertools.count(1), many, lease, confirm
        )
        self.under_way: asyncio.Task[Any] | None = None

    def info(self) -> dict[str, Any]:
        return {
            "config": {"ack_wait": self.ack_wait / 3 * 1e9, "priority_timeout": self.ack_wait * 1e9},
            "num_ack_pending": self.unacknowledged,
            "num_waiting": self.waiting,
            "num_pending": self.pending,
            "delivered": {"consumer_seq": self.consumer_sequence, "stream_seq": self.stream_sequence},
            "priority_groups": [{"group": "lane", "pinned_client_id": self.pinned}],
        }

    def deliver(self, *sequences: int, pin: str = "p1", deliveries: int = 1, pending: bool = True) -> None:
        for sequence in sequences:
            self.consumer_sequence += 1
            self.stream_sequence = max(sequence, self.stream_sequence)
            self.unacknowledged += pending
            reply = f"$JS.ACK.orders.{self.name}.{deliveries}.{sequence}.{self.consumer_sequence}.1.0"
            headers = block(("ce-id", str(sequence)), *_EVENT, pin=pin if "@" in self.name else "")
            self.client.listeners["_INBOX.me.d.>"](b"orders.1", reply.encode(), b"{}", headers)

    def status(self, line: str, generation: int = 0, suffix: str = "") -> None:
        subject = f"_INBOX.me.d.0.{generation}{suffix}"
        self.client.listeners["_INBOX.me.d.>"](subject.encode(), b"", b"", f"NATS/1.0 {line}\r\n\r\n".encode())

    async def receive(self, limit: int = 100, timeout: float = 0.5) -> list[Inbound]:
        return list(await self.receiver.receive(limit, lanes=None, timeout=timeout))

    def pulls(self) -> list[dict[str, Any]]:
        found = [each for each in self.client.written() if ".MSG.NEXT." in each.subject]
        return [json.loads(each.body) for each in found if not each.subject.endswith("@members")]

    def acks(self) -> list[tuple[int, bytes]]:
        """Stream sequence and word of each acknowledgement since the last call."""
        found = [each for each in self.client.written() if each.subject.startswith("$JS.ACK")]
        return [(int(each.subject.split(".")[5]), each.body) for each in found]

    @staticmethod
    def ids(batch: list[Inbound]) -> list[str]:
        return [inbound.event.id for inbound in batch]  # type: ignore[union-attr]


def violation(subject: str) -> Refusal:
    """What the server says about a publish that this user may not make."""
    refusal = refusal_of(Exception(f'nats: permissions violation for publish to "{subject.lower()}"'))
    assert refusal is not None
    return refusal


@pytest.fixture
def receiver_case() -> Callable[..., Coroutine[Any, Any, ReceiverCase]]:
    """Makes an open receiver."""

    async def make(**options: Any) -> ReceiverCase:
        this = ReceiverCase(**options)
        await this.receiver.start()
        return this

    return make


_SERVER_INFO = {"server_id": "x", "version": "2.12.2", "headers": True, "max_payload": 1_048_576, "jetstream": True}


class Server:
    """Greets, answers PING, keeps what it receives, and sends what it is told to."""

    def __init__(self, **info: Any) -> None:
        self.info = _SERVER_INFO | info
        self.refusal = b""
        self.deaf = False
        self.answers_api = True
        self.received: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.on: Callable[[bytes], bytes] = lambda line: b""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        writer.write(f"INFO {json.dumps(self.info)}\r\n".encode())
        while line := await reader.readline():
            self.received.append(line)
            if self.deaf:
                continue
            if line.startswith(b"PING"):
                writer.write(self.refusal or b"PONG\r\n")
            elif line.startswith(b"PUB $JS.API.INFO") and self.answers_api:
                _, _, reply, _ = line.split(b" ")
                writer.write(b"MSG %b 1 2\r\n{}\r\n" % reply)
            writer.write(self.on(line))

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        server.cut()


def link(*ports: int, **options: Any) -> Link:
    return Link([("127.0.0.1", port) for port in ports], options, "url", 5.0, 1.0)


def adapter(server: Server, scheme: str = "nats", **options: Any) -> NatsAdapter:
    url = BrokerUrl(scheme, (("127.0.0.1", server.port),), **options)
    return NatsAdapter(url, NatsSettings(), AdapterContext("shop", "shop-1", connect_timeout=2.0))


async def failure(connecting: Any) -> AnybrokerError:
    before = asyncio.all_tasks()
    with pytest.raises(AnybrokerError) as caught:
        await asyncio.wait_for(connecting.connect(), 5)
    await connecting.close()
    left = {task for task in asyncio.all_tasks() - before if "talk" not in repr(task)}
    assert not left
    return caught.value


async def client(server: Server) -> RawClient:
    """Connected to it."""
    client = RawClient(False)
    await client.connect(f"nats://127.0.0.1:{server.port}")
    return client


@pytest.fixture
def kit() -> SimpleNamespace:
    """The names of this module that tests use."""
    return SimpleNamespace(
        event=event,
        block=block,
        commands=commands,
        FakeLink=FakeLink,
        Listener=Listener,
        violation=violation,
        Server=Server,
        serving=serving,
        link=link,
        adapter=adapter,
        failure=failure,
        client=client,
    )
