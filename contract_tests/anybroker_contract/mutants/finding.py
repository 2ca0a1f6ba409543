"""Running a suite against broken adapters, or broken stores, and printing which tests find which."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .._skips import known_tests

__all__ = ["Breakable", "Finding", "find"]


class Breakable(Protocol):
    """A broken adapter, or a broken store."""

    @property
    def name(self) -> str:
        """Of what is broken."""
        raise NotImplementedError

    @property
    def wrong(self) -> str:
        """What is wrong with it."""
        raise NotImplementedError

    @property
    def killers(self) -> tuple[str, ...]:
        """Tests of which at least one must fail."""
        raise NotImplementedError


@dataclass(frozen=True)
class Finding:
    """A suite, and what it must find."""

    command: str
    """What comes after ``python -m``."""
    what: str
    """What is broken: ``adapter`` or ``store``, as in the suite's option."""
    package: str
    """Where the tests are; beside them is ``plugin``."""
    folder: Path
    mutants: Mapping[str, Breakable]
    applying: Callable[[str], Iterable[str]]
    """The names of those that apply to the adapter, or the store, of this name."""


@dataclass
class Result:
    """The outcome of one broken adapter, or store."""

    mutant: Breakable
    ran: set[str] = field(default_factory=set)
    killed_by: set[str] = field(default_factory=set)

    @property
    def killed(self) -> bool:
        """Whether a test failed on it."""
        return bool(self.killed_by)


def parse(finding: Finding, arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {finding.command}",
        description=f"Runs the contract suite against deliberately broken {finding.what}s: a test must find each.",
        epilog="Exit status: 0 all were found; 1 one was not; 2 the run itself failed.",
    )
    parser.add_argument(
        f"--{finding.what}", dest="target", default="memory", metavar="NAME", help="what to break (default: memory)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help=f"only this broken {finding.what}; repeatable"
    )
    parser.add_argument(
        "--all", action="store_true", help="run every test against each, not only those that are expected to find it"
    )
    parser.add_argument("--patience", type=float, default=2.0, metavar="SECONDS", help="of the tests (default: 2)")
    parser.add_argument("-n", "--workers", default="2", metavar="N", help="test processes side by side (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--list", action="store_true", help=f"print the broken {finding.what}s and end")
    return parser.parse_args(arguments)


def command(finding: Finding, options: argparse.Namespace, mutants: Iterable[Breakable], outcomes: Path) -> list[str]:
    """The pytest run."""
    chosen = [part for mutant in mutants for part in ("--mutant", mutant.name)]
    only = [] if options.all else ["--killers-only"]
    workers = [] if options.workers in ("0", "1") else ["-n", options.workers]
    return [
        *(sys.executable, "-m", "pytest", "-q", "--tb=no", "--assert=plain", "-p", f"{finding.package}.plugin"),
        *("-p", "no:cacheprovider", "--pyargs", finding.package, f"--{finding.what}", options.target),
        *("--patience", str(options.patience), "--outcomes", str(outcomes), *chosen, *only, *workers),
    ]


