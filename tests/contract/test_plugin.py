"""The plugin: options, unavailable brokers, the ledger, the summary."""

from __future__ import annotations

from pathlib import Path

from .conftest import Run

ONE = ("-k", "test_each_group_gets_everything")
LOST = ("-k", "test_every_event_arrives_as_it_was_published", "--patience", "0.5")


def ledger(tmp_path: Path, adapter: str, test: str, reason: str = "known") -> str:
    """A ledger with one row."""
    path = tmp_path / "own.toml"
    path.write_text(f'[[skip]]\nadapter = "{adapter}"\ntest = "{test}"\nreason = "{reason}"\n', encoding="utf-8")
    return str(path)


def test_a_failure_fails_the_run_and_is_summed_up(suite: Run) -> None:
    ran = suite("--adapter", "acme.testing:LossyBroker", *LOST)
    assert ran.returncode == 1
    assert "lossy: 1 failed" in ran.stdout


def test_a_row_of_the_ledger_excuses_a_failure(suite: Run, tmp_path: Path) -> None:
    own = ledger(tmp_path, "lossy", "test_publish.py::test_every_event_arrives_as_it_was_published")
    ran = suite("--adapter", "acme.testing:LossyBroker", "--ledger", own, *LOST)
    assert ran.returncode == 0, ran.stdout
    assert "lossy: 1 ledgered" in ran.stdout


def test_a_row_whose_test_passes_is_stale(suite: Run, tmp_path: Path) -> None:
    own = ledger(tmp_path, "acme", "test_groups.py::test_each_group_gets_everything")
    ran = suite("--adapter", "acme.testing:AcmeBroker", "--ledger", own, *ONE)
    assert ran.returncode == 1
    assert "XPASS(strict)" in ran.stdout


def test_a_row_of_no_test_is_stale(suite: Run, tmp_path: Path) -> None:
    own = ledger(tmp_path, "acme", "test_groups.py::test_nothing")
    ran = suite("--adapter", "acme.testing:AcmeBroker", "--ledger", own, *ONE)
    assert ran.returncode == 4
    assert "stale row, there is no test 'test_groups.py::test_nothing'" in ran.stderr


def test_a_row_without_a_reason_is_refused(suite: Run, tmp_path: Path) -> None:
    own = ledger(tmp_path, "acme", "test_groups.py::test_each_group_gets_everything", reason=" ")
    ran = suite("--adapter", "acme.testing:AcmeBroker", "--ledger", own, *ONE)
    assert ran.returncode == 4
    assert "gives no reason" in ran.stderr


def test_a_broker_that_cannot_be_had_is_one_loud_line(suite: Run) -> None:
    ran = suite("--adapter", "acme.testing:SleepingBroker", "--adapter", "memory", *ONE)
    assert ran.returncode == 0, ran.stdout
    assert "sleeping: NOT TESTED: it sleeps until noon; get it with: acme wake" in ran.stdout
    assert "sleeping: ALL TESTS SKIPPED: it sleeps until noon; get it with: acme wake" in ran.stdout
    assert "memory: 1 passed" in ran.stdout


def test_a_required_broker_that_cannot_be_had_is_a_failure(suite: Run) -> None:
    for names in ("all", "memory,sleeping"):
        required = ("--require-brokers", names)
        ran = suite("--adapter", "acme.testing:SleepingBroker", "--adapter", "memory", *required, *ONE)
        assert ran.returncode == 1
        assert "it sleeps until noon; get it with: acme wake" in ran.stdout + ran.stderr


def test_an_adapter_that_is_not_there_is_a_usage_error(suite: Run) -> None:
    for name, message in (
        ("nowhere", "is neither a short name (memory,"),
        ("acme.testing:Nothing", "cannot be imported"),
        ("acme.adapter:AcmeAdapter", "is not a subclass"),
    ):
        ran = suite("--adapter", name, *ONE)
        assert ran.returncode == 4
        assert message in ran.stderr


def test_the_tier_chooses(suite: Run) -> None:
    ran = suite("--adapter", "memory", "-k", "test_many_keys_leave_no_memory_behind")
    assert "only in the full tier 1" in ran.stdout
    ran = suite("--adapter", "memory", "--tier", "stress", *ONE)
    assert "10 passed" in ran.stdout


def test_the_table_of_an_incomplete_run_is_refused(suite: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- contract-table:start -->\n<!-- contract-table:end -->\n", encoding="utf-8")
    ran = suite("--adapter", "memory", "--write-table", str(page), *ONE)
    assert ran.returncode == 1
    assert "the run was not complete" in ran.stdout


def test_a_task_left_running_fails_the_test(suite: Run) -> None:
    leak = ("--mutant", "leaves-a-task-behind", "--patience", "2")
    ran = suite("--adapter", "memory", *leak, "-k", "test_close_ends_soon_and_leaves_nothing_running")
    assert ran.returncode == 1
    assert "tasks were left running" in ran.stdout


def test_it_does_nothing_to_other_tests(suite: Run, tmp_path: Path) -> None:
    other = tmp_path / "test_other.py"
    other.write_text("def test_something():\n    assert True\n", encoding="utf-8")
    ran = suite(str(other), *ONE)
    assert ran.returncode in (0, 5), ran.stdout


def test_workers_know_that_a_broker_is_somebody_elses(suite: Run) -> None:
    idle = ("-k", "test_an_idle_bus_survives_a_restart")
    for workers in ("0", "2"):
        ran = suite("--adapter", "acme.testing:BorrowedBroker", "-n", workers, *idle)
        assert ran.returncode == 0, ran.stdout
        assert "the harness has no restart() 1" in ran.stdout
