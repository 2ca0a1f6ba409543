"""``make bench``: microseconds per event, and ratios between runs interleaved on the same machine.

Exit code 0 when everything ran, whatever the figures; 1 when a run failed; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from dataclasses import dataclass
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from anybroker_contract.brokers import Broker, start_brokers

from . import in_process, observing, policies, sqlite
from .kafka import Kafka
from .measure import Figure, interleave
from .nats import Nats
from .outbox import OutboxBenchmark
from .rabbitmq import RabbitMQ
from .server import ServerBenchmark
from .sqs import Sqs
from .stores import STORES, StoreBenchmark

OUTBOX = ("postgres", "nats")
"""What the outbox's benchmark needs."""
SERVERS: dict[str, type[ServerBenchmark]] = {"kafka": Kafka, "rabbitmq": RabbitMQ, "nats": Nats, "sqs": Sqs}


@dataclass(frozen=True)
class Aim:
    """What a figure is compared with."""

    what: str
    value: float
    aim: str
    met: bool


def _in_process(rounds: int, console: Console) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(
        {
            "publish": in_process.publish,
            "consume": in_process.consume,
            "bare loop, consume": in_process.bare_consume,
            "FastStream, consume": in_process.faststream_consume,
        },
        rounds,
        console,
        "in process",
    )
    publish, consume = figures["publish"], figures["consume"]
    faster = figures["FastStream, consume"].over(consume)
    slower = consume.over(figures["bare loop, consume"])
    return list(figures.values()), [
        Aim("publish, µs an event", publish.median, "<= 6", publish.median <= 6),
        Aim("consume, µs an event", consume.median, "<= 10", consume.median <= 10),
        Aim("consume: times faster than FastStream in memory", faster, ">= 3.6", faster >= 3.6),
        Aim("consume: times a bare loop that decodes the same", slower, "<= 4", slower <= 4),
    ]


def _observing(rounds: int, console: Console) -> tuple[list[Figure], list[Aim]]:
    runs = {
        f"{what} with {name}": getattr(candidate, what)
        for what in ("publish", "consume")
        for name, candidate in observing.CANDIDATES.items()
    }
    figures = interleave(runs, rounds, console, "observing")
    aims = []
    for what in ("publish", "consume"):
        of_logs = figures[f"{what} with logs (the default)"]
        bare = figures[f"{what} with nothing"]
        more = statistics.median(a - b for a, b in zip(of_logs.rounds, bare.rounds, strict=True))
        aims.append(Aim(f"{what}: µs more with logs than with nothing", more, "<= 0.3", more <= 0.3))
    return list(figures.values()), aims


def _policies(rounds: int, console: Console) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(policies.CANDIDATES, rounds, console, "policies")
    nothing = figures[policies.NOTHING]
    aims = []
    for name, figure in figures.items():
        if figure is not nothing:
            more = statistics.median(a - b for a, b in zip(figure.rounds, nothing.rounds, strict=True))
            most = policies.MOST
            aims.append(Aim(f"{name} with nothing to do: µs an event", more, f"<= {most:g}", more <= most))
    return list(figures.values()), aims


def _sqlite(rounds: int, console: Console) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(
        {
            "sqlite publish": sqlite.publish,
            "bare sqlite3, publish": sqlite.bare_publish,
            "sqlite consume": sqlite.consume,
            "bare sqlite3, consume": sqlite.bare_consume,
        },
        rounds,
        console,
        "SQLite",
    )
    out = figures["bare sqlite3, publish"].over(figures["sqlite publish"])
    back = figures["bare sqlite3, consume"].over(figures["sqlite consume"])
    return list(figures.values()), [
        Aim("SQLite publish: throughput over bare sqlite3", out, ">= 0.7", out >= 0.7),
        Aim("SQLite consume: throughput over bare sqlite3", back, ">= 0.7", back >= 0.7),
    ]


