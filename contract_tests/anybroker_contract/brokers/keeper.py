"""The keeper: a small process next to the tests that owns one broker's processes and its folder.

It is run as a script by its path (``python -I -S keeper.py PARENT_PID FOLDERS_PLACE PREFIX``), so it imports the
standard library only. It reads one JSON request a line on stdin and answers one JSON object a line on stdout.

Why a separate process: whatever happens to the tests - an exception, Ctrl-C, SIGTERM, SIGKILL - the kernel closes
their end of the pipe, and the keeper then kills every process below it and removes the folder. On Linux it is a
"child subreaper", so a daemon that forked itself away (RabbitMQ's epmd) is still below it and ends as well.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

LOOK_SECONDS = 0.5
"""How often the keeper checks whether its parent lives; it also notices the closed pipe at once."""

LAST_COMMAND_SECONDS = 60.0
"""How long one command given by ``at_end`` may run."""


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _die_with_keeper() -> None:
    # Runs in the child between fork and exec. Only for the case that somebody kills the keeper itself.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _from_proc() -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:  # it ended while we were looking
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]  # the command's name, before that, may hold anything
        found[int(entry)] = (int(parent), state)
    return found


def _from_ps() -> dict[int, tuple[int, str]]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,state="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listing.stdout.splitlines())
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}


_everything = _from_proc if Path("/proc/self/stat").exists() else _from_ps
"""Every process of the machine: pid -> (parent's pid, one-letter state)."""


class Keeper:
    """One folder, at most one command at a time with everything below it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._main = 0
        self._codes: dict[int, int] = {}
        self._last: list[list[str]] = []
        self._popen: subprocess.Popen[bytes] | None = None

    # -- processes ---------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of every process below that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._codes[pid] = os.waitstatus_to_exitcode(status)

    def _below(self, *, dead: bool = False) -> dict[int, str]:
        """Every living process below the keeper (and with ``dead`` the unreaped too): pid -> one-letter state."""
        self.reap()
        everything = _everything()
        children: dict[int, list[int]] = {}
        for pid, (parent, _) in everything.items():
            children.setdefault(parent, []).append(pid)
        found: dict[int, str] = {}
        todo = [os.getpid()]
        while todo:
            for pid in children.get(todo.pop(), []):
                todo.append(pid)
                if dead or everything[pid][1] not in "ZX":
                    found[pid] = everything[pid][1]
        return found

    @staticmethod
    def _send(pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return  # it has ended by itself, as the signal would have made it

    def _kill_all(self) -> None:
        # A loop, because a process may fork between the look and the signal; until all are reaped, because the
        # first thread of a large process is a zombie while its other threads still hold the port.
        while below := self._below(dead=True):
            for pid in below:
                self._send(pid, signal.SIGKILL)
            time.sleep(0.005)

    def _main_alive(self) -> bool:
        self.reap()
        return self._main != 0 and self._main not in self._codes

    # -- requests ----------------------------------------------------------------------------------------------

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a command; its output is appended to the given log file."""
        if self._main_alive():
            raise RuntimeError("a command is running already")
        user = request.get("user")
        with Path(request["log"]).open("ab") as log:
            self._popen = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=request["cwd"],
                env=request["env"],
                start_new_session=True,
                user=user,
                group=request.get("group"),
                extra_groups=None if user is None else [],
                preexec_fn=_die_with_keeper,
            )
        self._main = self._popen.pid
        return {"pid": self._main}

    def look(self, _: dict[str, Any]) -> dict[str, Any]:
        """Say whether the command runs, its exit code if not, and how many processes are below."""
        alive = self._main_alive()
        return {"alive": alive, "code": self._codes.get(self._main), "below": len(self._below())}

    def signal(self, request: dict[str, Any]) -> dict[str, Any]:
        """Signal the command itself; say whether it was there."""
        if not (there := self._main_alive()):
            return {"sent": there}
        self._send(self._main, int(request["signal"]))
        return {"sent": there}

    def freeze(self, _: dict[str, Any]) -> dict[str, Any]:
        """Stop every process; returns when the kernel shows all of them stopped."""
        while running := [pid for pid, state in self._below().items() if state not in "Tt"]:
            for pid in running:
                self._send(pid, signal.SIGSTOP)
            time.sleep(0.002)
        return {}

    def thaw(self, _: dict[str, Any]) -> dict[str, Any]:
        """Let every process run again."""
        for pid in self._below():
            self._send(pid, signal.SIGCONT)
        return {}

    def kill(self, _: dict[str, Any]) -> dict[str, Any]:
        """SIGKILL for every process; returns when none is left."""
        self._kill_all()
        return {}

    def at_end(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remember a command to run when everything ends."""
        self._last.append(request["argv"])
        return {}

    def end(self, _: dict[str, Any]) -> dict[str, Any]:
        """End all processes, run what was left for the end, remove the folder."""
        self._kill_all()
        for argv in self._last:
            try:
                # Its errors go where the tests' go: a container that could not be removed should be reported.
                subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    timeout=LAST_COMMAND_SECONDS,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                sys.stderr.write(f"{error}\n")
        self._kill_all()
        shutil.rmtree(self._folder, ignore_errors=True)
        return {}


def _leave(keeper: Keeper) -> NoReturn:
    keeper.end({})
    sys.exit(0)


def main(parent: int, place: str, prefix: str) -> None:
    """Serve requests until ``end``, the closed pipe, or the parent's death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, in its own order
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    keeper = Keeper(folder)
    signal.signal(signal.SIGTERM, lambda _number, _frame: _leave(keeper))
    answers = {
        "run": keeper.run,
        "look": keeper.look,
        "signal": keeper.signal,
        "freeze": keeper.freeze,
        "thaw": keeper.thaw,
        "kill": keeper.kill,
        "at_end": keeper.at_end,
        "end": keeper.end,
    }

    def answer(reply: dict[str, Any]) -> None:
        try:
            os.write(1, json.dumps(reply).encode() + b"\n")
        except BrokenPipeError:
            _leave(keeper)

    answer({"folder": str(folder)})
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], LOOK_SECONDS)
        if os.getppid() != parent:
            _leave(keeper)
        if not readable:
            keeper.reap()  # RabbitMQ tries once a minute to start its epmd, and leaves two dead processes each time
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            _leave(keeper)
        pending += chunk
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            request = json.loads(line)
            try:
                reply = answers[request["do"]](request)
            except Exception as error:  # noqa: BLE001 - the parent raises it, where the request was made
                reply = {"error": f"{type(error).__name__}: {error}"}
            answer(reply)
            if request["do"] == "end":
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
