"""``health_app``: the same answers over ASGI, wherever it is mounted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from anybroker import Bus
from anybroker.observe import health_app

Run = Callable[..., Any]


class Metrics:
    def exposition(self, accept: str) -> tuple[bytes, str]:
        return f"up 1 # {accept}\n".encode(), "text/plain; version=0.0.4"


async def call(app: Any, path: str, method: str = "GET", **scope: Any) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await app({"type": "http", "method": method, "path": path, "headers": [], **scope}, receive, send)
    start, body = sent
    assert (start["type"], body["type"]) == ("http.response.start", "http.response.body")
    return start["status"], dict(start["headers"]), body["body"]


def test_each_path(bus: Bus, run: Run) -> None:
    app = health_app(bus, metrics=Metrics())

    async def main() -> None:
        assert (await call(app, "/ready"))[::2] == (503, b"the Bus is new\n")
        async with bus:
            status, headers, body = await call(app, "/live")
            assert (status, body, headers[b"content-length"]) == (200, b"ok\n", b"3")
            status, headers, body = await call(app, "/health")
            assert (status, headers[b"content-type"]) == (200, b"application/json")
            assert json.loads(body)["ready"] is True
            accept = [(b"Accept", b"text/plain"), (b"accept", b"*/*")]
            assert (await call(app, "/metrics", headers=accept))[2] == b"up 1 # text/plain, */*\n"
            assert (await call(app, "/live", "HEAD"))[::2] == (200, b"")
            assert (await call(app, "/nowhere"))[0] == 404
            status, headers, _ = await call(app, "/live", "POST")
            assert (status, headers[b"allow"]) == (405, b"GET, HEAD")

    run(main())


@pytest.mark.parametrize(("path", "root"), [("/shop/live", "/shop"), ("/live", "/shop"), ("/live", "")])
def test_it_answers_where_it_is_mounted(bus: Bus, run: Run, path: str, root: str) -> None:
    assert run(call(health_app(bus), path, root_path=root))[0] == 200


def test_it_may_be_made_for_a_running_bus(bus: Bus, run: Run) -> None:
    async def main() -> None:
        async with bus:
            assert (await call(health_app(bus), "/ready"))[0] == 200

    run(main())


def test_served_by_itself_it_starts_and_ends(bus: Bus, run: Run) -> None:
    received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    run(health_app(bus)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_websocket_is_closed(bus: Bus, run: Run) -> None:
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    run(health_app(bus)({"type": "websocket", "path": "/live"}, receive, send))
    assert sent == ["websocket.close"]
