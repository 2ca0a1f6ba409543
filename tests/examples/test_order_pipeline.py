"""The order pipeline: small runs on memory and, in several processes, on the embedded broker; and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "examples.order_pipeline"]


def environment(folder: Path) -> dict[str, str]:
    """Ours without what would change the run; temporary files in a folder of the test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANYBROKER_", "DEMO_"))}
    return {**kept, "TMPDIR": str(folder), "ANYBROKER_LEASE": "3"}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout.startswith("{"), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def broken(found: dict[str, Any]) -> set[str]:
    return {check["name"] for check in found["checks"] if not check["holds"]}


@pytest.mark.parametrize(
    ("orders", "arguments", "broker", "crash"),
    [
        (60, ("--url", "memory://"), "memory", "its Bus restarted, handlers cancelled"),
        (100, (), "sqlite", "SIGKILL"),
    ],
    ids=["memory", "sqlite"],
)
def test_every_invariant_holds(
    tmp_path: Path, orders: int, arguments: tuple[str, ...], broker: str, crash: str
) -> None:
    done = run(tmp_path, "--orders", str(orders), "--json", *arguments)
    found = result(done)
    assert broken(found) == set()
    assert done.returncode == 0
    assert found["broker"] == broker
    assert (found["restarts"], found["how_restarted"]) == (1, crash)
    assert found["shipped"] + found["cancelled"] + found["dead_lettered"] == found["orders"] == orders
    assert found["cancelled"] == round(0.04 * orders)
    assert found["dead_lettered"] == 1
    assert "undecodable: the data is not a valid OrderPlaced: cds" in found["dead_letter_reasons"][0]
    assert found["duplicates_sent"] == round(0.03 * orders) + round(0.02 * orders)
    assert found["duplicates_dropped_by_broker"] + found["duplicates_suppressed"] >= found["duplicates_sent"]
    assert found["retries"] >= 2
    assert found["order_violations"] == 0
    assert found["cents_charged"] == found["cents_expected"] > 0
    assert found["events_per_second"] > 0
    assert 0 < found["end_to_end_p50"] <= found["end_to_end_p99"] <= found["seconds"]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_invariant_makes_the_exit_code_1(tmp_path: Path) -> None:
    done = run(tmp_path, "--orders", "40", "--url", "memory://", "--json", "--forgetful-bank")
    found = result(done)
    assert done.returncode == 1
    assert "cards charged" in broken(found)
    assert found["holds"] is False
    assert "BROKEN" in done.stderr


def test_plain_output_is_a_line_for_each_thing_that_goes_wrong_and_a_table(tmp_path: Path) -> None:
    done = run(tmp_path, "--orders", "40", "--url", "memory://", "--seed", "3", "--rate", "400")
    assert done.returncode == 0, done.stdout
    for said in ("published twice", "clicked twice", "BankUnreachable", "DecodeError", "started again"):
        assert said in done.stdout
    assert "order to outcome, p50 / p99" in done.stdout
    assert "\x1b" not in done.stdout


def test_ctrl_c_ends_all_processes_and_leaves_no_file(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--rate", "100"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "published twice" in line:
                break
        else:
            pytest.fail(said)
        (history,) = tmp_path.glob("*/history.jsonl")
        pids = {json.loads(line)[2] for line in history.read_text().splitlines()}
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
    assert demo.returncode == 130, rest
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_run_says_why(tmp_path: Path) -> None:
    assert "--orders: from 20 to 6919" in run(tmp_path, "--orders", "5").stderr
    done = run(tmp_path, "--url", "kafak://127.0.0.1:1")
    assert done.returncode == 2
    assert "Did you mean 'kafka'?" in done.stdout.replace("\n", " ")