def follow(process: subprocess.Popen[str], path: Path) -> Iterator[dict[str, str]]:
    """The outcomes as they are written."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        rest = ""
        while True:
            ended = process.poll() is not None
            rest += file.read()
            *lines, rest = rest.split("\n")
            yield from map(json.loads, lines)
            if ended:
                return
            time.sleep(0.1)


def run(finding: Finding, options: argparse.Namespace, results: dict[str, Result], console: Console) -> int:
    """Run pytest and fill the results; its exit status."""
    with tempfile.TemporaryDirectory(prefix="anybroker-mutants-") as folder:
        outcomes, log = Path(folder) / "outcomes.jsonl", Path(folder) / "pytest.log"
        mutants = [result.mutant for result in results.values()]
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                command(finding, options, mutants, outcomes),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ,
            )
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            try:
                with Progress(*columns, console=console, transient=True) as progress:
                    task = progress.add_task(f"broken {finding.what}s found", total=len(results))
                    for outcome in follow(process, outcomes):
                        result = results[outcome["mutant"]]
                        test = outcome["test"].partition("::")[2]
                        result.ran.add(test)
                        if outcome["verdict"] == "failed":
                            result.killed_by.add(test)
                        progress.update(task, completed=sum(item.killed for item in results.values()))
            finally:
                if process.poll() is None:
                    process.terminate()
                status = process.wait()
        if not any(result.ran for result in results.values()):
            status = 2
        if status not in (0, 1):
            console.print(log.read_text(encoding="utf-8"), markup=False, highlight=False)
    return status


def table(finding: Finding, options: argparse.Namespace, results: dict[str, Result]) -> Table:
    """What is broken, what is wrong with each, and the tests that found it."""
    drawn = Table(title=f"broken {options.target} {finding.what}s", show_lines=False)
    drawn.add_column(f"broken {finding.what}", no_wrap=True)
    drawn.add_column("what is wrong")
    drawn.add_column("tests", justify="right")
    drawn.add_column("found by", justify="right")
    drawn.add_column("for instance")
    for result in results.values():
        expected = [test for test in result.mutant.killers if test in result.killed_by]
        first = (expected or sorted(result.killed_by) or ["SURVIVED"])[0]
        style = None if result.killed else "bold red"
        counts = (str(len(result.ran)), str(len(result.killed_by)))
        drawn.add_row(result.mutant.name, result.mutant.wrong, *counts, first, style=style)
    return drawn


def killing_nothing(finding: Finding, results: dict[str, Result]) -> list[str]:
    """The tests of the suite that ran against what is broken and found none of them."""
    ran = {test for result in results.values() for test in result.ran}
    kills = {test for result in results.values() for test in result.killed_by}
    tests = (name.partition("::")[2] for name in known_tests(finding.folder))
    return [test for test in tests if test in ran - kills]


def find(finding: Finding, arguments: list[str] | None = None) -> int:
    """The command; the exit status."""
    options = parse(finding, arguments)
    console = Console(stderr=True)
    if options.list:
        for mutant in finding.mutants.values():
            sys.stdout.write(f"{mutant.name}: {mutant.wrong} Found by {', '.join(mutant.killers)}.\n")
        return 0
    unknown = [name for name in options.only if name not in finding.mutants]
    if unknown:
        console.print(f"no broken {finding.what} {unknown[0]!r}; see --list", markup=False)
        return 2
    results = {
        name: Result(finding.mutants[name])
        for name in finding.applying(options.target)
        if not options.only or name in options.only
    }
    status = run(finding, options, results, console)
    if status not in (0, 1):
        return 2
    survivors = [result.mutant.name for result in results.values() if not result.killed]
    idle = killing_nothing(finding, results) if options.all else []
    if options.json:
        sys.stdout.write(json.dumps(report(finding, options, results, survivors, idle), indent=2) + "\n")
    else:
        out = Console(width=max(Console().width, 160))
        out.print(table(finding, options, results))
        out.print(f"{len(results) - len(survivors)} of {len(results)} found.", highlight=False)
        if survivors:
            out.print(f"Not found: {', '.join(survivors)}", style="bold red")
        if idle:
            out.print(f"Tests that found none: {', '.join(idle)}", highlight=False)
    return 1 if survivors else 0


def report(
    finding: Finding,
    options: argparse.Namespace,
    results: dict[str, Result],
    survivors: list[str],
    idle: list[str],
) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        finding.what: options.target,
        "mutants": {
            name: {
                "wrong": result.mutant.wrong,
                "tests": len(result.ran),
                "killed_by": sorted(result.killed_by),
            }
            for name, result in results.items()
        },
        "survivors": survivors,
        "tests_that_killed_none": idle,
    }
