"""The suite finds every deliberately broken adapter, each by a test that is named for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from anybroker_contract._skips import known_tests
from anybroker_contract.mutants import MUTANTS


@pytest.mark.timeout(200)
def test_every_broken_adapter_is_found() -> None:
    command = [sys.executable, "-m", "anybroker_contract.mutants", "--adapter", "memory", "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    report = json.loads(ran.stdout)
    assert report["survivors"] == []
    assert len(report["mutants"]) >= 20
    for name, result in report["mutants"].items():
        assert set(result["killed_by"]) & set(MUTANTS[name].killers), name


def test_every_killer_is_a_test_of_the_suite() -> None:
    tests = {test.partition("::")[2] for test in known_tests()}
    assert {killer for mutant in MUTANTS.values() for killer in mutant.killers} <= tests


def test_every_broken_adapter_says_what_is_wrong() -> None:
    assert [name for name, mutant in MUTANTS.items() if len(mutant.wrong) < 10] == []


def test_an_unknown_name_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "anybroker_contract.mutants", "--only", "no-such"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 2
    assert "no-such" in ran.stderr


def test_the_list_names_the_killers() -> None:
    command = [sys.executable, "-m", "anybroker_contract.mutants", "--list"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert len(ran.stdout.splitlines()) == len(MUTANTS)
