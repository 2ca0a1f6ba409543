"""The outcome of each test on each adapter: for the summary, the table and the runs against broken adapters."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["Outcome", "Outcomes", "Verdict"]

Verdict = Literal["passed", "failed", "not applicable", "ledgered", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """One test, one adapter."""

    test: str
    """``file::function[parameter]``, without the adapter."""
    adapter: str
    verdict: Verdict
    reason: str = ""
    mutant: str | None = None
    seconds: float = 0.0


class Outcomes:
    """Collects them; with a path, each also goes to that file as one JSON line, as soon as it is known."""

    def __init__(self, path: Path | None = None) -> None:
        self.all: list[Outcome] = []
        self._path = path
        if path is not None:
            path.write_text("", encoding="utf-8")

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.all.append(outcome)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")

    def summary(self, adapter: str) -> str:
        """One line on one adapter."""
        mine = [outcome for outcome in self.all if outcome.adapter == adapter]
        counts = Counter(outcome.verdict for outcome in mine)
        reasons = Counter(outcome.reason for outcome in mine if outcome.verdict == "not applicable")
        text = ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if verdict in counts)
        if reasons:
            text += f" ({', '.join(f'{reason} {count}' for reason, count in sorted(reasons.items()))})"
        seconds = sum(outcome.seconds for outcome in mine)
        return f"{adapter}: {text}; {seconds:.0f} s of tests"
