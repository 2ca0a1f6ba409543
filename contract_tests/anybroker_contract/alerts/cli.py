"""The command line: on each broker start the services and Prometheus, and say what an on-call person saw of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anybroker.config.registry import adapter_class

from ..brokers.api import Unavailable
from ..brokers.choose import start_brokers
from ..brokers.errors import BrokerFailed, Missing
from ..brokers.progress import progress
from .faster import faster
from .faults import FAULTS, Fault
from .prometheus import Prometheus, find
from .running import Services
from .session import INTERVAL, Found, Session

__all__ = ["main"]

AS_EXPECTED, OTHERWISE, FAILED = 0, 1, 2

MINUTE = 4.0
"""Seconds that a minute of the rules takes by default. The Bus asks for lags every 15 s: much shorter is too short."""
EMBEDDED = "sqlite"
SERVERS = ("kafka", "rabbitmq", "nats", "sqs")

Say = Callable[[str, str], None]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    rules = list(dict.fromkeys(rule for fault in FAULTS for rule in fault.trips))
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.alerts",
        description="Runs a real Prometheus on services that misbehave on purpose, until each alert rule has fired, "
        "and says what else an on-call person sees: the line in the log, /ready and /live.",
        epilog="Exit status: 0 each rule fired for its fault and for no other service, logs and probes said what is "
        "expected, and each panel of the board shows something; 1 not so; 2 there is no Prometheus or no such broker, "
        "a process failed, or the usage was wrong. Prometheus is taken from the PATH; with ANYBROKER_TEST_INSTALL=1, "
        "as root, Debian's package is installed.",
    )
    parser.add_argument(
        "--broker",
        action="append",
        default=[],
        choices=[EMBEDDED, *SERVERS],
        metavar="NAME",
        help=f"repeatable; {EMBEDDED} (default), {', '.join(SERVERS)}: a server of its own, which is killed at the end",
    )
    parser.add_argument(
        "--rule", action="append", default=[], choices=rules, metavar="NAME", help=f"repeatable; of {', '.join(rules)}"
    )
    parser.add_argument(
        "--minute",
        type=_seconds,
        default=MINUTE,
        metavar="S",
        help=f"seconds that a minute of the rules takes (default: {MINUTE:g}); 60 tests them as they are",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    number = float(text)
    if not 1 <= number <= 60:
        raise ValueError
    return number


_seconds.__name__ = "number of seconds between 1 and 60"  # argparse writes: invalid … value


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    options = _parse(arguments)
    faults = [fault for fault in FAULTS if not options.rule or not {*options.rule}.isdisjoint(fault.trips)]
    brokers = list(dict.fromkeys(options.broker)) or [EMBEDDED]
    out = Console(width=None if sys.stdout.isatty() else 140)
    names = ["prometheus", *brokers, *dict.fromkeys(rule for fault in faults for rule in fault.trips), "board"]
    results: dict[str, Found] = {}
    try:
        with progress(names) as say:
            program = find(lambda text: say("prometheus", text))
            for broker in brokers:
                results[broker] = _session(broker, program, faults, options.minute, say)
    except Missing as missing:
        Console(stderr=True).print(f"{missing.reason}: {missing.remedy}", markup=False)
        return FAILED
    except BrokerFailed as failed:
        Console(stderr=True).print(str(failed), markup=False, soft_wrap=True)
        return FAILED
    if options.json:
        sys.stdout.write(_as_json(results, options.minute) + "\n")
    else:
        for broker, found in results.items():
            _show(out, broker, found, on(broker, faults))
    return OTHERWISE if any(found.problems for found in results.values()) else AS_EXPECTED


def on(broker: str, faults: Sequence[Fault]) -> list[Fault]:
    """The faults with the rules that can fire there: one needs the age of what waits, which not every broker knows."""
    if _knows_age(broker):
        return list(faults)
    return [replace(fault, trips=tuple(rule for rule in fault.trips if rule != "AnybrokerLagOld")) for fault in faults]


def _knows_age(broker: str) -> bool:
    scheme = "amqp" if broker == "rabbitmq" else broker
    return bool(adapter_class(scheme).capabilities.backlog_age)


def _session(name: str, program: str, faults: Sequence[Fault], minute: float, say: Say) -> Found:
    """One broker's."""
    rules = faster(files("anybroker").joinpath("observe/files/rules.yml").read_text("utf-8"), minute)
    with ExitStack() as stack:
        broker = None
        if name != EMBEDDED:
            started = start_brokers([name], say=say)[name]
            if isinstance(started, Unavailable):
                raise Missing(started.reason, started.remedy)
            broker = started
            stack.callback(broker.stop)
            if not broker.can_restart:
                raise BrokerFailed(f"{name} is somebody else's, at {broker.url}: it cannot be killed here")
        expected = on(name, faults)
        services = stack.enter_context(Services(expected, None if broker is None else broker.url))
        prometheus = stack.enter_context(Prometheus(program, rules, services.ports, INTERVAL))
        say("prometheus", f"evaluates {len(prometheus.rules())} rules on {name}; a minute takes {minute:g} s")
        session = Session(services, prometheus, expected, minute, broker, say)
        return session.run(board=len(faults) == len(FAULTS) and _knows_age(name))  # each panel is about a service


def _as_json(results: Mapping[str, Found], minute: float) -> str:
    def fired(found: Found) -> list[dict[str, Any]]:
        return [
            {
                "rule": rule,
                "service": service,
                "seconds": round(seconds, 1),
                "description": found.descriptions[rule, service],
            }
            for (rule, service), seconds in found.seconds.items()
        ]

    def seen(found: Found) -> dict[str, Any]:
        return {
            service: {"ready": str(each.ready), "live": str(each.live), "line": each.line}
            for service, each in found.seen.items()
        }

    brokers = {
        broker: {
            "fired": fired(found),
            "seen": seen(found),
            "back": None if found.back is None else round(found.back, 1),
            "panels": found.panels,
            "problems": found.problems,
        }
        for broker, found in results.items()
    }
    return json.dumps({"minute": minute, "brokers": brokers}, indent=2)


def _show(out: Console, broker: str, found: Found, faults: Sequence[Fault]) -> None:
    table = Table(title=broker, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, wide in (
        ("service", True),
        ("fault", False),
        ("fires, after s", True),
        ("/ready", False),
        ("/live", False),
    ):
        table.add_column(name, no_wrap=wide)
    for fault in faults:
        fired = [
            f"{rule} {found.seconds[rule, fault.service]:.0f}"
            for rule in fault.trips
            if (rule, fault.service) in found.seconds
        ]
        fired += [
            f"({rule} {found.seconds[rule, fault.service]:.0f})"
            for rule in fault.may_trip
            if (rule, fault.service) in found.seconds
        ]
        seen = found.seen.get(fault.service)
        probes = ("–", "–") if seen is None else (escape(str(seen.ready)), escape(str(seen.live)))
        table.add_row(fault.service, fault.text, "\n".join(fired) or "–", *probes)
    out.print(table)
    for service, seen in found.seen.items():
        if seen.line is not None:
            out.print(f"[bold]{service}[/] {escape(seen.line)}", soft_wrap=True)
    if found.back is not None:
        out.print(f"{found.back:.1f} s after the broker answered again the service that had lost it was ready")
    if found.panels:
        out.print(f"the board's {found.panels} expressions were asked for what they show")
    for problem in found.problems:
        out.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
