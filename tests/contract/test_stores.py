"""The suite of idempotency stores: its options, its ledger, a store of somebody else, and the broken stores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anybroker_contract._skips import known_tests
from anybroker_contract.stores import harnesses
from anybroker_contract.stores.mutants import MUTANTS

from .conftest import SUITE, THIRD_PARTY

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TESTS = Path(harnesses.__file__).parents[1]
ONE = ("-k", "test_what_is_done_stays_done")


@pytest.fixture
def suite(tmp_path: Path) -> Run:
    """``suite("--store", …)``: the documented command, in an empty folder, without what the outer pytest set."""

    def run(*arguments: str, seconds: float = 50.0) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ANYBROKER_"))}
        paths = [str(THIRD_PARTY), str(SUITE), *filter(None, [os.environ.get("PYTHONPATH")])]
        environ["PYTHONPATH"] = os.pathsep.join(paths)
        return subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "anybroker_contract.stores.plugin", "-p", "no:cacheprovider"),
                *("--pyargs", "anybroker_contract.stores", "--color=no", *arguments),
            ],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    return run


def test_a_store_of_somebody_else_passes_the_suite(suite: Run) -> None:
    ran = suite("--store", "acme.stores:AcmeStores")
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "acme: a table in this process" in ran.stdout
    summary = re.search(r"^acme: (\d+) passed, (\d+) not applicable \((.*)\)", ran.stdout, re.MULTILINE)
    assert summary is not None
    assert int(summary[1]) >= 50
    assert "not declared: processes" in summary[3]
    assert "skipped" not in ran.stdout


def test_a_broken_store_is_found_for_its_flaw_alone(suite: Run) -> None:
    """What all of them are made with has nothing wrong in it."""
    ran = suite("--store", "acme.stores:WrappedStores")
    assert ran.returncode == 0, ran.stdout[-4000:]


@pytest.mark.timeout(200)
def test_every_broken_store_is_found() -> None:
    command = [sys.executable, "-m", "anybroker_contract.stores.mutants", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    report = json.loads(ran.stdout)
    assert report["survivors"] == []
    assert len(report["mutants"]) >= 25
    for name, result in report["mutants"].items():
        assert set(result["killed_by"]) & set(MUTANTS[name].killers), name


def test_every_killer_is_a_test_of_the_suite() -> None:
    tests = {test.partition("::")[2] for test in known_tests(TESTS)}
    assert len(tests) >= 50
    assert {killer for mutant in MUTANTS.values() for killer in mutant.killers} <= tests


def test_every_test_states_a_promise_and_every_broken_store_what_is_wrong() -> None:
    assert [test for test, promise in known_tests(TESTS).items() if len(promise) < 20] == []
    assert [name for name, mutant in MUTANTS.items() if len(mutant.wrong) < 10] == []


def test_an_unknown_broken_store_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "anybroker_contract.stores.mutants", "--only", "no-such"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 2
    assert "no broken store 'no-such'" in ran.stderr


def test_a_declaration_that_is_not_true_is_a_failure(suite: Run) -> None:
    ran = suite("--store", "acme.stores:ForgetfulStores", "-k", "test_a_store_is_what_its_harness_declares")
    assert ran.returncode == 1
    assert "forgetful: 1 failed" in ran.stdout


def test_a_server_that_cannot_be_had_is_one_loud_line(suite: Run) -> None:
    ran = suite("--store", "acme.stores:SleepingStores", "--store", "memory", *ONE)
    assert ran.returncode == 0, ran.stdout
    assert "sleeping: NOT TESTED: it sleeps until noon; get it with: acme wake" in ran.stdout
    assert "sleeping: ALL TESTS SKIPPED: it sleeps until noon; get it with: acme wake" in ran.stdout
    assert "memory: 1 passed" in ran.stdout


@pytest.mark.parametrize("names", ["all", "memory,sleeping"])
def test_a_required_server_that_cannot_be_had_is_a_failure(suite: Run, names: str) -> None:
    required = ("--require-stores", names)
    ran = suite("--store", "acme.stores:SleepingStores", "--store", "memory", *required, *ONE)
    assert ran.returncode == 1
    assert "it sleeps until noon; get it with: acme wake" in ran.stdout + ran.stderr


def test_a_required_store_that_is_not_tested_is_a_failure(suite: Run) -> None:
    ran = suite("--store", "memory", "--require-stores", "memory,acme", *ONE)
    assert ran.returncode == 1
    assert "acme: not tested: add --store" in ran.stdout + ran.stderr


def test_a_store_that_is_not_there_is_a_usage_error(suite: Run) -> None:
    for name, message in (
        ("nowhere", "is neither a short name (memory,"),
        ("acme.stores:Nothing", "cannot be imported"),
        ("acme.stores:AcmeStore", "is not a subclass"),
    ):
        ran = suite("--store", name, *ONE)
        assert ran.returncode == 4
        assert message in ran.stderr


def test_a_row_of_the_ledger_excuses_a_failure_and_must_not_be_stale(suite: Run, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    row = '[[skip]]\nstore = "{}"\ntest = "test_lifecycle.py::{}"\nreason = "known"\n'
    test = "test_a_store_is_what_its_harness_declares"
    arguments = ("--ledger", str(own), "-k", test)
    own.write_text(row.format("forgetful", test), encoding="utf-8")
    ran = suite("--store", "acme.stores:ForgetfulStores", *arguments)
    assert ran.returncode == 0, ran.stdout
    assert "forgetful: 1 ledgered" in ran.stdout
    own.write_text(row.format("acme", test), encoding="utf-8")
    assert "XPASS(strict)" in suite("--store", "acme.stores:AcmeStores", *arguments).stdout
    own.write_text(row.format("acme", "test_nothing"), encoding="utf-8")
    assert "stale row" in suite("--store", "acme.stores:AcmeStores", *arguments).stderr


def test_with_two_workers_the_servers_are_told(suite: Run) -> None:
    ran = suite("--store", "sqlite", "-n", "2", "-k", "done_stays_done or does_not_answer")
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "sqlite: 7 passed" in ran.stdout
