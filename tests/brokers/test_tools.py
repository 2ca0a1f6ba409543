"""Programs that run to their end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Cancelled, Missing
from anybroker_contract.brokers.tools import plain_environ, run_tool, which

CONTEXT = Context("x", environ=dict(os.environ))


def shell(script: str, context: Context = CONTEXT, seconds: float = 20.0) -> None:
    run_tool(context, ["/bin/sh", "-c", script], what="Maven", remedy="try again", seconds=seconds)


def test_one_that_works(tmp_path: Path) -> None:
    run_tool(CONTEXT, ["touch", "made"], what="touch", cwd=tmp_path)
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (r"printf '\033[1;31m[ERROR]\033[m no such host\n[ERROR] see above\n\033[0m\n'", "[ERROR] no such host"),
        ("echo getting; echo E: no mirror", "E: no mirror"),
        ("true", "(the log is empty)"),
    ],
)
def test_one_that_fails_says_why(script: str, said: str) -> None:
    with pytest.raises(Missing) as caught:
        shell(f"{script}; exit 1")
    assert caught.value.reason == f"Maven failed: {said}"
    assert caught.value.remedy == "try again"


def test_one_that_takes_too_long() -> None:
    with pytest.raises(Missing, match="Maven took more than 0 s"):
        shell("sleep 600", seconds=0.0)


def test_one_that_is_given_up() -> None:
    context = Context("x", environ=CONTEXT.environ, cancelled=threading.Event())
    context.cancelled.set()
    with pytest.raises(Cancelled):
        shell("sleep 600", context)


def test_the_path_comes_before_other_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "first"))
    assert which("server", str(tmp_path / "second")) == str(tmp_path / "first" / "server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert which("server", str(tmp_path / "second")) == str(tmp_path / "second" / "server")
    assert which("server") is None


def test_a_server_gets_nothing_of_the_users_environment(tmp_path: Path) -> None:
    context = Context("x", environ={"PATH": "/bin", "KAFKA_OPTS": "-X", "http_proxy": "http://proxy"})
    environ = plain_environ(context, tmp_path, MORE="1")
    assert environ == {
        "PATH": "/bin",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
        "MORE": "1",
    }
