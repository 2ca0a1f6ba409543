"""The effects harness from end to end, on the embedded broker and a real PostgreSQL: what holds held, and what is done
wrong is found. All of it is ``make effects``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from anybroker_contract.effects.cli import main
from anybroker_contract.effects.mutants import MUTANTS

SMALL = ("--broker", "sqlite", "--tier", "ci", "--events", "160", "--rate", "80", "--late", "3", "--every", "0.3")
Answer = tuple[int, dict[str, Any]]


def run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> Answer:
    status = main([*SMALL, "--json", "--histories", str(folder / "histories"), *arguments])
    said = json.loads(capsys.readouterr().out)
    if said["left_out"]:
        if os.environ.get("ANYBROKER_TEST_INSTALL"):
            pytest.fail(f"required, and not available: {said['left_out']}", pytrace=False)
        pytest.skip(said["left_out"][0])
    return status, said


@pytest.fixture(autouse=True)
def path_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are separate processes."""
    here = Path(__file__).parents[2] / "contract_tests"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH")))))


@pytest.mark.timeout(180)
def test_effects_are_there_once_whatever_is_killed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    faults = ("worker:in-commit", "relay:before-delete", "database")
    status, said = run(capsys, tmp_path, "--faults", "3", *(part for fault in faults for part in ("--only", fault)))
    (ran,) = said["runs"]
    assert (status, ran["verdict"], ran["problems"]) == (0, "held", [])
    assert ran["sales"] == ran["charges"] == 163
    assert set(ran["faults"]) >= {
        "worker killed in-commit",
        "relay killed before-delete",
        "database restarted (immediate)",
    }
    assert ran["history"] is None
    assert list((tmp_path / "histories").iterdir()) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mutant", ["publishes-outside", "no-lease"])
def test_what_is_done_wrong_is_found(mutant: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, said = run(capsys, tmp_path, "--faults", "0", "--mutant", mutant)
    (ran,) = said["runs"]
    assert (status, ran["verdict"], ran["mutant"]) == (1, "did not hold", mutant)
    assert ran["violations"][MUTANTS[mutant].violation]
    history = Path(ran["history"]) / "history.jsonl"
    assert main(["--check", str(history)]) == 1
    assert json.loads(capsys.readouterr().out)["violations"] == ran["violations"]


def test_points_and_mutants_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in MUTANTS)
    assert "before-effect, after-effect, after-publish, in-commit, after-commit" in said


@pytest.mark.parametrize("wrong", [("--only", "worker:after-send"), ("--mutant", "sleeps"), ("--tier", "endless")])
def test_a_wrong_name_is_wrong_usage(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(wrong))
    assert ended.value.code == 2
    assert wrong[1] in capsys.readouterr().err


def test_without_a_database_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ANYBROKER_TEST_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    status = main([*SMALL, "--json", "--histories", str(tmp_path)])
    assert status == 2
    assert "postgres" in json.loads(capsys.readouterr().out)["left_out"][0]
