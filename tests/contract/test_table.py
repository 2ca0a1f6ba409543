"""The table of tests × adapters: written by a complete run, merged, and found stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from anybroker_contract._outcomes import Outcome, Outcomes, Verdict
from anybroker_contract._skips import SUITE, known_tests
from anybroker_contract._table import END, START, check_table, read, reworded, write_table

EMPTY = f"# Title\n\n{START}\n{END}\n\nAfter.\n"


def complete(adapter: str, first: Verdict = "passed", reason: str = "") -> Outcomes:
    """A run in which everything passed, but maybe the first."""
    outcomes = Outcomes()
    for test in known_tests():
        verdict: Verdict = first if test == FIRST else "passed"
        outcomes.add(Outcome(test, adapter, verdict, reason if test == FIRST else ""))
    return outcomes


FIRST = next(iter(known_tests()))


def page(tmp_path: Path, text: str = EMPTY) -> Path:
    """A page with that text."""
    path = tmp_path / "contract.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_written_and_then_current(tmp_path: Path) -> None:
    path = page(tmp_path)
    run = complete("memory")
    assert check_table(path, run, ["memory"]) is not None
    assert write_table(path, run, ["memory"]) is None
    assert check_table(path, run, ["memory"]) is None
    adapters, cells = read(path.read_text(encoding="utf-8"))
    assert adapters == ["memory"]
    assert set(cells) == set(known_tests())
    assert path.read_text(encoding="utf-8").endswith(f"{END}\n\nAfter.\n")


def test_columns_of_other_adapters_stay(tmp_path: Path) -> None:
    path = page(tmp_path)
    write_table(path, complete("memory"), ["memory"])
    run = complete("acme", "not applicable", "absent: delay")
    write_table(path, run, ["acme"])
    adapters, cells = read(path.read_text(encoding="utf-8"))
    assert adapters == ["memory", "acme"]
    assert cells[FIRST] == {"memory": "✓", "acme": "– absent: delay"}


def test_a_changed_outcome_makes_it_stale(tmp_path: Path) -> None:
    path = page(tmp_path)
    write_table(path, complete("acme"), ["acme"])
    problem = check_table(path, complete("acme", "ledgered", "acme bug 7"), ["acme"])
    assert problem is not None
    assert "ledgered: acme bug 7" in problem


def test_a_run_that_failed_or_was_not_complete_writes_nothing(tmp_path: Path) -> None:
    path = page(tmp_path)
    failed = write_table(path, complete("acme", "failed", "boom"), ["acme"])
    assert failed == f"{FIRST} did not pass on acme"
    assert "was not complete" in str(write_table(path, Outcomes(), ["acme"]))
    assert path.read_text(encoding="utf-8") == EMPTY


def test_a_page_without_markers_is_said_so(tmp_path: Path) -> None:
    assert "no lines" in str(write_table(page(tmp_path, "nothing"), complete("acme"), ["acme"]))


def test_every_test_of_the_suite_says_what_it_proves() -> None:
    assert [test for test, promise in known_tests().items() if len(promise) < 20] == []
    assert len(known_tests()) >= 60


def test_no_test_of_the_suite_names_a_broker() -> None:
    import anybroker_contract

    brokers = ("kafka", "rabbit", "amqp", "nats", "jetstream", "sqs", "sns", "memory://", "sqlite://")
    folder = Path(anybroker_contract.__path__[0])
    found = [
        (path.name, broker)
        for path in [*folder.glob("test_*.py"), folder / "_kit.py"]
        for broker in brokers
        if broker in path.read_text(encoding="utf-8").lower()
    ]
    assert found == []


@pytest.mark.parametrize(("name", "suite"), [("contract.md", SUITE), ("stores.md", SUITE / "stores")])
def test_the_pages_name_the_tests_that_there_are_as_they_describe_themselves(name: str, suite: Path) -> None:
    """What a complete run finds at its end is found here at once. Renew a page with ``python -m
    anybroker_contract._table``, and a new test's cells with a run."""
    text = (Path(__file__).parents[2] / "docs" / name).read_text(encoding="utf-8")
    assert reworded(text, suite) == text
    assert "?" not in {cell for row in read(text)[1].values() for cell in row.values()}
