"""What must be true after a run, whatever happened in it. Pure functions over what the run left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .history import Entry
from .plan import Plan

__all__ = ["Check", "Evidence", "Letter", "check", "dropped", "inversions", "overlaps", "suppressed"]


@dataclass(frozen=True)
class Letter:
    """What the checks need of a dead letter."""

    topic: str
    group: str
    id: str
    reason: str
    attempts: int


@dataclass
class Evidence:
    """What a run left behind."""

    plan: Plan
    history: Sequence[Entry]
    outcomes: Sequence[tuple[str, str]]
    """Order and outcome, from the storefront's books: each outcome that an order had."""
    charges: Sequence[tuple[str, int]]
    """Order and cents, from the bank's books."""
    asked: Mapping[str, int]
    """How often the bank was asked to charge an order."""
    parcels: Sequence[tuple[str, int]]
    """Order and CDs, from shipping's books."""
    cds_gone: int
    """CDs that inventory's books say have left the stock."""
    letters: Sequence[Letter]
    """All dead letters, of all groups."""
    restarts: int = 0
    complaints: Sequence[str] = field(default=())
    """What the supervisor reports about the services."""


@dataclass(frozen=True)
class Check:
    """One invariant."""

    name: str
    found: int
    expected: int
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether it holds."""
        return self.found == self.expected


def check(evidence: Evidence) -> list[Check]:
    """Every invariant."""
    plan, history = evidence.plan, evidence.history
    paid = {order.order_id: order for order in plan.paid}
    dead = {letter.id for letter in evidence.letters}
    copies = [entry.order for entry in history if entry.what in ("copy", "click")]
    one_end = [
        order_id
        for order_id, count in Counter([*(order for order, _ in evidence.outcomes), *dead]).items()
        if count == 1
    ]
    cancelled = {order for order, outcome in evidence.outcomes if outcome == "cancelled"}
    shipped = {order for order, outcome in evidence.outcomes if outcome == "shipped"}
    wrong = {order for order, cents in evidence.charges if order not in paid or paid[order].cents != cents}
    charged_twice = {order for order, count in Counter(order for order, _ in evidence.charges).items() if count > 1}
    third = [order for order in plan.unreachable & shipped if evidence.asked.get(order, 0) >= 3]
    left = set(copies) - dropped(history) - suppressed(history).keys()
    order_kept = inversions(history)
    at_once = overlaps(history)
    poison = [
        letter
        for letter in evidence.letters
        if letter.id == plan.poison and letter.group == "inventory" and letter.reason.startswith("undecodable")
    ]
    return [
        Check("orders with exactly one outcome", len(one_end), len(plan.orders)),
        Check("orders shipped", len(shipped & paid.keys()), len(paid), _some(shipped ^ paid.keys())),
        Check("parcels sent", len(evidence.parcels), len(paid)),
        Check("orders cancelled", len(cancelled), len(plan.declined), _some(cancelled ^ plan.declined)),
        Check("cents charged", sum(cents for _, cents in evidence.charges), plan.cents, _some(wrong)),
        Check("cards charged", len(evidence.charges), len(paid), _some(charged_twice)),
        Check("CDs out of stock", evidence.cds_gone, plan.cds),
        Check("events of a customer out of order", len(order_kept), 0, _some(order_kept)),
        Check("events of a customer handled at once", len(at_once), 0, _some(at_once)),
        Check("dead letters", len(evidence.letters), 1 if plan.poison else 0, _some(dead - {plan.poison})),
        Check("poison dead-lettered, with its reason", len(poison), 1 if plan.poison else 0),
        Check("duplicates sent", len(copies), len(plan.copied) + len(plan.clicked)),
        Check("duplicates dropped or suppressed", len(copies) - len(left), len(copies), _some(left)),
        Check("orders paid at the third try", len(third), len(plan.unreachable)),
        Check("services restarted", evidence.restarts, 1 if plan.crash else 0),
        Check("services in trouble", len(evidence.complaints), 0, "; ".join(evidence.complaints)),
    ]


def inversions(history: Iterable[Entry]) -> list[str]:
    """Orders whose handler first started after it had started for a later order of the same customer."""
    seen: set[tuple[str, str, str]] = set()
    last: dict[tuple[str, str, str], str] = {}
    found = []
    for entry in sorted(history, key=lambda entry: entry.at):
        if entry.what != "start" or (entry.service, entry.handler, entry.order) in seen:
            continue
        seen.add((entry.service, entry.handler, entry.order))
        strand = (entry.service, entry.handler, entry.customer)
        if entry.order < last.get(strand, ""):  # order numbers have leading zeros
            found.append(f"{entry.order} in {entry.handler}")
        else:
            last[strand] = entry.order
    return found


def overlaps(history: Iterable[Entry]) -> list[str]:
    """Events whose handler was started while another one of the same group and topic had the customer.

    A killed process does not record the end of its handlers: they count as ended when its successor starts.
    """
    busy: dict[tuple[str, str, str], Entry] = {}
    found = []
    for entry in sorted(history, key=lambda entry: entry.at):
        strand = (entry.service, entry.handler, entry.customer)
        if entry.what == "start":
            before = busy.get(strand)
            if before is not None and before.pid == entry.pid:
                found.append(f"{entry.order} in {entry.handler}")
            busy[strand] = entry
        elif entry.what in ("done", "failed", "waits"):
            busy.pop(strand, None)
    return found


def dropped(history: Iterable[Entry]) -> set[str]:
    """Orders whose copy the broker recognised."""
    return {entry.order for entry in history if entry.what == "copy" and entry.note}


def suppressed(history: Iterable[Entry]) -> Counter[str]:
    """How often an event arrived at a handler that had finished its order, and was not handled again."""
    done = Counter((entry.service, entry.handler, entry.order) for entry in history if entry.what == "done")
    found: Counter[str] = Counter()
    for (_, _, order), count in done.items():
        if count > 1:
            found[order] += count - 1
    return found


def _some(items: Iterable[str]) -> str:
    listed = sorted(items)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
