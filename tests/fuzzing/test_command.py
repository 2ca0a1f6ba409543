"""``python -m fuzz``: what it finds, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz import __main__ as command
from fuzz.bounds import Broken, TooSlow, check, where
from fuzz.messages import join, split, text
from fuzz.registry import Target


def planted(data: bytes) -> object:
    """Faults of every kind."""
    match data[:1]:
        case b"x":
            raise KeyError(data)
        case b"t":
            while True:
                pass
        case b"m":
            return [bytearray(1) for _ in range(50_000)]
        case b"k":
            LEFT.append(bytearray(300_000))
        case b"p":
            return len(bytearray(10_000_000))
    return data


LEFT: list[bytearray] = []


def test_what_breaks_no_bound_passes() -> None:
    check(planted, b"fine", measured=True)
    check(planted, b"m" * 80_000, measured=True)
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


@pytest.mark.parametrize(("data", "error"), [(b"x", KeyError), (b"m", Broken), (b"k", Broken), (b"p", Broken)])
def test_a_bound_that_is_broken(data: bytes, error: type[BaseException]) -> None:
    with pytest.raises(error):
        check(planted, data, measured=True)


def test_an_input_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.bounds.SECONDS", 0.05)
    with pytest.raises(TooSlow) as caught:
        check(planted, b"t", measured=False)
    assert where(caught.value).error == "TooSlow"


def test_a_message_is_its_parts_again() -> None:
    whole = join([("a", b"1"), ("a", None), ("b", "ä")], b"x\x1dy")
    assert split(whole) == ([(b"a", b"1"), (b"a", None), (b"b", "ä".encode())], b"x\x1dy")
    assert split(join({"a": ""}, None)) == ([(b"a", b"")], None)
    assert text(b"\xed\xa0\x80") == "\ud800"
    assert text(b"\xff") == "\udcff"


def ended(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["contract_tests", *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "fuzz", "--work", str(folder), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=50,
        check=False,
    )


def test_a_short_run(tmp_path: Path) -> None:
    done = ended(tmp_path, "--engine", "blind", "--target", "count", "--inputs", "500", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["engine"], found["inputs"]) == ("blind", 500)
    (outcome,) = found["targets"]
    assert (outcome["target"], outcome["faults"], outcome["failure"]) == ("count", [], None)


class Options:
    """What ``run`` looks at."""

    seed = 0
    inputs = 300
    seconds = 20.0

    def __init__(self, work: Path) -> None:
        self.work = work


def test_a_fault_is_kept_once_and_can_be_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "sitecustomize.py"
    site.write_text(
        "import fuzz.registry as registry\n"
        "whole = registry.all_targets\n"
        "def planted(data):\n"
        "    raise KeyError(data)\n"
        "registry.all_targets = lambda _: {'planted': registry.Target('planted', planted, lambda: [b'x'], '', '')}\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), "contract_tests"]))
    options: Any = Options(tmp_path)
    outcome = command.run(Target("planted", planted, list, "", "inside"), options, "blind", lambda *_: None)
    assert (outcome.inputs, outcome.failure) == (300, None)
    (fault,) = outcome.faults
    assert fault["error"] == "KeyError"
    assert Path(fault["input"]).read_bytes() == b"x"


def test_a_process_that_ends_by_itself_is_a_failure(tmp_path: Path) -> None:
    options: Any = Options(tmp_path)
    outcome = command.run(Target("none-such", planted, list, "", "inside"), options, "blind", lambda *_: None)
    assert outcome.failure is not None
    assert "KeyError" in outcome.failure


def test_the_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "kafka-record" in out
    assert "round-trips" in out


@pytest.mark.parametrize(
    "arguments",
    [("--target", "nothing"), ("--inputs", "0"), ("--seconds", "x"), ("--replay", "none", "--target", "json")],
)
def test_wrong_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"7")
    assert command.main(["--target", "count", "--replay", str(path)]) == 0
    assert "no fault with 1 bytes" in capsys.readouterr().out
