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
from ..kit.tables import PARTS
from ..printable import logger
from . import (
    _adapters,
    _archive,
    _backlog,
    _db,
    _dead_letters,
    _describe,
    _edit,
    _observe,
    _outbox,
    _parked,
    _replay,
    _run,
)
from ._output import log_to_stderr, say, say_lines

__all__ = ["main"]

_log = logger("anybroker.bus")

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Prints one line if an argument is wrong."""

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


def _rate(text: str) -> float:
    return _seconds(text)


_rate.__name__ = "number over 0"
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


def _filters(parser: argparse.ArgumentParser) -> None:
    filters = parser.add_argument_group("which ones", "Those to which all of these apply.")
    filters.add_argument(
        "--reason", metavar="REASON", help="a reason's fingerprint, as 'dlq stats' shows it, or a part of the text"
    )
    filters.add_argument("--type", metavar="TYPE", help="the event's type ('' for what is not a CloudEvent)")
    filters.add_argument("--key", metavar="KEY", help="the ordering key")
    filters.add_argument("--handler", metavar="NAME")
    filters.add_argument("--since", metavar="TIME", help="died then or later: 2026-11-30T12:00:00Z, or 15m, 2h, 7d ago")
    filters.add_argument("--until", metavar="TIME", help="died before then")
    filters.add_argument(
        "--where",
        metavar="FIELD",
        action="append",
        help="compares a field: 'data.cents>100', 'subject=o-7', 'data.items[0].sku~A-', 'headers.x-tenant=north'; may "
        "be given several times",
    )


def _looking(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--limit", type=_count, help=f"look at this many dead letters (default: {default})")
    parser.add_argument(
        "--patience", type=_seconds, default=3.0, help="stop after this many seconds without one (default: 3)"
    )


def _group(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", metavar="TOPIC")
    parser.add_argument("group", metavar="GROUP", help="the group that failed")


def _dlq(commands: Any) -> None:
    dlq = commands.add_parser(
        "dlq",
        help="count, list, show, replay, edit, discard, export or import dead letters",
        description="The dead letters of one group of one topic.",
        epilog="examples:\n"
        "  anybroker dlq stats orders billing\n"
        "  anybroker dlq list orders billing\n"
        "  anybroker dlq replay orders billing 6f1c9a --url sqlite:///shop.db\n"
        "'anybroker dlq COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = dlq.add_subparsers(required=True, metavar="COMMAND")
    stats = _add(
        actions,
        "stats",
        "Count dead letters by what they died of: exception, handler, and reason without its values.",
        "  anybroker dlq stats orders billing\n  anybroker dlq stats orders billing --json | jq .total",
        _dead_letters.stats,
    )
    listing = _add(
        actions,
        "list",
        "List ids, types, keys, reasons, attempts and times; no data, since it may be secret.",
        "  anybroker dlq list orders billing\n  anybroker dlq list orders billing --limit 1000 --json | jq -r '.[].id'",
        _dead_letters.list_,
    )
    show = _add(
        actions,
        "show",
        "Show whole dead letters: why and where they failed, attributes, headers and data.",
        "  anybroker dlq show orders billing 6f1c9a\n  anybroker dlq show orders billing --limit 1 --json",
        _dead_letters.show,
    )
    replay = _add(
        actions,
        "replay",
        "Send dead letters back to the group that failed, and to no other.",
        "  anybroker dlq replay orders billing 6f1c9a 77d0e2\n"
        "  anybroker dlq replay orders billing --reason r-1f3a9c0b2d --dry-run\n"
        "  anybroker dlq replay orders billing --all --rate 50 --max-rounds 3",
        _dead_letters.replay,
    )
    edit = _add(
        actions,
        "edit",
        "Correct the data of one dead letter, and send it back to the group that failed, under the same id.",
        "  anybroker dlq edit orders billing 6f1c9a\n"
        "  anybroker dlq edit orders billing 6f1c9a --set data.cents=250\n"
        "  anybroker dlq edit orders billing 6f1c9a --data @corrected.json --as anna",
        _edit.edit,
    )
    edit.add_argument("--data", metavar="DATA", help="the new data: a text, @file, or - for stdin (default: $EDITOR)")
    edit.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        help="change one field: data.cents=5; may be given several times",
    )
    discard = _add(
        actions,
        "discard",
        "Drop dead letters for good.",
        "  anybroker dlq discard orders billing 6f1c9a\n"
        "  anybroker dlq discard orders billing --type order.v1 --where 'data.cents=0' --until 7d",
        _dead_letters.discard,
    )
    export = _add(
        actions,
        "export",
        "Write dead letters to a new file, one JSON line each, with their data; they stay where they are.",
        "  anybroker dlq export orders billing letters.jsonl\n"
        "  anybroker dlq export orders billing - --reason declined | gzip > declined.jsonl.gz",
        _archive.export,
    )
    imports = _add(
        actions,
        "import",
        "Put exported dead letters into the dead-letter topic of a group, of the same one or of another.",
        "  anybroker dlq import orders billing letters.jsonl --dry-run\n"
        "  anybroker dlq import orders billing letters.jsonl --rate 100",
        _archive.import_,
    )
    parked = _add(
        actions,
        "parked",
        'Show which keys are parked, and how many events of each are set aside (dead_letter(then="park")).',
        "  anybroker dlq parked orders billing",
        _parked.parked,
    )
    unpark = _add(
        actions,
        "unpark",
        "Forget that a key is parked, where its dead letters are gone.",
        "  anybroker dlq unpark orders billing customer-7",
        _parked.unpark,
    )
    for parser in (parked, unpark):
        _group(parser)
        if parser is unpark:
            parser.add_argument("key", metavar="KEY", help="as 'dlq parked' shows it")
        parser.set_defaults(patience=3.0)
        _broker(parser)
    for parser in (stats, listing, show, replay, edit, discard, export, imports):
        _group(parser)
        if parser in (export, imports):
            parser.add_argument("file", metavar="FILE", help="- for stdout" if parser is export else "- for stdin")
        if parser is edit:
            parser.add_argument("ids", metavar="ID", nargs=1, help="which one: an id, a fingerprint, or its beginning")
        elif parser in (show, replay, discard):
            parser.add_argument(
                "ids", metavar="ID", nargs="*", help="which dead letters: ids, fingerprints, or their beginnings"
            )
        if parser in (replay, discard):
            parser.add_argument("--all", action="store_true", help="all of them, up to --limit")
        if parser is replay:
            parser.add_argument(
                "--max-rounds",
                metavar="N",
                type=_count,
                help="leave what was replayed so often already, and failed again",
            )
            parser.add_argument(
                "--force",
                action="store_true",
                help="also where an older event of a parked key stays, behind which these are set aside again",
            )
        if parser in (replay, discard, imports):
            parser.add_argument("--rate", metavar="N", type=_rate, help="at most so many a second")
        if parser in (replay, edit, discard, imports):
            parser.add_argument("--dry-run", action="store_true", help="do nothing, and say what would be done")
            parser.add_argument(
                "--as", dest="as_", metavar="NAME", help="who does it, for the audit (default: user@host)"
            )
        if parser not in (edit, imports):
            _filters(parser)
        if parser is imports:
            parser.set_defaults(patience=3.0)
        else:
            _looking(parser, "100000" if parser in (stats, export) else "100, and 10000 for ids, filters and --all")
        _broker(parser)


def _replayed(commands: Any) -> None:
    replay = _add(
        commands,
        "replay",
        "Replay what a topic keeps, consumed or not, into one group, a handler or another topic.",
        "  anybroker replay orders --from 2026-11-01 --to 2026-11-08 --group audit --dry-run\n"
        "  anybroker replay orders --from 2026-11-01 --group audit --resume audit.json --rate 500\n"
        "  anybroker replay orders --key customer-7 --handler shop.audit:rebuild --stop-on-failure\n"
        "  anybroker replay orders --from orders/3@1204 --to orders/3@1300 --into orders-again",
        _replay.replay,
    )
    replay.add_argument("topic", metavar="TOPIC")
    for name, into, which in (("--from", "since", "first"), ("--to", "until", "first that is not replayed")):
        replay.add_argument(
            name,
            dest=into,
            metavar="WHEN",
            action="append",
            default=[],
            help=f"the {which}: when the broker stored it (UTC unless it says otherwise), or LANE@POSITION, which may "
            "be given for several lanes and leaves the others out (default: all that is kept, up to now)",
        )
    target = replay.add_mutually_exclusive_group()
    target.add_argument("--group", help="to this group, and to no other; it may have members")
    target.add_argument("--handler", metavar="MODULE:FUNCTION", help="run this function here, with its decorators")
    target.add_argument("--into", metavar="TOPIC", help="publish to this topic, under the same ids")
    replay.add_argument("--type", action="append", default=[], help="only events of this type (may be repeated)")
    replay.add_argument("--key", action="append", default=[], help="only events of this key (may be repeated)")
    replay.add_argument("--rate", type=_rate, metavar="NUMBER", help="events a second, at most")
    replay.add_argument(
        "--resume",
        metavar="FILE",
        help="write into this file how far it is; if the file is there, go on where it was interrupted",
    )
    replay.add_argument("--dry-run", action="store_true", help="count exactly what would be replayed, and send nothing")
    replay.add_argument("--stop-on-failure", action="store_true", help="stop before the first event that fails")
    _broker(replay)


def _observed(commands: Any) -> None:
    observe = commands.add_parser(
        "observe",
        help="serve the metrics of groups from outside; print the alert rules or the board",
        description="What goes with the metrics: a process that only watches, alert rules for Prometheus, and a board "
        "for Grafana.",
        epilog="examples:\n"
        "  anybroker observe serve orders/billing orders/stock --address :9464\n"
        "  anybroker observe rules > anybroker-rules.yml\n"
        "  anybroker observe dashboard > anybroker-dashboard.json\n"
        "'anybroker observe COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = observe.add_subparsers(required=True, metavar="COMMAND")
    serve = _add(
        actions,
        "serve",
        "Serve how many events wait for these groups, since when, and their dead letters, until SIGTERM or Ctrl-C.",
        "  anybroker observe serve orders/billing orders/stock\n"
        "  ANYBROKER_URL=nats://localhost anybroker observe serve orders/billing --address :9464",
        _observe.serve,
    )
    serve.add_argument("groups", metavar="TOPIC/GROUP", nargs="+", help="what to watch; no member of it is needed")
    serve.add_argument(
        "--address",
        metavar="HOST:PORT",
        default="127.0.0.1:9464",
        help="where /metrics, /health, /ready and /live are answered (default: 127.0.0.1:9464)",
    )
    _broker(serve, json=False)
    _add(
        actions,
        "rules",
        "Print the alert rules, for 'rule_files' in prometheus.yml.",
        "  anybroker observe rules > anybroker-rules.yml && promtool check rules anybroker-rules.yml",
        _observe.rules,
    )
    _add(
        actions,
        "dashboard",
        "Print the board's JSON, for Grafana's Dashboards > New > Import, or its folder of provisioned boards.",
        "  anybroker observe dashboard > anybroker-dashboard.json",
        _observe.dashboard,
    )


def _outboxes(commands: Any) -> None:
    outbox = commands.add_parser(
        "outbox",
        help="look into an outbox, relay it, or decide about what was set aside",
        description="The outbox of a database: what waits there for a relay, and what a broker has rejected.",
        epilog="examples:\n"
        "  ANYBROKER_OUTBOX=postgresql://localhost/shop anybroker outbox list\n"
        "  anybroker outbox relay --outbox sqlite:///shop.db --url nats://localhost\n"
        "'anybroker outbox COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = outbox.add_subparsers(required=True, metavar="COMMAND")
    listing = _add(
        actions,
        "list",
        "Say how many events wait and for how long, and list what was set aside and why.",
        "  anybroker outbox list --outbox sqlite:///shop.db\n  anybroker outbox list --json | jq .age",
        _outbox.list_,
    )
    listing.add_argument("--limit", type=_count, default=100, help="list this many that were set aside (default: 100)")
    listing.add_argument("--json", action="store_true", help="write JSON to stdout")
    retry = _add(
        actions,
        "retry",
        "Let events that were set aside be relayed again, before later ones of their keys that wait.",
        "  anybroker outbox retry 4711\n  anybroker outbox retry --all",
        _outbox.retry,
    )
    discard = _add(
        actions,
        "discard",
        "Drop events that were set aside for good.",
        "  anybroker outbox discard 4711 4712\n  anybroker outbox discard --all",
        _outbox.discard,
    )
    relay = _add(
        actions,
        "relay",
        "Bring what is in the outbox to the broker until SIGTERM or Ctrl-C; any number may run at once.",
        "  anybroker outbox relay --outbox sqlite:///shop.db --url nats://localhost\n"
        "  anybroker outbox relay --health :8080",
        _outbox.relay,
    )
    relay.add_argument("--health", metavar="HOST:PORT", help="answer /live, /ready, /health and /metrics there")
    _broker(relay, json=False)
    for parser in (retry, discard):
        parser.add_argument("positions", metavar="POSITION", nargs="*", type=_count, help="as 'outbox list' shows them")
        parser.add_argument("--all", action="store_true", help="all that were set aside")
    for parser in (listing, retry, discard, relay):
        parser.add_argument(
            "--outbox",
            metavar="URL",
            help="the outbox's database (default: ANYBROKER_OUTBOX, then anybroker.toml). Every user of the machine "
            "can see it in the list of processes: a URL with a password belongs in ANYBROKER_OUTBOX",
        )


def _databases(commands: Any) -> None:
    database = commands.add_parser(
        "db",
        help="print, check or migrate the tables of a database",
        description="The tables of idempotency stores and outboxes.",
        epilog="examples:\n"
        "  anybroker db sql postgres | psql shop\n"
        "  anybroker db check postgresql://localhost/shop\n"
        "  ANYBROKER_OUTBOX=sqlite:///shop.db anybroker db migrate\n"
        "'anybroker db COMMAND --help' says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = database.add_subparsers(required=True, metavar="COMMAND")
    statements = _add(
        actions,
        "sql",
        "Print the statements that make the tables, for psql, Alembic or Django.",
        "  anybroker db sql postgres | psql shop\n  anybroker db sql sqlite | sqlite3 shop.db",
        _db.sql,
    )
    statements.add_argument("database", metavar="DATABASE", help="postgres or sqlite")
    statements.add_argument("--schema", help="a schema for the tables (default: the first of the search_path)")
    check = _add(
        actions,
        "check",
        "Say which version of the tables is there, what is missing, and what to do; changes nothing. Ends with 1 where "
        "they do not fit.",
        "  anybroker db check postgresql://localhost/shop?schema=messaging\n"
        "  anybroker db check --part outbox --json | jq .fits",
        _db.check,
    )
    migrate = _add(
        actions,
        "migrate",
        "Make the tables that are missing, and bring those of older releases to this one's version: one transaction.",
        "  anybroker db migrate postgresql://localhost/shop\n  anybroker db migrate sqlite:///shop.db --part outbox",
        _db.migrate,
    )
    for parser in (check, migrate):
        parser.add_argument(
            "url",
            metavar="URL",
            nargs="?",
            help="the database (default: the outbox's, by ANYBROKER_OUTBOX, then anybroker.toml). Every user of the "
            "machine can see it in the list of processes: a URL with a password belongs in ANYBROKER_OUTBOX",
        )
        parser.add_argument(
            "--part", action="append", choices=PARTS, help="only the tables of this one (default: of both)"
        )
        parser.add_argument("--json", action="store_true", help="write JSON to stdout")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="anybroker",
        description="One publish/subscribe API over any broker: what can be done from outside a program.",
        epilog="examples:\n"
        "  anybroker adapters\n"
        "  anybroker run shop.service:bus\n"
        "  anybroker describe shop.service:bus\n"
        "  anybroker backlog orders billing --url sqlite:///shop.db\n"
        "  anybroker dlq list orders billing\n"
        "  anybroker replay orders --from 2026-11-01 --group audit --dry-run\n"
        "  anybroker observe rules > anybroker-rules.yml\n"
        "  anybroker outbox list --outbox sqlite:///shop.db\n"
        "  anybroker db check postgresql://localhost/shop\n"
        "exit codes: 0 done, 1 the broker or the operation failed, 2 wrong usage or configuration",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"anybroker {version('anybroker')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _dlq(commands)
    backlog = _add(
        commands,
        "backlog",
        "Say how many events wait for a group, and for how long.",
        "  anybroker backlog orders billing\n  anybroker backlog orders billing --json",
        _backlog.backlog,
    )
    backlog.add_argument("topic", metavar="TOPIC")
    backlog.add_argument("group", metavar="GROUP")
    _broker(backlog)
    _replayed(commands)
    adapters = _add(
        commands,
        "adapters",
        "List the installed adapters and what each one can do.",
        "  anybroker adapters\n  anybroker adapters --json",
        _adapters.adapters,
    )
    adapters.add_argument("--json", action="store_true", help="write JSON to stdout")
    describe = _add(
        commands,
        "describe",
        "Say what the Bus of a program is: topics, groups, handlers and middleware; no broker is asked.",
        "  anybroker describe shop.service:bus\n  anybroker describe shop.service:bus --json | jq '.topics[].name'",
        _describe.describe,
    )
    describe.add_argument("target", metavar="MODULE:BUS", help="a Bus, or a function without arguments that makes one")
    describe.add_argument("--json", action="store_true", help="write JSON to stdout")
    _observed(commands)
    _outboxes(commands)
    _databases(commands)
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
    run.add_argument(
        "--log-format",
        choices=("console", "json"),
        default="console",
        help="how to log: lines for people, or one JSON object a line, with the facts of its event (default: console)",
    )
    run.add_argument(
        "--health",
        metavar="HOST:PORT",
        help="answer /live, /ready, /health and /metrics there; :8080 listens on all interfaces. /metrics needs the "
        "extra anybroker[prometheus] (docs/health.md)",
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


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """Where the log is JSON, warnings are JSON too."""
    _log.warning("%s", message)


def _logs_json(options: argparse.Namespace) -> bool:
    return getattr(options, "log_format", None) == "json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = _parser().parse_args(arguments)
    log_to_stderr(logging.WARNING, "anybroker: %(levelname)s: %(message)s")
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _log_warning if _logs_json(options) else _warn
        code = _ended(options)
        try:
            sys.stdout.flush()  # here, where a closed pipe is not an error, and not when the interpreter exits
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
    except Exception as exc:  # noqa: BLE001 - the last resort: one line that says how to see more
        return _failed(options, exc, FAILED, f"unexpected {type(exc).__name__}: {exc} (--traceback shows where)")
    return code


def _write_nowhere() -> None:
    """The reader of our output, such as ``head``, has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(options: argparse.Namespace, exc: BaseException, code: int, text: str) -> int:
    if _logs_json(options):
        _log.critical("%s", text, exc_info=exc if options.traceback else None)
        return code
    if options.traceback:
        say_lines("".join(traceback.format_exception(exc)))
    say(f"anybroker: {text}")
    return code
