"""The HTTP server of :class:`HealthServer`: small, in threads of its own, and not to be kept busy."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from time import monotonic, sleep
from typing import Any, cast

from ..printable import logger
from .answers import Answer, Answers

__all__ = ["Server"]

_log = logger("anybroker.health")

_SECONDS = 5.0
"""That a request may take, from its connection to its answer."""
_AT_ONCE = 16
"""Requests. More are turned away: probes come every few seconds."""
_PAUSE = 0.1
"""Seconds until a connection is asked for again."""


class Server(ThreadingHTTPServer):
    """Answers in daemon threads, of which there are few. Raises OSError where it cannot listen."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int, answers: Answers) -> None:
        """``host``: empty for all interfaces."""
        self.answers = answers
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._open: dict[socket.socket, float] = {}
        self._both = not host and socket.has_dualstack_ipv6()
        if self._both or ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Without asking a name server what this machine is called."""
        if self._both:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection. Where there is none to be had, because the process has no file descriptor left, it is
        asked for again at once, for as long as that lasts: so this waits."""
        try:
            return super().get_request()
        except OSError:
            sleep(_PAUSE)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is room for one."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._open[request] = monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._open.pop(request, None)
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._room.release()

    def service_actions(self) -> None:
        """Called several times a second: end the requests that take too long, however they dawdle."""
        now = monotonic()
        for request, since in list(self._open.items()):
            if now - since > _SECONDS:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has ended meanwhile
                    pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is not worth a line."""
        _log.debug("a request from %s failed", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One request of one connection (HTTP/1.0)."""

    timeout = _SECONDS

    def do_GET(self) -> None:
        """Answer."""
        answers = cast("Server", self.server).answers
        self._say(answers.to(self.command, self.path, self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For what is not a request, or has another method."""
        if code == 501:
            self.do_GET()
        else:
            self._say(Answer(int(code), "text/plain; charset=utf-8", b"not a request that is answered here\n"))

    def _say(self, answer: Answer) -> None:
        if self.request_version != "HTTP/0.9":
            self.send_response_only(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if answer.status == 405:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        _log.debug("%s: %r answered %d", self.client_address[0], self.requestline, answer.status)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is answered is logged once."""
