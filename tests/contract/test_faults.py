"""The faults harness from end to end, on the embedded broker: what holds held, and a broken adapter is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anybroker_contract.faults.cli import main

KILL = ("--broker", "sqlite", "--scenario", "member-kill", "--times", "1", "--seed", "7", "--json")
Answer = tuple[int, dict[str, Any]]


def run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> Answer:
    status = main([*KILL, "--histories", str(folder / "histories"), *arguments])
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def path_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are separate processes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "contract_tests"))


@pytest.mark.timeout(120)
def test_a_killed_member_costs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, said = run(capsys, tmp_path)
    (ran,) = said["runs"]
    assert (status, ran["verdict"], ran["problems"]) == (0, "held", [])
    assert ran["accepted"] == ran["published"] > 100
    assert (ran["lost"], ran["inversions"], ran["invented"]) == (0, 0, 0)
    assert ran["history"] is None
    assert list((tmp_path / "histories").iterdir()) == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("mutant", "problem"),
    [
        ("loses-one-in-a-hundred", "lost (middle)"),
        ("duplicates-one-in-fifty", "duplicates that no fault explains"),
        ("reorders-a-key", "inversions"),
        ("forgets-to-confirm", "failed publishes that no fault explains"),
    ],
)
def test_a_broken_adapter_is_found(
    mutant: str, problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, said = run(capsys, tmp_path, "--deadline", "3", "--mutant", mutant)
    (ran,) = said["runs"]
    assert (status, ran["verdict"]) == (1, "did not hold")
    assert any(problem in found for found in ran["problems"]), ran["problems"]
    history = Path(ran["history"]) / "history.jsonl"
    assert main(["--check", str(history)]) == 1
    again = json.loads(capsys.readouterr().out)
    assert {found for found in again["problems"] if problem in found} <= set(ran["problems"])


def test_the_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines]
    assert {"broker-kill", "broker-freeze", "hand-over-kill", "member-kill", "member-term", "cut"} <= set(listed)
    longer = {line.split()[0] for line in lines if "long tier" in line}
    assert {name for name in listed if name.startswith("cluster-")} - longer == {"cluster-others-return"}


@pytest.mark.parametrize("wrong", [("--broker", "rabbit"), ("--scenario", "broker-hug")])
def test_a_wrong_name_is_wrong_usage(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(wrong))
    assert ended.value.code == 2
    assert wrong[1] in capsys.readouterr().err


@pytest.mark.parametrize("required", [(), ("--require-brokers",)])
def test_a_run_of_nothing_has_failed(
    required: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A broker that was asked for by name but is unavailable is a failure."""
    monkeypatch.setenv("ANYBROKER_TEST_NATS_URL", "nats://127.0.0.1:1")
    status = main(["--broker", "nats", "--scenario", "cut", "--histories", str(tmp_path), "--json", *required])
    assert status == 2
    assert "nothing answers at the URL" in json.loads(capsys.readouterr().out)["left_out"][0]
