"""A port that only completes TLS handshakes, for clients that must refuse the server's certificate first."""

from __future__ import annotations

import socket
import ssl
import threading

from .certificates import Pair

__all__ = ["Listener"]


class Listener:
    """Answers on ``127.0.0.1:port`` with this certificate, in a thread, until :meth:`stop`."""

    def __init__(self, pair: Pair) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.cert, pair.key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="secured listener", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # stopped
            connection.settimeout(10)
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                connection.close()  # the client has refused, as intended

    def stop(self) -> None:
        """End it."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._socket.close()
        self._thread.join(10)
