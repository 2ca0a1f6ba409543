"""The command: run it on some brokers, print the table, and say by the exit status what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .._adapters import find_harnesses
from ..brokers import Broker, start_brokers
from ..brokers.errors import BrokerFailed
from ..brokers.progress import progress
from ..faults.history import read
from ..faults.tracker import Stalled
from ..harness import BrokerHarness, BrokerUnavailable
from .mutants import MUTANTS
from .plan import Fault
from .points import ENVIRONMENT, POINTS
from .run import PATIENCE, Run, Size
from .verdict import Verdict, judge

__all__ = ["main"]

HELD, DID_NOT_HOLD, FAILED = 0, 1, 2
SIZES: Mapping[str, tuple[tuple[str, ...], Size]] = {
    "ci": (("sqlite", "nats"), Size(events=600, rate=50.0, faults=24, every=0.3, late=6)),
    "short": (("sqlite", "nats", "rabbitmq", "kafka"), Size(events=4000, rate=100.0, faults=60, every=0.6, late=30)),
    "long": (
        ("sqlite", "nats", "rabbitmq", "kafka"),
        Size(events=100_000, rate=0.0, faults=100_000, every=3.0, late=300),
    ),
}
"""The brokers of each tier, and how much of it."""

MUTATED = Size(events=240, rate=120.0, faults=0, every=0.3, late=4)
"""A run of what is done wrong."""
SOON = 8.0
"""Seconds without a step after which such a run is over: what it has lost does not come."""

Say = Callable[[str, str], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    points = "; ".join(f"{role}: {', '.join(names)}" for role, names in POINTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.effects",
        description="A shop, two relays, four workers and a last service on PostgreSQL and a broker; all of them are "
        "killed at random and at named points, both servers are restarted, and every effect has to be there once.",
        epilog=f"Exit status: 0 everything held; 1 something did not; 2 a run itself failed, or the usage was wrong. "
        f"Points: {points}. {ENVIRONMENT}=point:passes arms one in a program that is started by hand.",
    )
    parser.add_argument(
        "--broker", action="append", default=[], metavar="NAME", help="repeatable; default: those of the tier"
    )
    parser.add_argument(
        "--tier",
        choices=SIZES,
        default="short",
        help="ci: about 45 s in all, on sqlite and nats; short: minutes, on four brokers; "
        "long: 100,000 events on each (default: short)",
    )
    parser.add_argument("--events", type=int, metavar="N", help="how many are sold")
    parser.add_argument("--rate", type=float, metavar="N", help="sales a second; 0: as fast as possible")
    parser.add_argument("--faults", type=int, metavar="N", help="the most faults; 0: none")
    parser.add_argument("--every", type=float, metavar="S", help="seconds between two faults")
    parser.add_argument("--late", type=int, metavar="N", help="transactions that commit late")
    parser.add_argument("--minutes", type=float, metavar="M", help="sell no more after this time, and finish the rest")
    parser.add_argument("--seed", type=int, metavar="N", help="decides the faults (default: by the clock)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="brokers side by side (default: 1)")
    parser.add_argument("--require-brokers", action="store_true", help="an unavailable server is a failure")
    parser.add_argument(
        "--histories", type=Path, default=Path(".effects"), metavar="DIR", help="where histories go (default: .effects)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the history of a run that held, too")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        type=_fault,
        metavar="FAULT",
        help="only this, again and again: a program (relay), a point of it (relay:after-send), database, broker; "
        "repeatable",
    )
    parser.add_argument("--mutant", choices=MUTANTS, metavar="NAME", help="done wrong: it has to be found")
    parser.add_argument(
        "--mutants",
        action="store_true",
        help="every way of doing it wrong, in short runs on the first broker: each has to be found, and what is right "
        "has to hold",
    )
    parser.add_argument("--check", type=Path, metavar="FILE", help="check this history again, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--list", action="store_true", help="print the points and the mutants, and end")
    return parser.parse_args(arguments)


def _fault(text: str) -> Fault:
    try:
        return Fault.of(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


@dataclass(frozen=True)
class Outcome:
    """On one broker."""

    broker: str
    mutant: str | None
    seed: int
    seconds: float
    verdict: Verdict
    kept: Path | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        history = None if self.kept is None else str(self.kept)
        seconds = round(self.seconds, 1)
        return {
            "broker": self.broker,
            "mutant": self.mutant,
            "seed": self.seed,
            "seconds": seconds,
            **self.verdict.as_dict(),
            "history": history,
        }


class Runs:
    """On every broker that was asked for."""

    def __init__(self, options: argparse.Namespace, size: Size, say: Say) -> None:
        self._options = options
        self._size = size
        self._say = say
        self._seed: int = options.seed if options.seed is not None else int(time.time())
        self._jobs = asyncio.Semaphore(options.jobs)
        self._stamp = time.strftime("%Y%m%d-%H%M%S")
        self.outcomes: list[Outcome] = []
        self.left_out: list[str] = []

    async def mutants(self, harness: BrokerHarness) -> None:
        """What is right, and each that is done wrong, one after another on the same servers."""
        async with self._servers(harness) as database:
            if database is not None:
                for name in (None, *MUTANTS):
                    faults = () if name is None else tuple(map(Fault.of, MUTANTS[name].faults))
                    size = replace(self._size, faults=len(faults))
                    self.outcomes.append(await self._run(harness, database, size, name, faults, SOON))

    async def all(self, harnesses: Mapping[str, type[BrokerHarness]]) -> None:
        """Some side by side."""
        async with asyncio.TaskGroup() as group:
            for harness in harnesses.values():
                group.create_task(self._on(harness()))

    @asynccontextmanager
    async def _servers(self, harness: BrokerHarness) -> AsyncIterator[Broker | None]:
        """Both; None where one of them cannot be had."""
        self._say(harness.name, "starting the servers")
        database = (await asyncio.to_thread(start_brokers, ["postgres"]))["postgres"]
        if not isinstance(database, Broker):
            self.left_out.append(f"{harness.name}: {database}")
            yield None
            return
        try:
            harness.attach(await asyncio.to_thread(harness.setup))
            yield database
        except BrokerUnavailable as exc:
            self.left_out.append(f"{harness.name}: {exc.why}")
            yield None
        finally:
            await asyncio.to_thread(harness.teardown)
            await asyncio.to_thread(database.stop)

    async def _on(self, harness: BrokerHarness) -> None:
        async with self._jobs, self._servers(harness) as database:
            if database is not None:
                options = self._options
                self.outcomes.append(
                    await self._run(harness, database, self._size, options.mutant, options.only, PATIENCE)
                )

    async def _run(
        self,
        harness: BrokerHarness,
        database: Broker,
        size: Size,
        mutant: str | None,
        only: Sequence[Fault],
        patience: float,
    ) -> Outcome:
        name = "-".join(filter(None, (self._stamp, harness.name, mutant)))
        folder = self._options.histories.resolve() / name
        folder.mkdir(parents=True)
        begun = time.monotonic()

        def say(text: str) -> None:
            self._say(harness.name, text if mutant is None else f"{mutant}: {text}")

        run = Run(harness, database, folder, size, self._seed, say, mutant, only, patience)
        error: str | None = None
        try:
            await run.go()
        except (Stalled, BrokerFailed) as exc:
            error = f"{type(exc).__name__}: {exc}"
        seconds = time.monotonic() - begun
        say("checking the history")
        verdict = await asyncio.to_thread(lambda: judge(read(folder / "history.jsonl"), run.notes, error))
        kept: Path | None = folder
        if verdict.word == "held" and not self._options.keep:
            await asyncio.to_thread(shutil.rmtree, folder)
            kept = None
        say(verdict.word)
        return Outcome(harness.name, mutant, self._seed, seconds, verdict, kept)


def missed(outcomes: Sequence[Outcome]) -> list[str]:
    """Mutants that were not found, and what is right and did not hold."""
    found = []
    for outcome in outcomes:
        verdict = outcome.verdict
        if outcome.mutant is None:
            if verdict.word != "held":
                found.append(f"what is right: {verdict.word}: {'; '.join(verdict.problems)}")
        elif not verdict.violations.get(MUTANTS[outcome.mutant].violation):
            found.append(f"{outcome.mutant}: not one of the {MUTANTS[outcome.mutant].violation}")
    return found


def show(console: Console, outcomes: Sequence[Outcome], left_out: Sequence[str]) -> None:
    """The table, and below it what did not hold, with the histories."""
    table = Table(box=None, pad_edge=False)
    table.add_column("broker", no_wrap=True)
    table.add_column("done wrong", no_wrap=True)
    for name in ("sales", "charges booked", "faults", "sent again", "violations", "took s"):
        table.add_column(name, justify="right")
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        verdict = outcome.verdict
        numbers = (
            verdict.sales,
            verdict.charges,
            sum(verdict.faults.values()),
            verdict.sent_again,
            sum(verdict.violations.values()),
            round(outcome.seconds),
        )
        colour = {"held": "green", "did not hold": "red"}.get(verdict.word, "magenta")
        table.add_row(
            outcome.broker, outcome.mutant or "", *(f"{number:,}" for number in numbers), f"[{colour}]{verdict.word}[/]"
        )
    console.print(table)
    for outcome in outcomes:
        faults = ", ".join(f"{number} {name}" for name, number in outcome.verdict.faults.items())
        console.print(f"{outcome.broker}, seed {outcome.seed}: {escape(faults)}", soft_wrap=True)
        for problem in [*outcome.verdict.problems, *filter(None, [outcome.verdict.error])]:
            console.print(f"  {escape(problem)}", soft_wrap=True)
        if outcome.kept is not None:
            console.print(f"  history: {outcome.kept}", soft_wrap=True)
    for line in left_out:
        console.print(f"left out: {escape(line)}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    options = parse(arguments)
    out = Console(width=None if sys.stdout.isatty() else 140)
    if options.list:
        for role, names in POINTS.items():
            out.print(f"{role:<28}killed {', '.join(names)}", highlight=False)
        for name, mutant in MUTANTS.items():
            out.print(f"{name:<28}{mutant.text}", highlight=False)
        return HELD
    if options.check is not None:
        verdict = judge(read(options.check))
        out.print_json(json.dumps(verdict.as_dict()))
        return DID_NOT_HOLD if verdict.problems else HELD
    brokers, size = SIZES[options.tier]
    if options.mutants:
        size = MUTATED
    given = {name: getattr(options, name) for name in ("events", "rate", "faults", "every", "late", "minutes")}
    size = replace(size, **{name: value for name, value in given.items() if value is not None})
    harnesses = find_harnesses(options.broker or list(brokers))
    with progress(list(harnesses)) as say:
        runs = Runs(options, size, say)
        if options.mutants:
            asyncio.run(runs.mutants(next(iter(harnesses.values()))()))
        else:
            asyncio.run(runs.all(harnesses))
    not_found = missed(runs.outcomes) if options.mutants else []
    if options.json:
        said: dict[str, Any] = {"runs": [outcome.as_dict() for outcome in runs.outcomes], "left_out": runs.left_out}
        if options.mutants:
            said["missed"] = not_found
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
    else:
        show(out, runs.outcomes, runs.left_out)
        for line in not_found:
            out.print(f"missed: {escape(line)}", soft_wrap=True)
    words = {outcome.verdict.word for outcome in runs.outcomes}
    if (
        ("failed" in words and not options.mutants)
        or not words
        or (runs.left_out and (options.require_brokers or options.broker))
    ):
        return FAILED
    if options.mutants:
        return DID_NOT_HOLD if not_found else HELD
    return DID_NOT_HOLD if "did not hold" in words else HELD
