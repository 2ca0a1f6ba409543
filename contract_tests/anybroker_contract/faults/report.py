"""The table at the end, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .verdict import Verdict

__all__ = ["Outcome", "as_json", "show"]

COLOURS = {"held": "green", "did not hold": "red", "failed": "magenta"}


@dataclass(frozen=True)
class Outcome:
    """One scenario on one broker."""

    scenario: str
    broker: str
    seed: int
    seconds: float
    verdict: Verdict
    kept: Path | None = None
    """Where its history is, unless it held."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "scenario": self.scenario,
            "broker": self.broker,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            **self.verdict.as_dict(),
            "history": None if self.kept is None else str(self.kept),
        }


def as_json(outcomes: Sequence[Outcome], left_out: Sequence[str]) -> str:
    """Everything."""
    return json.dumps({"runs": [outcome.as_dict() for outcome in outcomes], "left_out": list(left_out)}, indent=2)


def show(console: Console, outcomes: Sequence[Outcome], left_out: Sequence[str]) -> None:
    """The table, and below it what did not hold, with the histories."""
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    table.add_column("broker", no_wrap=True)
    for name in ("events", "lost", "inversions", "duplicates", "recovery s", "took s"):
        table.add_column(name, justify="right")
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        verdict = outcome.verdict
        recovery = " / ".join(
            "–" if took is None else f"{took:.1f}" for took in (verdict.publishing, verdict.consuming)
        )
        table.add_row(
            outcome.scenario,
            outcome.broker,
            f"{verdict.published:,}",
            f"{verdict.lost:,}",
            f"{verdict.inversions:,}",
            f"{verdict.duplicates:,} (≤ {verdict.bound:,})",
            recovery,
            f"{outcome.seconds:.0f}",
            f"[{COLOURS[verdict.word]}]{verdict.word}[/]",
        )
    console.print(table)
    console.print("recovery: the longest time until publishing / consuming worked again after a fault")
    for outcome in outcomes:
        if outcome.verdict.word == "held":
            continue
        console.print(f"\n{outcome.scenario} on {outcome.broker}, seed {outcome.seed}: {outcome.verdict.word}")
        for problem in [*outcome.verdict.problems, *filter(None, [outcome.verdict.error])]:
            console.print(f"  {escape(problem)}", soft_wrap=True)
        if outcome.kept is not None:
            console.print(f"  history: {outcome.kept}", soft_wrap=True)
    for line in left_out:
        console.print(f"left out: {escape(line)}", soft_wrap=True)
