"""Interleaved runs: each candidate once per round, so that a change in the machine's speed affects all of them
alike."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console

__all__ = ["Figure", "interleave"]


@dataclass(frozen=True)
class Figure:
    """Microseconds per event, over the rounds."""

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to report."""
        return statistics.median(self.rounds)

    def over(self, other: Figure) -> float:
        """How many times longer this takes than the other: the median of the ratios, round by round."""
        return statistics.median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return {"name": self.name, "median_us": round(self.median, 2), "rounds_us": [round(r, 2) for r in self.rounds]}


def interleave(
    candidates: Mapping[str, Callable[[], float]], rounds: int, console: Console, title: str
) -> dict[str, Figure]:
    """Run each candidate once per round (after one round that does not count). A candidate returns µs per event."""
    seen: dict[str, list[float]] = {name: [] for name in candidates}
    with console.status(title) as status:
        for number in range(rounds + 1):
            for name, run in candidates.items():
                status.update(f"{title}: round {number}/{rounds}, {name}")
                gc.collect()
                result = run()
                if number:
                    seen[name].append(result)
    return {name: Figure(name, tuple(values)) for name, values in seen.items()}
