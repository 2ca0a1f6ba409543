"""Each checker of the effects harness finds its own violation, and finds nothing in a history that is right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anybroker_contract.effects.checkers import Story, repeats
from anybroker_contract.effects.mutants import MUTANTS
from anybroker_contract.effects.plan import Fault, deck
from anybroker_contract.effects.points import POINTS
from anybroker_contract.effects.verdict import judge
from anybroker_contract.faults.history import History, Record, Writer, read

COUNT, KEYS = 12, 3
RELAY, LAST = 10, 11
Row = list[Any]


@dataclass
class Told:
    """A history, before it is one: one sale each second, relayed, billed, relayed and booked."""

    sales: list[Row] = field(default_factory=lambda: [[f"o-{n}", f"k{n % KEYS}", n] for n in range(COUNT)])
    effects: list[Row] = field(
        default_factory=lambda: [
            row
            for n in range(COUNT)
            for row in (
                ["billing", "shop", f"o-{n}", f"k{n % KEYS}", n],
                ["ledger", "billing", f"c-{n}", f"k{n % KEYS}", n],
            )
        ]
    )
    rows: list[Row] = field(
        default_factory=lambda: [
            row
            for n in range(COUNT)
            for row in (["orders", f"o-{n}", f"k{n % KEYS}", None], ["charges", f"c-{n}", f"k{n % KEYS}", f"o-{n}"])
        ]
    )
    left: list[Row] = field(default_factory=list)
    records: list[Record] = field(
        default_factory=lambda: [
            record
            for n in range(COUNT)
            for topic, id_ in (("orders", f"o-{n}"), ("charges", f"c-{n}"))
            for record in (
                Record("sent", n + 0.1, RELAY, {"topic": topic, "id": id_}),
                Record("arrive", n + 0.2, LAST, {"topic": topic, "id": id_, "key": f"k{n % KEYS}", "n": n}),
            )
        ]
    )

    def judged(self) -> dict[str, int]:
        return judge(self.history()).violations

    def history(self) -> History:
        tables = {"sales": self.sales, "effects": self.effects, "rows": self.rows, "left": self.left}
        found = [
            Record("table", 100.0, 1, {"name": name, "rows": rows[at : at + 5]})
            for name, rows in tables.items()
            for at in range(0, len(rows), 5)
        ]
        return History.of([*self.records, *found])

    def arrival(self, id_: str) -> Record:
        return next(each for each in self.records if each.what == "arrive" and each.facts["id"] == id_)

    def fault(self, begin: float, end: float) -> None:
        self.records += [
            Record("fault", begin, 1, {"name": "relay killed", "number": 1, "target": RELAY}),
            Record("over", end, 1, {"name": "relay killed", "number": 1}),
        ]


def test_a_right_history_has_no_violation() -> None:
    told = Told()
    told.fault(5.0, 5.1)
    verdict = judge(told.history())
    assert (verdict.problems, verdict.word) == ([], "held")
    assert (verdict.sales, verdict.charges, verdict.faults) == (COUNT, COUNT, {"relay killed": 1})


def lose_an_effect(told: Told) -> None:
    told.effects.remove(["billing", "shop", "o-4", "k1", 4])


def make_an_effect_twice(told: Told) -> None:
    told.effects.append(["billing", "shop", "o-11", "k2", 11])


def lose_a_row(told: Told) -> None:
    told.rows.remove(["charges", "c-4", "k1", "o-4"])


def write_a_row_twice(told: Told) -> None:
    told.rows.append(["charges", "c-11", "k2", "o-11"])


def publish_twice_under_other_ids(told: Told) -> None:
    told.rows.append(["charges", "c-11b", "k2", "o-11"])


def lose_a_sale_event(told: Told) -> None:
    told.rows.remove(["orders", "o-4", "k1", None])


def lose_on_the_wire(told: Told) -> None:
    told.records.remove(told.arrival("c-4"))


def lose_behind_the_inbox(told: Told) -> None:
    told.effects.remove(["ledger", "billing", "c-4", "k1", 4])


def take_twice(told: Told) -> None:
    told.effects.append(["ledger", "billing", "c-11", "k2", 11])


def let_what_was_rolled_back_arrive(told: Told) -> None:
    told.records.append(Record("arrive", 20.0, LAST, {"topic": "orders", "id": "undone-o-9", "key": "k9", "n": 9}))


def bill_what_was_never_sold(told: Told) -> None:
    told.effects.append(["billing", "shop", "undone-o-9", "k9", 9])


def keep_a_row_of_what_was_never_sold(told: Told) -> None:
    told.rows.append(["orders", "undone-o-9", "k9", None])


def swap_arrivals(told: Told) -> None:
    early, late = told.arrival("c-4"), told.arrival("c-7")
    told.records.remove(early)
    told.records.append(Record("arrive", late.t + 0.1, LAST, early.facts))


def swap_effects(told: Told) -> None:
    early = ["billing", "shop", "o-4", "k1", 4]
    told.effects.remove(early)
    told.effects.append(early)


def send_again(told: Told) -> None:
    told.records.append(Record("sent", 6.5, RELAY, {"topic": "charges", "id": "c-4"}))


def leave_a_row(told: Told) -> None:
    told.left.append(["charges", "c-4"])


@pytest.mark.parametrize(
    ("spoil", "violations"),
    [
        (lose_an_effect, {"sales without an effect": 1}),
        (make_an_effect_twice, {"sales with several effects": 1}),
        (lose_a_row, {"events without a row in the outbox": 1}),
        (write_a_row_twice, {"events with several rows in the outbox": 2}),
        (publish_twice_under_other_ids, {"events with several rows in the outbox": 1}),
        (lose_a_sale_event, {"events without a row in the outbox": 1}),
        (lose_on_the_wire, {"rows that never arrived": 1}),
        (lose_behind_the_inbox, {"charges that were lost": 1}),
        (take_twice, {"charges that were taken twice": 1}),
        (let_what_was_rolled_back_arrive, {"events that were rolled back, or never written, and arrived": 1}),
        (bill_what_was_never_sold, {"events that were rolled back, or never written, and arrived": 1}),
        (keep_a_row_of_what_was_never_sold, {"events that were rolled back, or never written, and arrived": 1}),
        (swap_arrivals, {"inversions": 1}),
        (swap_effects, {"inversions": 1}),
        (send_again, {"events that were sent again for no reason": 1}),
        (leave_a_row, {"rows that nobody relayed": 1}),
    ],
)
def test_a_violation_is_found(spoil: Callable[[Told], None], violations: dict[str, int]) -> None:
    told = Told()
    spoil(told)
    assert violations.items() <= told.judged().items()


def test_each_kind_of_violation_is_found_by_one_of_these() -> None:
    found = set[str]()
    for mark in test_a_violation_is_found.pytestmark:  # type: ignore[attr-defined] # pytest puts it there
        found.update(*(violations for _, violations in mark.args[1]))
    assert {mutant.violation for mutant in MUTANTS.values()} <= found
    assert len(found) == 11


def test_a_fault_explains_what_is_sent_again() -> None:
    told = Told()
    send_again(told)
    told.fault(5.5, 5.6)
    assert told.judged() == {}
    assert list(repeats(Story(told.history()))) == [("charges", "c-4")]


@pytest.mark.parametrize(("begin", "end"), [(2.0, 2.1), (7.0, 7.1)], ids=["before", "after"])
def test_a_fault_at_another_time_does_not(begin: float, end: float) -> None:
    told = Told()
    send_again(told)
    told.fault(begin, end)
    assert told.judged() == {"events that were sent again for no reason": 1}


def test_a_second_arrival_is_no_inversion() -> None:
    told = Told()
    told.records.append(Record("arrive", 11.9, LAST, told.arrival("c-1").facts))
    assert told.judged() == {}


def test_a_run_of_nothing_proves_nothing() -> None:
    assert judge(History.of([])).word == "did not hold"


def test_a_history_comes_from_its_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "history.jsonl")
    writer.write("table", name="sales", rows=[("o-1", "k1", 1)])
    writer.close()
    assert Story(read(tmp_path / "history.jsonl")).sales == {"o-1": ("k1", 1)}


def test_every_point_and_server_is_in_the_first_deal() -> None:
    cards = deck(random.Random(1), ("database", "broker"))
    points = sum(len(names) for names in POINTS.values())
    first = [str(next(cards)) for _ in range(points + 4)]
    assert {f"{role}:{name}" for role, names in POINTS.items() for name in names} < set(first)
    assert (first.count("database"), first.count("broker")) == (2, 2)
    assert [next(cards).point for _ in range(6)] == [None] * 6


@pytest.mark.parametrize("text", ["database", "worker", "relay:after-send"])
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    assert str(Fault.of(text)) == text


@pytest.mark.parametrize("text", ["", "cook", "worker:after-send", "database:in-commit"])
def test_an_unknown_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a program"):
        Fault.of(text)
