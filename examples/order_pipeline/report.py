"""What a run prints: its progress, and its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .checks import Check, Evidence, check, inversions, suppressed
from .history import Entry
from .plan import Plan
from .seen import Figures, table_of

__all__ = ["Live", "Result", "print_result", "result_of"]

_STEPS = {
    "orders placed": ("storefront", ""),
    "stock reserved": ("inventory", "reserve"),
    "payments answered": ("payment", "charge"),
    "stock released": ("inventory", "release"),
    "parcels shipped": ("shipping", "ship"),
}
_FINAL = ("DecodeError", "CancelledError")
"""Failures that are not retried: never, and not by this process."""
_PLAIN_EVERY = 1.0
"""Seconds between two lines if the output is not a terminal."""


class Live:
    """The steps as bars with their rates; if the output is not a terminal, one line per second."""

    def __init__(self, console: Console, plan: Plan, *, observe: bool = False) -> None:
        """``observe``: show a table of the services, too."""
        self._console = console
        self.observes = observe
        self._places: dict[str, str] = {}
        self._began = self._last_line = monotonic()
        self.counts: Counter[str] = Counter()
        self._seen: set[tuple[str, str]] = set()
        self._between: dict[str, tuple[float, float]] = {}
        totals = {name: len(plan.orders) - bool(plan.poison) for name in _STEPS}
        totals |= {
            "orders placed": len(plan.orders),
            "stock released": len(plan.declined),
            "parcels shipped": len(plan.paid),
        }
        self._plain = not console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>6.0f}/s"),
            TimeElapsedColumn(),
            console=console,
            disable=self._plain or observe,
        )
        self._screen = Screen(console=console, refresh_per_second=4) if observe and not self._plain else None
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=total, rate=0.0) for name, total in totals.items()
        }

    def __enter__(self) -> Self:
        self._progress.start()
        if self._screen is not None:
            self._screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._screen is not None:
            self._screen.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        line = f"[dim]{monotonic() - self._began:6.1f} s[/]  {escape(text)}"
        self._console.print(line, highlight=False, soft_wrap=True)

    def show_services(
        self,
        places: Mapping[str, str],
        looked: Mapping[str, tuple[Figures, float, float]],
        lags: Mapping[str, int] | None,
    ) -> None:
        """What each service says of itself. ``lags``: what waits for each; None where the broker cannot say."""
        if self.observes:
            for name, url in places.items():
                if self._places.get(name) != url:
                    self._console.print(f"metrics of {name}: {url}", highlight=False, soft_wrap=True)
        self._places.update(places)
        if not self.observes:
            return
        table = table_of(looked, lambda name: None if lags is None else lags.get(name, 0))
        if self._screen is not None:
            self._screen.update(Group(self._progress, table))
        else:
            self._console.print(table)

    def say_where(self) -> None:
        """Where metrics and traces were."""
        for name, url in self._places.items():
            self._console.print(f"metrics of {name}: {url} while it ran", highlight=False, soft_wrap=True)
        self._console.print(
            "traces: none, because no service set up an OpenTelemetry SDK",
            highlight=False,
            soft_wrap=True,
        )

    def show(self, entries: Iterable[Entry]) -> None:
        """Take in what happened."""
        for entry in entries:
            step = self._step(entry)
            if step is not None and (step, entry.order) not in self._seen:
                self._seen.add((step, entry.order))
                self._between[step] = (self._between.get(step, (entry.at, 0.0))[0], entry.at)
                self.counts[step] += 1
        for name, task in self._tasks.items():
            first, last = self._between.get(name, (0.0, 0.0))
            self._progress.update(task, completed=self.counts[name], rate=self.counts[name] / max(last - first, 0.1))
        if self._plain and monotonic() - self._last_line >= _PLAIN_EVERY:
            self._last_line = monotonic()
            self.say(" · ".join(f"{name.split()[-1]} {self.counts[name]:,}" for name in _STEPS))

    def _step(self, entry: Entry) -> str | None:
        if entry.what == "placed":
            return "orders placed"
        if entry.what == "done":
            for name, (service, handler) in _STEPS.items():
                if (entry.service, entry.handler) == (service, handler):
                    return name
        return None


@dataclass(frozen=True)
class Result:
    """A run in numbers."""

    broker: str
    seed: int
    orders: int
    shipped: int
    cancelled: int
    dead_lettered: int
    duplicates_sent: int
    duplicates_dropped_by_broker: int
    duplicates_suppressed: int
    """Suppressed by the handlers' idempotency, including redelivered events."""
    retries: int
    restarts: int
    how_restarted: str
    order_violations: int
    cents_charged: int
    cents_expected: int
    events: int
    """Handled by all services together."""
    seconds: float
    """From the first order placed to the last outcome."""
    events_per_second: float
    end_to_end_p50: float
    """Seconds from the placing of an order to its outcome."""
    end_to_end_p99: float
    dead_letter_reasons: list[str]
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether every invariant does."""
        return all(each.holds for each in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = [{**asdict(each), "holds": each.holds} for each in self.checks]
        return {**asdict(self), "checks": checks, "holds": self.holds}


def result_of(evidence: Evidence, *, broker: str, seed: int, how_restarted: str) -> Result:
    """The numbers of a run."""
    history = evidence.history
    placed = {entry.order: entry.at for entry in history if entry.what == "placed"}
    ends: dict[str, float] = {}
    for entry in history:
        if entry.what == "done" and entry.service == "storefront":
            ends.setdefault(entry.order, entry.at)
    took = sorted(ends[order] - placed[order] for order in ends if order in placed)
    done = [entry for entry in history if entry.what == "done"]
    seconds = max(ends.values(), default=0.0) - min(placed.values(), default=0.0) if ends and placed else 0.0
    outcomes = Counter(outcome for _, outcome in evidence.outcomes)
    copies = [entry for entry in history if entry.what in ("copy", "click")]
    failed = [entry for entry in history if entry.what == "failed" and not entry.note.startswith(_FINAL)]
    return Result(
        broker=broker,
        seed=seed,
        orders=len(evidence.plan.orders),
        shipped=outcomes["shipped"],
        cancelled=outcomes["cancelled"],
        dead_lettered=len(evidence.letters),
        duplicates_sent=len(copies),
        duplicates_dropped_by_broker=sum(bool(entry.note) for entry in copies),
        duplicates_suppressed=suppressed(history).total(),
        retries=len(failed),
        restarts=evidence.restarts,
        how_restarted=how_restarted,
        order_violations=len(inversions(history)),
        cents_charged=sum(cents for _, cents in evidence.charges),
        cents_expected=evidence.plan.cents,
        events=len(done),
        seconds=round(seconds, 3),
        events_per_second=round(len(done) / seconds, 1) if seconds else 0.0,
        end_to_end_p50=round(_percentile(took, 0.50), 4),
        end_to_end_p99=round(_percentile(took, 0.99), 4),
        dead_letter_reasons=[f"{letter.id}: {letter.reason}" for letter in evidence.letters],
        checks=check(evidence),
    )


def _percentile(values: list[float], part: float) -> float:
    return values[min(int(part * len(values)), len(values) - 1)] if values else 0.0


def print_result(console: Console, result: Result) -> None:
    """The table, the dead letters with their reasons, and the invariants."""
    numbers = Table(title=f"{result.orders:,} orders on {result.broker}", title_justify="left")
    numbers.add_column("")
    numbers.add_column("", justify="right")
    outcomes = f"{result.shipped:,} / {result.cancelled:,} / {result.dead_lettered:,}"
    latency = f"{result.end_to_end_p50 * 1000:,.0f} / {result.end_to_end_p99 * 1000:,.0f} ms"
    for name, value in (
        ("orders shipped / cancelled / dead-lettered", outcomes),
        ("duplicates sent", f"{result.duplicates_sent:,}"),
        ("  dropped by the broker", f"{result.duplicates_dropped_by_broker:,}"),
        ("  suppressed by handlers, redeliveries included", f"{result.duplicates_suppressed:,}"),
        ("retries", f"{result.retries:,}"),
        (f"restarts of payment ({result.how_restarted})", f"{result.restarts:,}"),
        ("per-key order violations", f"{result.order_violations:,}"),
        ("cents charged", f"{result.cents_charged:,}"),
        ("cents expected", f"{result.cents_expected:,}"),
        ("events handled", f"{result.events:,} in {result.seconds:.1f} s"),
        ("events/s", f"{result.events_per_second:,.0f}"),
        ("order to outcome, p50 / p99", latency),
    ):
        numbers.add_row(name, value)
    console.print(numbers)
    for reason in result.dead_letter_reasons:
        console.print(f"dead letter {reason}", highlight=False, markup=False, soft_wrap=True)
    invariants = Table(title="invariants", title_justify="left")
    for column, justify in (("", "left"), ("found", "right"), ("expected", "right"), ("", "left")):
        invariants.add_column(column, justify=justify)  # type: ignore[arg-type] # the literals of the line above
    for each in result.checks:
        mark = "[green]holds[/]" if each.holds else f"[red]BROKEN[/] {escape(each.detail)}"
        invariants.add_row(each.name, f"{each.found:,}", f"{each.expected:,}", mark)
    console.print(invariants)
