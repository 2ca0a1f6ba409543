"""``HealthServer``: what it answers, when, and what it does not let others do to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from anybroker import Bus, Event, MemoryBroker
from anybroker.errors import ConfigError, StateError, Unavailable
from anybroker.observe import HealthServer, _http
from anybroker.testing import FaultyBroker, delay, fail

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Metrics:
    def exposition(self, accept: str) -> tuple[bytes, str]:
        return f"up 1 # {accept}\n".encode(), "text/plain; version=0.0.4"


class BrokenMetrics:
    def exposition(self, accept: str) -> tuple[bytes, str]:
        raise ZeroDivisionError("a bug")


class Answered:
    def __init__(self, port: int, path: str, method: str, accept: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=8.0)
        try:
            connection.request(method, path, headers={"Accept": accept})
            response = connection.getresponse()
            self.status, self.body = response.status, response.read().decode()
            self.headers = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()


def ask_now(port: int, path: str, method: str = "GET", accept: str = "*/*") -> Answered:
    return Answered(port, path, method, accept)


async def ask(server: HealthServer, path: str, method: str = "GET", accept: str = "*/*") -> Answered:
    return await asyncio.to_thread(ask_now, server.port, path, method, accept)


@pytest.fixture
def server() -> HealthServer:
    return HealthServer("127.0.0.1:0", metrics=Metrics())


def test_each_path(bus: Bus, run: Run, server: HealthServer) -> None:
    part = bus.add(server).part

    async def main() -> None:
        async with bus:
            live, ready = await ask(part, "/live"), await ask(part, "/ready?verbose")
            assert (live.status, live.body) == (ready.status, ready.body) == (200, "ok\n")
            assert live.headers["content-type"] == "text/plain; charset=utf-8"
            assert set(live.headers) == {"content-type", "content-length", "cache-control", "x-content-type-options"}
            health = await ask(part, "/health")
            assert (health.status, health.headers["content-type"]) == (200, "application/json")
            assert json.loads(health.body)["state"] == "started"
            metrics = await ask(part, "/metrics", accept="application/openmetrics-text")
            assert (metrics.status, metrics.body) == (200, "up 1 # application/openmetrics-text\n")
            assert metrics.headers["content-type"] == "text/plain; version=0.0.4"
            head = await ask(part, "/ready", "HEAD")
            assert (head.status, head.body, head.headers["content-length"]) == (200, "", "3")
            assert (await ask(part, "/")).status == (await ask(part, "/live/x")).status == 404
            for method in ("POST", "DELETE", "BREW"):
                refused = await ask(part, "/live", method)
                assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")

    run(main())


def test_without_metrics_it_says_how(bus: Bus, run: Run) -> None:
    server = bus.add(HealthServer("127.0.0.1:0")).part

    async def main() -> None:
        async with bus:
            answer = await ask(server, "/metrics")
            assert answer.status == 404
            assert "metrics=" in answer.body

    run(main())


def test_metrics_that_fail_are_an_error_that_is_logged(bus: Bus, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    server = bus.add(HealthServer("127.0.0.1:0", metrics=BrokenMetrics())).part

    async def main() -> None:
        async with bus:
            answer = await ask(server, "/metrics")
            assert (answer.status, "bug" in answer.body) == (500, False)
            assert (await ask(server, "/live")).status == 200

    run(main())
    assert "could not be answered" in caplog.text


def test_not_ready_says_why(run: Run, until: Until) -> None:
    broker = FaultyBroker(MemoryBroker(), fail("publish", Unavailable("no room")))
    bus = Bus(broker, source="shop", consume=False, publish_deadline=30.0)
    server = bus.add(HealthServer("127.0.0.1:0")).part

    async def main() -> None:
        async with bus:
            publishing = asyncio.create_task(bus.publish("orders", 1, type="t"))
            await until(lambda: not bus.health().ready)
            ready = await ask(server, "/ready")
            assert (ready.status, ready.body) == (503, "publish: the topic 'orders' accepts no events: no room\n")
            assert ((await ask(server, "/live")).status, (await ask(server, "/health")).status) == (200, 503)
            broker.faults.clear()
            await publishing
            await until(lambda: bus.health().ready)
            assert (await ask(server, "/ready")).status == 200

    run(main())


def test_it_answers_while_the_broker_is_being_connected_and_while_it_drains(run: Run, until: Until) -> None:
    bus = Bus(FaultyBroker(MemoryBroker(), delay("connect", 1.0)), source="shop")
    server = bus.add(HealthServer("127.0.0.1:0")).part
    leave, started = asyncio.Event(), asyncio.Event()

    @bus.subscribe("orders", group="g")
    async def handle(_: Event[Any]) -> None:
        started.set()
        await leave.wait()

    async def main() -> None:
        starting = asyncio.create_task(bus.start())
        await until(lambda: server._server)
        assert ((await ask(server, "/live")).status, (await ask(server, "/ready")).status) == (200, 503)
        assert (await ask(server, "/ready")).body == "the Bus is starting\n"
        await starting
        assert (await ask(server, "/ready")).status == 200
        await bus.publish("orders", 1, type="t")
        await started.wait()
        closing = asyncio.create_task(bus.close())
        await until(lambda: bus.health().state == "closing")
        assert (await ask(server, "/live")).status == 200
        assert (await ask(server, "/ready")).body == "the Bus is closing\n"
        leave.set()
        await closing

    run(main())


def test_a_start_that_fails_and_a_close_free_the_port(run: Run) -> None:
    broker = FaultyBroker(MemoryBroker(), fail("connect"))
    bus = Bus(broker, source="shop")
    server = bus.add(HealthServer("127.0.0.1:0")).part

    async def main() -> None:
        with pytest.raises(Unavailable):
            await bus.start()
        with pytest.raises(StateError):
            _ = server.port
        broker.faults.clear()
        for _ in range(2):
            async with bus:
                port = server.port
                assert (await ask(server, "/live")).status == 200
            with pytest.raises(OSError):  # noqa: PT011 - refused
                ask_now(port, "/live")
        assert not [thread for thread in threading.enumerate() if thread.name == "anybroker health"]

    run(main())


def test_while_the_event_loop_is_blocked_it_is_not_live(bus: Bus, run: Run) -> None:
    server = bus.add(HealthServer("127.0.0.1:0", blocked_limit=1.2)).part
    answers: list[tuple[int, str]] = []

    def probe(port: int) -> None:
        for _ in range(2):
            answer = ask_now(port, "/live")
            answers.append((answer.status, answer.body))
            time.sleep(2.2)

    async def main() -> None:
        async with bus:
            probing = threading.Thread(target=probe, args=(server.port,))
            probing.start()
            time.sleep(3.0)  # noqa: ASYNC251 - it is to block
            await asyncio.to_thread(probing.join)
            await asyncio.sleep(0.5)
            assert (await ask(server, "/live")).status == 200, "it turns again"

    run(main())
    assert answers[0] == (200, "ok\n")
    assert answers[1][0] == 503
    assert "the event loop has been blocked for 2 s" in answers[1][1]


def test_a_port_in_use_ends_the_start(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        bus = Bus(MemoryBroker(), source="shop")
        bus.add(HealthServer(address))
        with pytest.raises(ConfigError, match="cannot listen there: Address already in use") as caught:
            run(bus.start())
    assert address in caught.value.setting
    assert bus.health().state == "closed"


@pytest.mark.parametrize("address", ["", "8080", "localhost", "::1:80", "h:x", "h:70000", "h:-1", "h:٣"])
def test_wrong_addresses(address: str) -> None:
    with pytest.raises(ConfigError, match="is not host:port"):
        HealthServer(address)


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_wrong_limits(limit: float) -> None:
    with pytest.raises(ConfigError, match="blocked_limit"):
        HealthServer(blocked_limit=limit)


@pytest.mark.parametrize("address", [":0", "[::1]:0", "localhost:0"])
def test_all_interfaces_and_names(bus: Bus, run: Run, address: str) -> None:
    server = bus.add(HealthServer(address)).part

    async def main() -> None:
        async with bus:
            host = "::1" if "[" in address else "127.0.0.1"
            with socket.create_connection((host, server.port), timeout=5.0) as connection:
                connection.sendall(b"GET /live HTTP/1.0\r\n\r\n")
                assert await asyncio.to_thread(connection.recv, 12) == b"HTTP/1.0 200"

    if "[" in address and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    run(main())


def test_it_belongs_to_one_bus(bus: Bus, server: HealthServer) -> None:
    bus.add(server)
    with pytest.raises(ConfigError, match="is in a Bus already"):
        Bus(MemoryBroker(), source="shop").add(server)


def test_without_a_bus_it_does_not_start(run: Run, server: HealthServer) -> None:
    with pytest.raises(StateError, match="belongs to no Bus"):
        run(server.start())


def test_it_may_be_added_to_a_running_bus(bus: Bus, run: Run, server: HealthServer) -> None:
    async def main() -> None:
        async with bus:
            await bus.add(server)
            assert (await ask(server, "/ready")).status == 200

    run(main())


def test_connections_that_dawdle_are_ended_and_more_than_a_few_are_turned_away(
    bus: Bus, run: Run, until: Until, server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "_SECONDS", 0.8)
    bus.add(server)

    async def main() -> None:
        async with bus:
            dawdling = [socket.create_connection(("127.0.0.1", server.port), timeout=5.0) for _ in range(16)]
            dawdling[0].sendall(b"GET /live")
            http_server = server._server
            assert http_server is not None
            await until(lambda: len(http_server._open) == 16)
            with pytest.raises((OSError, http.client.HTTPException)):
                await ask(server, "/live")
            for _ in range(10):  # a byte now and then does not help
                await asyncio.sleep(0.1)
                try:
                    dawdling[1].sendall(b"G")
                except OSError:
                    break
            await until(lambda: not http_server._open)
            assert (await ask(server, "/live")).status == 200
            for connection in dawdling:
                connection.close()

    run(main())


def test_what_is_not_a_request_is_refused_and_tells_nothing(bus: Bus, run: Run, server: HealthServer) -> None:
    bus.add(server)

    def send(port: int, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=8.0) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while piece := connection.recv(4096):
                received += piece
            return received

    async def main() -> None:
        async with bus:
            for data in (b"\x16\x03\x01\x00\xff\r\n\r\n", b"GET /live HTTP/9.9.9\r\n\r\n", b"GET " + b"x" * 70_000):
                answer = await asyncio.to_thread(send, server.port, data)
                assert b"Python" not in answer
                assert b"Server:" not in answer
                assert b"200" not in answer[:20]
            assert (await ask(server, "/live")).status == 200

    run(main())


def test_its_log_is_quiet(bus: Bus, run: Run, server: HealthServer, caplog: pytest.LogCaptureFixture) -> None:
    bus.add(server)
    caplog.set_level(logging.DEBUG, "anybroker.health")

    async def main() -> None:
        async with bus:
            await ask(server, "/live")

    run(main())
    lines = [record for record in caplog.records if record.name == "anybroker.health"]
    assert [(record.levelname, "answered 200" in record.getMessage()) for record in lines] == [("DEBUG", True)]


def test_its_thread_that_ended_is_a_problem(bus: Bus, run: Run, until: Until, server: HealthServer) -> None:
    bus.add(server)

    async def main() -> None:
        async with bus:
            assert bus.problems == {}
            assert server._server is not None
            await asyncio.to_thread(server._server.shutdown)
            await until(lambda: bus.problems)
            assert "has ended" in bus.problems["health"]

    run(main())


def test_the_lag_is_looked_at_where_a_server_shows_it(bus: Bus, run: Run, until: Until, server: HealthServer) -> None:
    bus.add(server)

    @bus.subscribe("orders", group="g")
    async def handle(_: Event[Any]) -> None: ...

    async def main() -> None:
        async with bus:
            await until(lambda: bus.health().subscriptions[0].lag is not None)

    run(main())


def test_it_ends_also_where_the_programs_threads_are_all_busy(bus: Bus, run: Run, server: HealthServer) -> None:
    bus.add(server)
    go_on = threading.Event()

    async def main() -> None:
        await bus.start()
        loop = asyncio.get_running_loop()
        busy = [loop.run_in_executor(None, go_on.wait) for _ in range(64)]
        try:
            await asyncio.wait_for(bus.close(drain=0.0), 5.0)
            assert not [thread for thread in threading.enumerate() if thread.name == "anybroker health"]
        finally:
            go_on.set()
        await asyncio.gather(*busy)

    run(main())


def test_without_a_file_descriptor_left_it_waits_and_goes_on(
    bus: Bus, run: Run, server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.add(server)
    tries: list[float] = []
    accept = _http.TCPServer.get_request

    def none_left(self: Any) -> Any:
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise OSError(24, "Too many open files")
        return accept(self)

    monkeypatch.setattr(_http.TCPServer, "get_request", none_left)

    async def main() -> None:
        async with bus:
            assert (await ask(server, "/live")).status == 200

    run(main())
    assert len(tries) == 4
    assert tries[3] - tries[0] >= 0.25, "it does not ask again at once"


def test_metrics_that_fail_do_not_fill_the_log(bus: Bus, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    server = bus.add(HealthServer("127.0.0.1:0", metrics=BrokenMetrics())).part

    async def main() -> None:
        async with bus:
            for _ in range(3):
                assert (await ask(server, "/metrics")).status == 500

    run(main())
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1
