"""``python -m anybroker_contract.brokers``: brokers for a person, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from .api import Broker, Unavailable
from .choose import start_brokers
from .errors import BrokerFailed
from .kinds import ALL, KINDS
from .progress import progress
from .record import Record, Up, end, records

__all__ = ["main"]

OK, FAILED, NOTHING_UP = 0, 1, 3

END_SECONDS = 60.0
"""How long ``down`` waits for one ``up``."""

EPILOG = """\
exit codes:
  0  done (up: ended by Ctrl-C, SIGTERM or down)
  1  failed (up: a broker that was asked for by name is unavailable; down: one did not end in 60 s)
  2  wrong usage
  3  nothing is up (status, down)

environment (NAME is the broker's, in capitals):
  ANYBROKER_TEST_NAME_URL       use this broker and start none
  ANYBROKER_TEST_NAME_IMAGE     the container image instead of the pinned one
  ANYBROKER_TEST_INSTALL=1      as root: install what Debian's packages have
  ANYBROKER_TEST_START_SECONDS  how long a broker may take to answer (90)
"""


class _Ended(BaseException):
    """SIGTERM or a closed terminal, raised where the main thread is."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(argv)
    command: int = options.run(options)
    return command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.brokers",
        description="Brokers to develop against: by URL, as containers, or as processes of this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    up = commands.add_parser("up", help="start brokers, print their URLs, stay until Ctrl-C; then nothing is left")
    up.add_argument(
        "names",
        nargs="*",
        default=["all"],
        metavar="broker",
        help=f"{', '.join(KINDS)}, or all (the default: {', '.join(ALL)}, those that are available)",
    )
    up.set_defaults(run=_up, fail=up.error)

    down = commands.add_parser("down", help="end a running up, wherever it was started, and wait for it")
    down.add_argument("--pid", type=int, help="the process id of the up to end, where there are several")
    down.add_argument("--all", action="store_true", help="end every running up of this user")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="print which brokers are up")
    status.set_defaults(run=_status)

    for command in (up, down, status):
        command.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


# -- up --------------------------------------------------------------------------------------------------------


def _up(options: argparse.Namespace) -> int:
    everything = "all" in options.names
    names = [*(ALL if everything else ()), *(name for name in options.names if name != "all")]
    if unknown := [name for name in names if name not in KINDS]:
        options.fail(f"unknown broker {', '.join(unknown)}; there are {', '.join(KINDS)}, all")
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGHUP, _ended)
    found: dict[str, Broker | Unavailable] = {}
    try:
        with Up() as record:
            try:
                with progress(names) as say:
                    found = start_brokers(names, say=say)
                running = {name: broker for name, broker in found.items() if isinstance(broker, Broker)}
                record.write({name: _described(broker) for name, broker in running.items()})
                _print_up(found, as_json=options.json)
                if len(running) < (1 if everything else len(found)):
                    return FAILED
                while True:
                    signal.pause()
            finally:
                _ignore_further_signals()
                for broker in found.values():
                    if isinstance(broker, Broker):
                        broker.stop()
    except (KeyboardInterrupt, _Ended):
        return OK
    except BrokerFailed as failure:
        sys.stderr.write(f"{failure}\n")
        return FAILED


def _ended(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Ended


def _ignore_further_signals() -> None:
    # A second Ctrl-C must not interrupt the ending; SIGKILL still can, and then the keepers end the brokers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _described(broker: Broker) -> dict[str, str]:
    return {"url": broker.url, "source": broker.source, "detail": broker.detail}


def _print_up(found: Mapping[str, Broker | Unavailable], *, as_json: bool) -> None:
    missing = [broker for broker in found.values() if isinstance(broker, Unavailable)]
    for broker in missing:
        sys.stderr.write(f"{broker}\n{broker.log}\n" if broker.log else f"{broker}\n")
    running = {name: broker for name, broker in found.items() if isinstance(broker, Broker)}
    if as_json:
        _print_json(
            {
                "pid": os.getpid(),
                "brokers": {name: _described(up) for name, up in running.items()},
                "unavailable": {broker.name: {"reason": broker.reason, "remedy": broker.remedy} for broker in missing},
            }
        )
        return
    for up in running.values():
        sys.stdout.write(f"{up.name:<10} {up.url}   {up.detail}\n")
    sys.stdout.flush()
    if running:
        sys.stderr.write("up; Ctrl-C ends them\n")


# -- down and status -------------------------------------------------------------------------------------------


def _down(options: argparse.Namespace) -> int:
    up = records()
    if options.pid is not None:
        up = [record for record in up if record.pid == options.pid]
    if len(up) > 1 and not options.all:
        pids = ", ".join(str(record.pid) for record in up)
        sys.stderr.write(f"there are several (process ids {pids}): choose one with --pid, or --all\n")
        return FAILED
    ended = {record.pid: end(record, END_SECONDS) for record in up}
    if options.json:
        _print_json(
            {
                "ended": [pid for pid, done in ended.items() if done],
                "running": [pid for pid, done in ended.items() if not done],
            }
        )
    else:
        for pid, done in ended.items():
            sys.stdout.write(f"process {pid} {'ended' if done else f'did not end in {END_SECONDS:.0f} s'}\n")
        if not ended:
            sys.stdout.write("nothing is up\n")
    if not ended:
        return NOTHING_UP
    return OK if all(ended.values()) else FAILED


def _status(options: argparse.Namespace) -> int:
    up = records()
    if options.json:
        _print_json({"up": [{"pid": record.pid, "brokers": dict(record.brokers)} for record in up]})
    else:
        for record in up:
            sys.stdout.write(_status_of(record))
        if not up:
            sys.stdout.write("nothing is up\n")
    return OK if up else NOTHING_UP


def _status_of(record: Record) -> str:
    if not record.brokers:
        return f"process {record.pid}: starting\n"
    lines = [f"  {name:<10} {broker['url']}   {broker['detail']}\n" for name, broker in record.brokers.items()]
    return f"process {record.pid}:\n{''.join(lines)}"


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()