def _server(rounds: int, console: Console, server: ServerBenchmark) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(server.candidates(), rounds, console, server.title)
    publish, bare_publish, consume, bare_consume = figures.values()
    held = []
    for what, ratio, aim in (
        ("publish", bare_publish.over(publish), server.aims[0]),
        ("consume", bare_consume.over(consume), server.aims[1]),
    ):
        name = f"{server.title} {what}: throughput over bare {server.client}"
        held.append(Aim(name, ratio, "none" if aim is None else f">= {aim}", aim is None or ratio >= aim))
    return list(figures.values()), held


def _store(rounds: int, console: Console, server: StoreBenchmark) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(server.candidates(), rounds, console, f"{server.title} store")
    ours, bare = figures.values()
    ratio = bare.over(ours)
    name = f"{server.title} store: throughput over a bare loop of {server.client}"
    return list(figures.values()), [Aim(name, ratio, f">= {server.aim:g}", ratio >= server.aim)]


def _outbox(rounds: int, console: Console, database: str, broker: str) -> tuple[list[Figure], list[Aim]]:
    figures = interleave(OutboxBenchmark(database, broker).candidates(), rounds, console, "outbox")
    ours, naive = figures.values()
    ratio = naive.over(ours)
    return list(figures.values()), [Aim("outbox relay: throughput over a naive loop", ratio, ">= 5", ratio >= 5)]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ("process", "observing", "policies", "sqlite", *SERVERS, *STORES, "outbox")
    parser.add_argument("which", nargs="*", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; the median is quoted (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    arguments = parser.parse_args()
    which = arguments.which or known
    if wrong := [name for name in which if name not in known]:
        parser.error(f"no benchmark {wrong[0]!r}; there are {', '.join(known)}")
    console = Console(stderr=True)
    figures: list[Figure] = []
    aims: list[Aim] = []
    missing: list[str] = []
    wanted = [name for name in (*SERVERS, *STORES) if name in which or ("outbox" in which and name in OUTBOX)]
    brokers = start_brokers(wanted, say=lambda name, text: console.print(f"{name}: {text}")) if wanted else {}
    try:
        for name, run in (
            ("process", _in_process),
            ("observing", _observing),
            ("policies", _policies),
            ("sqlite", _sqlite),
        ):
            if name in which:
                more, held = run(arguments.rounds, console)
                figures += more
                aims += held
        for name, broker in brokers.items():
            if isinstance(broker, Broker):
                if name not in which:
                    continue
                if name in STORES:
                    more, held = _store(arguments.rounds, console, STORES[name](broker.url))
                else:
                    more, held = _server(arguments.rounds, console, SERVERS[name](broker.url))
                figures += more
                aims += held
            else:
                missing.append(f"{name}: {broker.reason}; {broker.remedy}")
        database, relayed_to = (brokers.get(name) for name in OUTBOX)
        if "outbox" in which and isinstance(database, Broker) and isinstance(relayed_to, Broker):
            more, held = _outbox(arguments.rounds, console, database.url, relayed_to.url)
            figures += more
            aims += held
    finally:
        for broker in brokers.values():
            if isinstance(broker, Broker):
                broker.stop()
    machine = f"Python {platform.python_version()}, {platform.machine()}, anybroker {version('anybroker')}"
    if arguments.json:
        json.dump(
            {
                "machine": machine,
                "rounds": arguments.rounds,
                "figures": [figure.as_dict() for figure in figures],
                "aims": [{"what": a.what, "value": round(a.value, 2), "aim": a.aim, "met": a.met} for a in aims],
                "missing": missing,
            },
            sys.stdout,
            indent=2,
        )
        print()
        return 0
    shown = Console()
    table = Table("run", "µs an event (median)", "rounds", title=f"{machine}; {arguments.rounds} rounds, interleaved")
    for figure in figures:
        table.add_row(figure.name, f"{figure.median:.1f}", " ".join(f"{value:.1f}" for value in figure.rounds))
    shown.print(table)
    held_against = Table("held against", "seen", "aim", "")
    for aim in aims:
        held_against.add_row(
            aim.what, f"{aim.value:.2f}", aim.aim, "" if aim.aim == "none" else "met" if aim.met else "not met"
        )
    shown.print(held_against)
    for line in missing:
        shown.print(f"not run: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
