"""A service that the supervisor started ends with it, however the supervisor ends."""

from __future__ import annotations

import os
import signal
from threading import Thread

__all__ = ["end_with_the_supervisor"]


def end_with_the_supervisor() -> None:
    """The supervisor holds the other end of our standard input; when that closes, drain and end."""

    def watch() -> None:
        while os.read(0, 1024):
            pass  # nothing is written to it
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, name="leash", daemon=True).start()
