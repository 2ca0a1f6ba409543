"""``health_app(bus)``: health and metrics as an ASGI app, for a web application that has a server already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from .answers import Answers, Exposes, Healthy
from .health import BLOCKED_LIMIT

__all__ = ["health_app"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def health_app(bus: Healthy, *, metrics: Exposes | None = None, blocked_limit: float = BLOCKED_LIMIT) -> App:
    """An ASGI app with the answers of :class:`HealthServer`. In FastAPI and Starlette:
    ``app.mount("/anybroker", health_app(bus))``. Make it before the Bus starts, so that ``/health`` has the lag.

    It runs in the event loop of the web application: while that is blocked nothing is answered, and a probe sees a
    time-out.
    """
    answers = Answers(bus, metrics, blocked_limit)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live_and_die(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        answer = answers.to(scope["method"], _path(scope), _accept(scope["headers"]))
        headers = [
            (b"content-type", answer.content_type.encode("latin-1")),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if answer.status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    return app


def _path(scope: Message) -> str:
    """The path below the place where the app is mounted: servers and frameworks differ in whether it is cut off."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _accept(headers: Iterable[tuple[bytes, bytes]]) -> str:
    return ", ".join(value.decode("latin-1") for name, value in headers if name.lower() == b"accept")


async def _live_and_die(receive: Receive, send: Send) -> None:
    """Where it is served by itself."""
    while True:
        what = (await receive())["type"]
        await send({"type": f"{what}.complete"})
        if what == "lifespan.shutdown":
            return
