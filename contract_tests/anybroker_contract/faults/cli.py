"""The command: choose scenarios and brokers, run them, print the table, and say by the exit status what came of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from anybroker.capabilities import Capabilities

from .._adapters import find_harnesses
from ..brokers.errors import BrokerFailed
from ..brokers.progress import progress
from ..harness import BrokerHarness, BrokerUnavailable
from ..harnesses import BUILT_IN, VARIANTS
from ..mutants import MUTANTS
from .deletion import DELETIONS
from .history import read
from .report import Outcome, as_json, show
from .run import ATTEMPTS, Run
from .scenarios import SCENARIOS, Scenario
from .tracker import Stalled
from .verdict import Verdict, judge

__all__ = ["main"]

HELD, DID_NOT_HOLD, FAILED = 0, 1, 2

Say = Callable[[str, str], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.faults",
        description="Kills, stops and cuts brokers and members under load, and checks the history of what happened.",
        epilog="Exit status: 0 everything held; 1 something did not; 2 a run itself failed, or the usage was wrong.",
    )
    names = (*(name for name in BUILT_IN if name != "memory"), *VARIANTS)
    parser.add_argument(
        "--broker", action="append", default=[], metavar="NAME", help=f"repeatable; default: all of {', '.join(names)}"
    )
    parser.add_argument(
        "--scenario",
        action="append",
        default=[],
        choices=SCENARIOS,
        metavar="NAME",
        help="repeatable; default: the tier's",
    )
    parser.add_argument(
        "--tier", choices=("short", "long"), default="short", help="minutes, or an hour (default: short)"
    )
    parser.add_argument("--events", type=int, metavar="N", help="events of scenarios that count them")
    parser.add_argument("--rate", type=float, metavar="N", help="events a second of scenarios that do not")
    parser.add_argument("--deadline", type=float, metavar="S", help="of each publish, in seconds (default: 30)")
    parser.add_argument("--times", type=int, metavar="N", help="how often the fault comes")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="decides what faults hit, and when (default: by the clock)"
    )
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="brokers side by side (default: 3)")
    parser.add_argument("--require-brokers", action="store_true", help="an unavailable broker is a failure")
    parser.add_argument(
        "--histories", type=Path, default=Path(".faults"), metavar="DIR", help="where histories go (default: .faults)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the history of a run that held, too")
    parser.add_argument("--mutant", choices=MUTANTS, metavar="NAME", help="with a broken adapter: it has to be found")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check this history again, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--list", action="store_true", help="print the scenarios and end")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.broker if name not in names and ":" not in name]:
        parser.error(f"unknown broker {', '.join(unknown)}; there are {', '.join(names)}, and module:Class")
    return options


class Runs:
    """Every scenario on every broker: one broker of each kind, its scenarios one after the other."""

    def __init__(self, options: argparse.Namespace, say: Say) -> None:
        self._options = options
        self._say = say
        self._seed: int = options.seed if options.seed is not None else int(time.time())
        self._jobs = asyncio.Semaphore(options.jobs)
        self._stamp = time.strftime("%Y%m%d-%H%M%S")
        self.scenarios = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
        if options.tier == "short" and not options.scenario:
            self.scenarios = [scenario for scenario in self.scenarios if not scenario.only_long]
        self.outcomes: list[Outcome] = []
        self.left_out: list[str] = []
        self.unavailable = False

    async def all(self, harnesses: dict[str, type[BrokerHarness]]) -> None:
        """Some brokers side by side."""
        async with asyncio.TaskGroup() as group:
            for harness in harnesses.values():
                group.create_task(self._on(harness()))

    async def _on(self, harness: BrokerHarness) -> None:
        """One broker. After a run that failed the next scenario has a new one."""
        async with self._jobs:
            capabilities = harness.capabilities()
            todo = [scenario for scenario in self.scenarios if self._applies(scenario, harness, capabilities)]
            up = False
            try:
                for scenario in todo:
                    if scenario.clustered:  # on separate servers
                        if up:
                            up = False
                            await asyncio.to_thread(harness.teardown)
                        await self._on_cluster(scenario, harness, capabilities)
                        continue
                    if not up:
                        self._say(harness.name, "starting the broker")
                        harness.attach(await asyncio.to_thread(harness.setup))
                        up = True
                    if missing := scenario.needs - harness.can():
                        self._leave_out(
                            harness, scenario, f"its broker cannot be asked to {', '.join(sorted(missing))}"
                        )
                        continue
                    outcome = await self._run(scenario, harness, capabilities)
                    self.outcomes.append(outcome)
                    if outcome.verdict.word != "held":
                        up = False
                        await asyncio.to_thread(harness.teardown)
            except BrokerUnavailable as exc:
                self.unavailable = True
                self.left_out.append(f"{harness.name}: {exc.why}")
            finally:
                await asyncio.to_thread(harness.teardown)
            self._say(harness.name, "done")

    async def _on_cluster(self, scenario: Scenario, harness: BrokerHarness, capabilities: Capabilities) -> None:
        try:
            self.outcomes.append(await self._run(scenario, harness, capabilities))
        except BrokerUnavailable as exc:  # a single server may still be available, from an image or by its URL
            self._leave_out(harness, scenario, exc.why)
            self.unavailable = self.unavailable or self._options.require_brokers

    def _applies(self, scenario: Scenario, harness: BrokerHarness, capabilities: Capabilities) -> bool:
        if not (capabilities.processes and capabilities.durable):
            self._leave_out(harness, scenario, "it lives in one process")
        elif missing := scenario.needs - harness.can():
            self._leave_out(harness, scenario, f"its broker cannot be asked to {', '.join(sorted(missing))}")
        elif scenario.deletes and harness.name not in DELETIONS:
            self._leave_out(harness, scenario, "its topics are not deleted from outside")
        else:
            return True
        return False

    def _leave_out(self, harness: BrokerHarness, scenario: Scenario, why: str) -> None:
        self.left_out.append(f"{scenario.name} on {harness.name}: {why}")

    async def _run(self, scenario: Scenario, harness: BrokerHarness, capabilities: Capabilities) -> Outcome:
        options = self._options
        size = scenario.size(options.tier)
        if size.events is not None and options.events:
            size = replace(size, events=options.events)
        if size.events is None and options.rate:
            size = replace(size, rate=options.rate)
        if options.deadline:
            size = replace(size, deadline=options.deadline)
        if options.times:
            size = replace(size, times=options.times)
        folder = options.histories.resolve() / f"{self._stamp}-{harness.name}-{scenario.name}"
        folder.mkdir(parents=True)
        begun = time.monotonic()
        run = Run(
            harness,
            capabilities,
            folder,
            size,
            self._seed,
            lambda text: self._say(harness.name, f"{scenario.name}: {text}"),
            through_proxy=scenario.through_proxy,
            clustered=scenario.clustered,
            mutant=options.mutant,
        )
        error: str | None = None
        try:
            async with run:
                await run.start()
                await scenario.act(run)
                await run.finish()
        except (Stalled, BrokerFailed) as exc:
            error = f"{type(exc).__name__}: {exc}"
        except BrokerUnavailable:
            folder.rmdir()
            raise
        verdict = await asyncio.to_thread(self._judge, folder, run.notes, error)
        kept: Path | None = folder
        if verdict.word == "held" and not options.keep:
            await asyncio.to_thread(shutil.rmtree, folder)
            kept = None
        self._say(harness.name, f"{scenario.name}: {verdict.word}")
        return Outcome(scenario.name, harness.name, self._seed, time.monotonic() - begun, verdict, kept)

    @staticmethod
    def _judge(folder: Path, notes: Sequence[str], error: str | None) -> Verdict:
        """Also of a run that failed: what it shows is worth knowing."""
        verdict = judge(read(folder / "history.jsonl"), attempts=ATTEMPTS, notes=notes)
        return replace(verdict, error=error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    options = parse(arguments)
    out = Console(width=None if sys.stdout.isatty() else 140)
    if options.list:
        for scenario in SCENARIOS.values():
            tier = " (long tier, or by name)" if scenario.only_long else ""
            out.print(f"{scenario.name:<28}{scenario.text}{tier}", highlight=False)
        return HELD
    if options.check is not None:
        verdict = judge(read(options.check), attempts=ATTEMPTS)
        out.print_json(json.dumps(verdict.as_dict()))
        return DID_NOT_HOLD if verdict.problems else HELD
    harnesses = find_harnesses(options.broker or [name for name in BUILT_IN if name != "memory"])
    with progress(list(harnesses)) as say:
        runs = Runs(options, say)
        asyncio.run(runs.all(harnesses))
    if options.json:
        sys.stdout.write(as_json(runs.outcomes, runs.left_out) + "\n")
    else:
        show(out, runs.outcomes, runs.left_out)
    words = {outcome.verdict.word for outcome in runs.outcomes}
    if "failed" in words or not words or (runs.unavailable and (options.require_brokers or options.broker)):
        return FAILED
    return DID_NOT_HOLD if "did not hold" in words else HELD
