"""``make fuzz``: generated messages against everything that reads outside data, one target after the other."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .bounds import check
from .child import atheris_is_there
from .registry import Target, all_targets

__all__ = ["main"]

NOTHING, FOUND, FAILED = 0, 1, 2


@dataclass
class Outcome:
    """The outcome of one target."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "seconds": round(self.seconds, 1)}


def parse(arguments: Sequence[str] | None, targets: dict[str, Target]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description="Generated messages against everything that reads outside data: each ends in an event, a foreign "
        "message or a documented error, within limits of time and memory.",
        epilog="Exit status: 0 no fault was found; 1 one was; 2 a target could not run, or the usage was wrong.",
    )
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="repeatable; default: all (see --list)"
    )
    parser.add_argument(
        "--inputs", type=_positive(int), default=35_000, metavar="N", help="for each target (default: 35,000)"
    )
    parser.add_argument(
        "--seconds", type=_positive(float), default=600.0, metavar="S", help="the most for each target (default: 600)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random choices (default: 0)")
    parser.add_argument(
        "--engine",
        choices=("auto", "atheris", "blind"),
        default="auto",
        help="guided by coverage, or edits at random (default: atheris where it is installed)",
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".fuzz"), metavar="DIR", help="for corpora, faults, logs (default: .fuzz)"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input on one --target, and end")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--list", action="store_true", help="print the targets and end")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.target if name not in targets]:
        parser.error(f"unknown target {', '.join(unknown)}; there are {', '.join(targets)}")
    if options.engine == "atheris" and not atheris_is_there():
        parser.error("atheris is not installed: pip install --group fuzz")
    if options.replay is not None and (len(options.target) != 1 or not options.replay.is_file()):
        parser.error("--replay needs one --target, and an existing file")
    return options


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        if (found := kind(text)) <= 0:
            raise ValueError
        return found

    number.__name__ = f"positive {kind.__name__}"
    return number


def replay(target: Target, path: Path) -> int:
    """Run one input, and show everything about it."""
    data = path.read_bytes()
    try:
        check(target.run, data, measured=False)
        check(target.run, data, measured=target.measured)
    except BaseException:  # noqa: BLE001 - it is shown
        traceback.print_exc()
        return FOUND
    Console().print(f"{target.name}: no fault with {len(data)} bytes", highlight=False)
    return NOTHING


def run(target: Target, options: argparse.Namespace, engine: str, tell: Callable[[int, int], None]) -> Outcome:
    """Run one target in a separate process; ``tell`` gets the number of inputs and faults so far."""
    name = target.name
    outcome = Outcome(name)
    begun = time.monotonic()
    work: Path = options.work.resolve()
    log = work / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *(
            sys.executable,
            "-m",
            "fuzz.child",
            name,
            "--module",
            target.module,
            "--engine",
            engine,
            "--seed",
            str(options.seed),
        ),
        *("--inputs", str(options.inputs), "--seconds", str(options.seconds)),
        *("--corpus", str(work / "corpus" / name), "--found", str(work / "found" / name)),
    ]
    done = False
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                told = json.loads(line)
            except ValueError:
                continue  # somebody's print
            what = told.pop("what")
            if what == "fault":
                outcome.faults.append(told)
            else:
                outcome.inputs = told["inputs"]
                done = what == "done"
            tell(outcome.inputs, len(outcome.faults))
    outcome.seconds = time.monotonic() - begun
    if not done:
        last = log.read_bytes().decode("utf-8", "replace").strip().splitlines()[-1:] or ["nothing"]
        outcome.failure = f"the process ended with {process.returncode}: {last[0]} (see {log})"
    return outcome


def show(console: Console, outcomes: Sequence[Outcome]) -> None:
    """The table, and the faults."""
    table = Table("target", "inputs", "s", "inputs/s", "faults", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in outcomes:
        rate = f"{each.inputs / each.seconds:,.0f}" if each.seconds else "-"
        table.add_row(each.target, f"{each.inputs:,}", f"{each.seconds:.0f}", rate, str(len(each.faults)))
    total, seconds = sum(each.inputs for each in outcomes), sum(each.seconds for each in outcomes)
    table.add_row("all", f"{total:,}", f"{seconds:.0f}", "", str(sum(len(each.faults) for each in outcomes)))
    console.print(table)
    for each in outcomes:
        for fault in each.faults:
            console.print(f"{each.target}: {fault['error']} at {fault['at']}: {fault['text']}", markup=False)
            console.print(
                f"    again with: python -m fuzz --target {each.target} --replay {fault['input']}", markup=False
            )
        if each.failure:
            console.print(f"{each.target}: {each.failure}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    targets = all_targets()
    options = parse(arguments, targets)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if options.list:
        for target in targets.values():
            console.print(f"{target.name:<22}{target.text}", markup=False)
        return NOTHING
    if options.replay is not None:
        return replay(targets[options.target[0]], options.replay)
    engine = options.engine
    if engine == "auto":
        engine = "atheris" if atheris_is_there() else "blind"
    names = options.target or list(targets)
    outcomes: list[Outcome] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[faults]} faults"),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task(engine, total=options.inputs * len(names), faults=0)
        for number, name in enumerate(names):

            def tell(inputs: int, faults: int, number: int = number, name: str = name) -> None:
                found = faults + sum(len(each.faults) for each in outcomes)
                done = number * options.inputs + inputs
                progress.update(task, description=f"{engine}: {name}", completed=done, faults=found)

            outcomes.append(run(targets[name], options, engine, tell))
    if options.json:
        found = {"engine": engine, "seed": options.seed, "targets": [each.as_dict() for each in outcomes]}
        sys.stdout.write(json.dumps({**found, "inputs": sum(each.inputs for each in outcomes)}, indent=2) + "\n")
    else:
        show(console, outcomes)
    if any(each.failure for each in outcomes):
        return FAILED
    return FOUND if any(each.faults for each in outcomes) else NOTHING


if __name__ == "__main__":
    sys.exit(main())
