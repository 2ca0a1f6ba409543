"""The parent's side of the keeper (see ``keeper.py``): start it, ask it, be sure that it ends."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from .errors import BrokerFailed

__all__ = ["Keeper", "tail"]

ANSWER_SECONDS = 90.0
"""How long one request may take; the longest is ``end`` with a command left for the end (60 s)."""

TAIL_LINES = 25

_living: weakref.WeakSet[Keeper] = weakref.WeakSet()


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented, or a word that there is nothing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return "    (no log)"
    kept = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (the log is empty)"


class Keeper:
    """A folder and the processes of one command, which end with this process whatever happens to it.

    Safe to use from several threads; requests are answered one after another. ``folder`` is made on creation, in
    ``place`` (default: the system's folder for temporary files), and is removed by ``end``.
    """

    def __init__(self, prefix: str, place: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            # -I -S: the keeper needs nothing installed, and starts three times as fast without site.
            [
                sys.executable,
                "-I",
                "-S",
                str(Path(__file__).with_name("keeper.py")),
                str(os.getpid()),
                str(place or tempfile.gettempdir()),
                prefix,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for the keeper
        )
        self._ended = False
        _living.add(self)
        self.folder = Path(self._answer()["folder"])
        self.log = self.folder / "log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # -- requests ----------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        """Start a command; its output is appended to ``log``. Raises ``BrokerFailed`` when it cannot be started."""
        self._ask(
            do="run",
            argv=list(argv),
            env=dict(env),
            cwd=str(cwd or self.folder),
            log=str(self.log),
            user=user,
            group=group,
        )

    def exit_code(self) -> int | None:
        """``None`` while the command runs (or was never started), else its exit code (-N: killed by signal N)."""
        code: int | None = self._ask(do="look")["code"]
        return code

    def running(self) -> bool:
        """Whether the command itself runs."""
        return bool(self._ask(do="look")["alive"])

    def processes(self) -> int:
        """How many processes there are below the keeper, daemons of the command included."""
        return int(self._ask(do="look")["below"])

    def send(self, number: signal.Signals) -> bool:
        """Signal the command itself; returns whether it was there."""
        return bool(self._ask(do="signal", signal=int(number))["sent"])

    def kill(self) -> None:
        """SIGKILL for all processes; returns when none is left."""
        self._ask(do="kill")

    def freeze(self) -> None:
        """SIGSTOP for all processes; returns when all of them have stopped."""
        self._ask(do="freeze")

    def thaw(self) -> None:
        """SIGCONT for all processes."""
        self._ask(do="thaw")

    def at_end(self, argv: Sequence[str]) -> None:
        """Run this command (at most 60 s) when everything ends, also when this process is killed."""
        self._ask(do="at_end", argv=list(argv))

    def end(self) -> None:
        """End all processes, remove the folder; returns when that is done. Idempotent."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        _living.discard(self)
        stdin, stdout = self._pipes()
        try:
            # Its own end, after the closed pipe, does the same; asking first only tells us when it is done.
            with contextlib.suppress(BrokenPipeError):
                stdin.close()
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise BrokerFailed(f"the processes under {self.folder} did not end in {ANSWER_SECONDS:.0f} s") from None
        finally:
            stdout.close()

    # -- the pipe ----------------------------------------------------------------------------------------------

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the keeper was started without pipes")
        return stdin, stdout

    def _ask(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            if self._ended:
                raise BrokerFailed("it was stopped before")
            stdin, _ = self._pipes()
            try:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            except BrokenPipeError:
                raise BrokerFailed("its keeper process is gone: somebody ended it") from None
            reply = self._answer()
        if "error" in reply:
            raise BrokerFailed(str(reply["error"]))
        return reply

    def _answer(self) -> dict[str, Any]:
        _, stdout = self._pipes()
        if not select.select([stdout], [], [], ANSWER_SECONDS)[0]:
            raise BrokerFailed(f"its keeper process did not answer in {ANSWER_SECONDS:.0f} s")
        line = stdout.readline()  # answers are one line and written at once, so nothing stays in a buffer
        if not line:
            raise BrokerFailed("its keeper process is gone: somebody ended it")
        reply: dict[str, Any] = json.loads(line)
        return reply


@atexit.register
def _end_all() -> None:
    # The keepers end by themselves when this process is gone; waiting for them here means that a shell prompt
    # that appears after us appears after them too.
    for keeper in list(_living):
        keeper.end()
