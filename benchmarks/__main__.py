"""``make bench``: microseconds an event, and ratios between runs interleaved on the same machine.

Exit code 0 when everything ran, whatever the figures are; 1 when a run failed; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from anybroker_contract.brokers import Broker, start_brokers

from . import in_process, sqlite
from .kafka import Kafka
from .measure import Figure, interleave
from .nats import Nats
from .rabbitmq import RabbitMQ
from .server import ServerBenchmark
from .sqs import Sqs

SERVERS: dict[str, type[ServerBenchmark]] = {"kafka": Kafka, "rabbitmq": RabbitMQ, "nats": Nats, "sqs": Sqs}


@dataclass(frozen=True)
class Aim:
    """What a figure is held against."""

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


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ("process", "sqlite", *SERVERS)
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
    wanted = [name for name in SERVERS if name in which]
    brokers = start_brokers(wanted, say=lambda name, text: console.print(f"{name}: {text}")) if wanted else {}
    try:
        for name, run in (("process", _in_process), ("sqlite", _sqlite)):
            if name in which:
                more, held = run(arguments.rounds, console)
                figures += more
                aims += held
        for name, broker in brokers.items():
            if isinstance(broker, Broker):
                more, held = _server(arguments.rounds, console, SERVERS[name](broker.url))
                figures += more
                aims += held
            else:
                missing.append(f"{name}: {broker.reason}; {broker.remedy}")
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
