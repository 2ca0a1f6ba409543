"""Our client against a server of a few lines: bytes as they are, and the first connection's end, whatever it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker_nats import NatsAdapter
from anybroker_nats.client import RawClient
from anybroker_nats.failures import FORBIDDEN, ApiError, Refusal
from anybroker_nats.link import Link
from anybroker_nats.notes import read_notes
from anybroker_nats.settings import NatsSettings

Run = Callable[[Any], Any]
INFO = {"server_id": "x", "version": "2.12.2", "headers": True, "max_payload": 1_048_576, "jetstream": True}


class Server:
    """Greets, answers PING, keeps what comes, and sends what it is told."""

    def __init__(self, **info: Any) -> None:
        self.info = INFO | info
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


def test_a_listener_gets_every_byte_and_nothing_passes_nats_pys_limits(run: Run) -> None:
    async def check() -> None:
        headers = b"NATS/1.0\r\nx-raw: \xff\xfe \r\nx-raw:  twice\r\n\r\n"
        message = b"HMSG orders.1 %b reply.1 %d %d\r\n%bbody\r\n" % (b"%d", len(headers), len(headers) + 4, headers)
        async with serving(Server()) as server:
            server.on = lambda line: message % int(line.split()[-1]) if line.startswith(b"SUB") else b""
            client = await _client(server)
            got: asyncio.Queue[Any] = asyncio.Queue()
            subscription = await client.listen("inbox.>", lambda *args: got.put_nowait(args))
            assert await asyncio.wait_for(got.get(), 5) == (b"orders.1", b"reply.1", b"body", headers)
            await client.unlisten(subscription, 5.0)
            await client.close()

    run(check())


def test_commands_go_out_in_order_and_nowhere_without_a_connection(run: Run, until: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            client = await _client(server)
            assert client.write(b"PUB a 0\r\n\r\n")
            assert client.write(b"PUB b 0\r\n\r\nPUB c 0\r\n\r\n")
            await until(lambda: b"PUB c 0\r\n" in server.received)
            lines = [line for line in server.received if line.startswith(b"PUB")]
            assert lines == [b"PUB a 0\r\n", b"PUB b 0\r\n", b"PUB c 0\r\n"]
            await client.close()
            assert not client.write(b"PUB d 0\r\n\r\n")

    run(check())


async def _client(server: Server) -> RawClient:
    client = RawClient(False)
    await client.connect(f"nats://127.0.0.1:{server.port}")
    return client


def test_what_the_server_says_of_itself_is_taken_over(run: Run) -> None:
    async def check() -> None:
        async with serving(Server(max_payload=65_536, version="2.11.0")) as server:
            connected = adapter(server)
            await connected.connect()
            assert connected.capabilities.max_event_bytes == 65_536
            assert not connected.capabilities.delay, "2.11 has no schedules"
            assert connected.native.is_connected
            await connected.close()

    run(check())


def test_an_old_server_is_refused_with_the_version_that_is_needed(run: Run) -> None:
    async def check() -> None:
        async with serving(Server(version="2.10.29")) as server:
            error = await failure(adapter(server))
            assert isinstance(error, ConfigError)
            assert "2.10.29" in str(error)
            assert "2.11" in str(error)

    run(check())


def test_a_refusal_is_one_error_at_once(run: Run) -> None:
    async def check() -> None:
        async with serving(Server(auth_required=True)) as server:
            server.refusal = b"-ERR 'Authorization Violation'\r\n"
            error = await failure(adapter(server, username="me", password="s3cret"))
            assert isinstance(error, ConfigError)
            assert "s3cret" not in str(error)

    run(check())


def test_no_password_goes_to_a_server_without_tls(run: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            error = await failure(adapter(server, "natss", username="me", password="s3cret"))
            assert isinstance(error, ConfigError)
            assert "TLS" in str(error)
            assert server.received == []

    run(check())


def test_where_nobody_answers_it_ends_in_time(run: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as closed:
            port = closed.port
        error = await failure(link(port))
        assert isinstance(error, Unavailable)
        async with serving(Server()) as server:
            server.deaf = True
            error = await failure(adapter(server))
            assert isinstance(error, Unavailable)
            server.deaf = False
            connected = link(port, server.port)  # the second of two
            await connected.connect()
            await connected.close()

    run(check())


class Watcher:
    """Writes down what becomes of the connection."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self) -> None:
        self.told.append("lost")

    def back(self) -> None:
        self.told.append("back")

    def gone(self) -> None:
        self.told.append("gone")

    def refused(self, refusal: Refusal) -> None:
        self.told.append(f"refused {refusal.subject}")


