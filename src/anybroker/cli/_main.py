"""The commands, their arguments, and how a command ends."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from ..errors import BrokerError, ConfigError, StateError
from . import _adapters, _backlog, _dead_letters, _run
from ._output import log_to_stderr, say, say_lines

__all__ = ["main"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Says one line where an argument is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        say(f"{self.prog}: {message}. Try: {self.prog} --help")
        sys.exit(USAGE)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


_count.__name__ = "number of 1 or more"  # argparse writes: invalid … value
_seconds.__name__ = "number of seconds over 0"


def _add(commands: Any, name: str, what: str, examples: str, run: Callable[..., int]) -> argparse.ArgumentParser:
    """A command with its help and examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what[0].lower() + what[1:].rstrip("."),
        description=what,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def _broker(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    broker = parser.add_mutually_exclusive_group()
    broker.add_argument(
        "--url",
        help="the broker (default: ANYBROKER_URL, then anybroker.toml, then the embedded one). Every user of the "
        "machine can see it in the list of processes: a URL with a password belongs in ANYBROKER_URL or --url-file",
    )
    broker.add_argument("--url-file", metavar="FILE", help="a file that holds the broker's URL, and nothing else")
    if json:
        parser.add_argument("--json", action="store_true", help="write JSON to stdout")


def _group(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("group", metavar="GROUP", help="the group that failed")


def _dlq(commands: Any) -> None:
    dlq = commands.add_parser(
        "dlq",
        help="list, show, replay or discard dead letters",
        description="The dead letters of one group of one topic.",
        epilog="examples:\n"
        "  anybroker dlq list orders billing\n"
        "  anybroker dlq replay orders billing 6f1c9a --url sqlite:///shop.db\n"
        "'anybroker dlq COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = dlq.add_subparsers(required=True, metavar="COMMAND")
    listing = _add(
        actions,
        "list",
        "List ids, types, reasons, attempts and times; no data, since it may be secret.",
        "  anybroker dlq list orders billing\n  anybroker dlq list orders billing --limit 1000 --json | jq -r '.[].id'",
        _dead_letters.list_,
    )
    show = _add(
        actions,
        "show",
        "Show dead letters whole: attributes, headers and data.",
        "  anybroker dlq show orders billing 6f1c9a\n  anybroker dlq show orders billing --limit 1 --json",
        _dead_letters.show,
    )
    replay = _add(
        actions,
        "replay",
        "Send dead letters back to the group that failed, and to no other.",
        "  anybroker dlq replay orders billing 6f1c9a 77d0e2\n  anybroker dlq replay orders billing --all",
        _dead_letters.replay,
    )
    discard = _add(
        actions,
        "discard",
        "Drop dead letters for good.",
        "  anybroker dlq discard orders billing 6f1c9a\n  anybroker dlq discard orders billing --all --limit 500",
        _dead_letters.discard,
    )
    for parser in (listing, show, replay, discard):
        _group(parser)
        if parser is not listing:
            parser.add_argument(
                "ids", metavar="ID", nargs="*", help="which dead letters: ids, fingerprints, or their beginnings"
            )
        if parser in (replay, discard):
            parser.add_argument("--all", action="store_true", help="all of them, as far as --limit goes")
        parser.add_argument(
            "--limit", type=_count, help="look at so many dead letters (default: 100, and 10000 to find ids)"
        )
        parser.add_argument(
            "--patience", type=_seconds, default=3.0, help="seconds without one after which all are read (default: 3)"
        )
        _broker(parser)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="anybroker",
        description="One publish/subscribe API over any broker: what can be done from outside of a program.",
        epilog="examples:\n"
        "  anybroker adapters\n"
        "  anybroker run shop.service:bus\n"
        "  anybroker backlog orders billing --url sqlite:///shop.db\n"
        "  anybroker dlq list orders billing\n"
        "exit codes: 0 done, 1 the broker or the operation failed, 2 wrong usage or configuration",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"anybroker {version('anybroker')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _dlq(commands)
    backlog = _add(
        commands,
        "backlog",
        "Say how many events wait for a group.",
        "  anybroker backlog orders billing\n  anybroker backlog orders billing --json",
        _backlog.backlog,
    )
    backlog.add_argument("topic", metavar="TOPIC")
    backlog.add_argument("group", metavar="GROUP")
    _broker(backlog)
    adapters = _add(
        commands,
        "adapters",
        "List the installed adapters and what each one can do.",
        "  anybroker adapters\n  anybroker adapters --json",
        _adapters.adapters,
    )
    adapters.add_argument("--json", action="store_true", help="write JSON to stdout")
    run = _add(
        commands,
        "run",
        "Run the Bus of a program until SIGTERM or Ctrl-C, then drain.",
        "  anybroker run shop.service:bus\n  ANYBROKER_URL=nats://localhost anybroker run shop.service:make_bus",
        _run.run,
    )
    run.add_argument("target", metavar="MODULE:BUS", help="a Bus, or a function without arguments that makes one")
    run.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what to log to stderr (default: info)",
    )
    return parser


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Warnings are one line too."""
    say(f"anybroker: warning: {message}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(arguments)
    log_to_stderr(logging.WARNING, "anybroker: %(levelname)s: %(message)s")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _warn
        code = _ended(options)
        try:
            sys.stdout.flush()  # here, where a reader that has gone is not an error, and not at the interpreter's end
        except BrokenPipeError:
            _write_nowhere()
        return code


def _ended(options: argparse.Namespace) -> int:
    try:
        code: int = options.run(options)
    except ConfigError as exc:
        return _failed(options, exc, USAGE, str(exc))
    except (BrokerError, StateError) as exc:
        return _failed(options, exc, FAILED, f"{type(exc).__name__}: {exc}")
    except KeyboardInterrupt:
        say("anybroker: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _write_nowhere()
        return OK
    except Exception as exc:  # noqa: BLE001 - the last resort: one line, and the way to more
        return _failed(options, exc, FAILED, f"unexpected {type(exc).__name__}: {exc} (--traceback shows where)")
    return code


def _write_nowhere() -> None:
    """The reader of our output, such as ``head``, has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(options: argparse.Namespace, exc: BaseException, code: int, text: str) -> int:
    if options.traceback:
        say_lines("".join(traceback.format_exception(exc)))
    say(f"anybroker: {text}")
    return code
