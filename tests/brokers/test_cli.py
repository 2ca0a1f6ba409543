"""The commands, with a broker that is only a URL: something listens there, and that is all they ask for."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anybroker_contract.brokers.cli import main
from anybroker_contract.brokers.places import state

SECONDS = 20.0


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"nats://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def up(url: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "anybroker_contract.brokers", "up", "nats", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ANYBROKER_TEST_NATS_URL": url},
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_up_status_down(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with up(url) as (process, said):
        assert said == {
            "pid": process.pid,
            "brokers": {"nats": {"url": url, "source": "url", "detail": "the URL in ANYBROKER_TEST_NATS_URL"}},
            "unavailable": {},
        }
        assert main(["status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"up": [{"pid": process.pid, "brokers": said["brokers"]}]}
        assert main(["status"]) == 0
        assert url in capsys.readouterr().out
        assert main(["down", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"ended": [process.pid], "running": []}
        assert process.wait(SECONDS) == 0
    assert main(["status"]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_well(number: signal.Signals, url: str) -> None:
    with up(url) as (process, _):
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
    assert list(state().iterdir()) == []


def test_a_killed_up_is_not_up(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with up(url) as (process, _):
        process.kill()
        process.wait(SECONDS)
        assert main(["status", "--json"]) == 3
        assert json.loads(capsys.readouterr().out) == {"up": []}
    assert list(state().iterdir()) == []


def test_several_ups_are_told_apart(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with up(url) as (one, _), up(url) as (two, _):
        assert main(["down"]) == 1
        assert f"process ids {min(one.pid, two.pid)}, {max(one.pid, two.pid)}" in capsys.readouterr().err
        assert main(["down", "--pid", str(one.pid)]) == 0
        assert one.wait(SECONDS) == 0
        assert two.poll() is None
        assert main(["down", "--all"]) == 0
        assert two.wait(SECONDS) == 0


def test_one_that_cannot_be_had_is_a_failure_that_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it would set them for the tests' whole process
    monkeypatch.setenv("ANYBROKER_TEST_NATS_URL", "nonsense")
    assert main(["up", "nats", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["unavailable"]["nats"]["remedy"] == "correct or unset ANYBROKER_TEST_NATS_URL"
    assert "get it with: correct or unset ANYBROKER_TEST_NATS_URL" in err
    assert list(state().iterdir()) == []


def test_nothing_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 3
    assert capsys.readouterr().out == "nothing is up\n"


@pytest.mark.parametrize("argv", [["up", "pulsar"], ["sideways"], []])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], ["up", "--help"], ["down", "--help"], ["status", "--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out or argv == ["--help"]