def test_watchers_hear_of_a_loss_and_of_the_way_back(run: Run, until: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            connected = link(server.port)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            server.cut()
            await until(lambda: watcher.told == ["lost"])
            with pytest.raises(Unavailable):
                await connected.client()
            await until(lambda: watcher.told == ["lost", "back"])
            assert (await connected.client()).is_connected
            server.writers[-1].write(b"-ERR 'User Authentication Expired'\r\n")
            await until(lambda: watcher.told[2:] == ["lost", "gone"])
            first = connected.native
            assert await connected.client() is not first, "another client, where nats-py has given up"
            await connected.close()

    run(check())


def test_when_nats_pys_task_for_connecting_again_dies_there_is_another_client(
    run: Run, until: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            connected = link(server.port)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)

            async def dies() -> None:
                raise RuntimeError("not expected")

            first = connected.native
            assert first is not None
            monkeypatch.setattr(first, "_process_connect_init", dies)
            server.cut()
            await until(lambda: watcher.told[-1:] == ["gone"])
            assert (await connected.client()) is not first
            await connected.close()

    run(check())


def test_a_path_that_takes_no_more_bytes_is_left(run: Run, until: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            connected = link(server.port, ping_interval=0.1)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            server.writers[-1].transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own transport
            client = await connected.client()
            assert all(client.write(b"PUB x 1000000\r\n%b\r\n" % bytes(1_000_000)) for _ in range(20))
            await until(lambda: watcher.told == ["lost", "back"])
            await connected.close()

    run(check())


def test_unlistening_without_a_connection_leaves_nothing_behind(run: Run, until: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            connected = link(server.port)
            await connected.connect()
            client = await connected.client()
            watcher = Watcher()
            connected.watchers.add(watcher)
            subscription = await client.listen("x", lambda *_: None)
            server.cut()
            await until(lambda: watcher.told == ["lost"])
            await client.unlisten(subscription, 1.0)
            assert (client._listeners, client._subs) == ({}, {})
            await connected.close()

    run(check())


def test_what_the_user_may_not_ask_is_an_error_at_once_and_said_once(
    run: Run, until: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The server drops the request, says so beside it, and answers nothing."""

    async def check() -> None:
        async with serving(Server()) as server:
            violation = b"-ERR 'Permissions Violation for Publish to \"$JS.API.STREAM.INFO.shop\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"PUB $JS.API.STREAM.INFO.shop ") else b""
            connected = Link([("127.0.0.1", server.port)], {}, "url", 5.0, 60.0)
            await connected.connect()
            watcher = Watcher()
            connected.watchers.add(watcher)
            for _ in range(2):
                with pytest.raises(ApiError, match=r"no permission.*stream\.info\.shop") as caught:
                    await asyncio.wait_for(connected.api("STREAM.INFO.shop"), 5)
                assert caught.value.code == FORBIDDEN
            assert watcher.told == ["refused $js.api.stream.info.shop"] * 2
            assert connected.native is not None
            assert connected.native.is_connected
            await connected.close()

    run(check())
    assert len([record for record in caplog.records if "refuses this user" in record.getMessage()]) == 1


def test_without_a_permission_to_listen_no_request_is_waited_for(run: Run) -> None:
    async def check() -> None:
        async with serving(Server()) as server:
            violation = b"-ERR 'Permissions Violation for Subscription to \"_INBOX.x.*\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"SUB _INBOX.") else b""
            error = await failure(adapter(server))
            assert isinstance(error, ConfigError)
            assert "_inbox.x.*" in str(error)
            assert "subscribe to _INBOX.>" in str(error)

    run(check())


def test_a_user_without_jetstreams_api_is_told_so_at_the_start(run: Run) -> None:
    async def check() -> None:
        async with serving(Server(jetstream=True)) as server:
            server.answers_api = False
            violation = b"-ERR 'Permissions Violation for Publish to \"$JS.API.INFO\"'\r\n"
            server.on = lambda line: violation if line.startswith(b"PUB $JS.API.INFO") else b""
            error = await failure(adapter(server))
            assert isinstance(error, ConfigError)
            assert "$js.api.info" in str(error)
            assert "is it enabled" not in str(error).lower()

    run(check())


def test_a_start_waits_for_a_leader_as_long_as_it_may(run: Run) -> None:
    """Servers that elect their leader take requests and say nothing; one that never has one ends the start in time."""

    async def check() -> None:
        async with serving(Server()) as server:
            server.answers_api = False
            asked = 0

            def later(line: bytes) -> bytes:
                nonlocal asked
                asked += line.startswith(b"PUB $JS.API.INFO")
                server.answers_api = asked >= 1  # the next one is answered
                return b""

            server.on = later
            url = BrokerUrl("nats", (("127.0.0.1", server.port),))
            patient = NatsAdapter(url, NatsSettings(), AdapterContext("shop", "shop-1", connect_timeout=20.0))
            await asyncio.wait_for(patient.connect(), 15)
            assert asked == 2
            await patient.close()
            server.answers_api = False
            server.on = lambda line: b""
            error = await failure(adapter(server))
            assert isinstance(error, Unavailable)
            assert "leader" in str(error)

    run(check())


def test_what_a_listener_cannot_take_is_dropped_and_the_reader_goes_on(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever may publish to an inbox may send anything to it."""

    async def check() -> None:
        async with serving(Server()) as server:
            messages = [b"x", b"y", b"z", b"7"]
            sent = b"".join(b"MSG inbox.%b %%d 0\r\n\r\n" % each for each in messages)
            server.on = lambda line: sent.replace(b"%d", line.split()[-1]) if line.startswith(b"SUB") else b""
            client = await _client(server)
            got: asyncio.Queue[int] = asyncio.Queue()
            await client.listen("inbox.*", lambda subject, *_: got.put_nowait(int(subject[6:])))
            assert await asyncio.wait_for(got.get(), 5) == 7
            await client.close()

    run(check())
    assert [record.getMessage() for record in caplog.records if record.name == "anybroker.nats"] == [
        "a message to 'inbox.x' that is not the server's was dropped, the 1. of this connection",
        "a message to 'inbox.y' that is not the server's was dropped, the 2. of this connection",
    ]


def test_notes_that_nobody_of_ours_wrote_are_left_out(run: Run) -> None:
    many = "9" * 300
    noted = [
        "7.2",
        "7.1",
        f"8.{many}",
        f"{many}.1",
        "9.\u0663",
        "\u0663.1",
        "10",
        ".",
        "-1.2",
        "11.999",
        "12.999999999",
    ]

    class Asked:
        async def api(self, *_: object) -> Any:
            return {"state": {"subjects": {f"orders.@.billing.~.{each}": 1 for each in noted}}}

    assert run(read_notes(Asked(), "orders", "billing")) == {7: 2, 11: 999}  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b"[" * 100_000, b"\xff"])
def test_an_answer_that_is_not_the_servers_is_an_error_of_ours(run: Run, answer: bytes) -> None:
    async def check() -> None:
        def answered(line: bytes) -> bytes:
            if not line.startswith(b"PUB $JS.API.STREAM.INFO"):
                return b""
            return b"MSG %b 1 %d\r\n%b\r\n" % (line.split()[2], len(answer), answer)

        async with serving(Server()) as server:
            server.on = answered
            asking = link(server.port)
            with pytest.raises(Unavailable, match=r"NATS answered STREAM\.INFO\.orders with what is not"):
                await asking.api("STREAM.INFO.orders")
            await asking.close()

    run(check())
