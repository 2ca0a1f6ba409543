"""Debian's packages are installed only where somebody allowed it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from anybroker_contract.brokers import install
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Missing


def program(folder: Path, name: str, text: str = "exit 0") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_program_on_the_path_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path, "some-server")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.debian_program(Context("x"), "some-server", "some-package") == str(path)


def test_a_program_where_debian_puts_it_is_used(tmp_path: Path) -> None:
    path = program(tmp_path, "some-server")
    assert install.debian_program(Context("x"), "some-server", "some-package", str(tmp_path)) == str(path)


@pytest.mark.parametrize("value", ["", "0", "yes"])
def test_not_allowed(value: str) -> None:
    context = Context("x", environ={"ANYBROKER_TEST_INSTALL": value})
    with pytest.raises(Missing, match="no some-server on this machine") as caught:
        install.debian_program(context, "some-server", "some-package")
    assert caught.value.remedy == "apt-get install some-package (or set ANYBROKER_TEST_INSTALL=1)"


def test_allowed_but_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Missing, match="needs root and apt-get"):
        install.install(Context("x", environ={"ANYBROKER_TEST_INSTALL": "1"}), ["some-package"], "no some-server")


@pytest.mark.parametrize(("there_before", "apt_fails"), [(True, False), (False, False), (True, True)])
def test_no_service_is_started_and_what_was_there_is_put_back(
    there_before: bool, apt_fails: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy, seen = tmp_path / "policy-rc.d", tmp_path / "seen"
    if there_before:
        policy.write_text("theirs")
    end = "echo 'E: Unable to locate package'; exit 100" if apt_fails else "exit 0"
    program(tmp_path, "apt-get", f'echo "$@" >>{seen}; {policy}; echo $? >>{seen}; {end}')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"{tmp_path}/{name}" if name == "apt-get" else None)
    monkeypatch.setattr(install, "SCRIPT", install.SCRIPT.replace("/usr/sbin/policy-rc.d", str(policy)))
    context = Context("x", environ={"ANYBROKER_TEST_INSTALL": "1", "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    install._updated.set()
    try:
        if apt_fails:
            with pytest.raises(Missing, match="apt-get failed: E: Unable to locate package"):
                install.install(context, ["some-package"], "no some-server")
        else:
            install.install(context, ["some-package"], "no some-server")
    finally:
        install._updated.clear()
    command, status = seen.read_text().splitlines()
    assert command.endswith("install some-package")
    assert status == "101"  # starting services was forbidden meanwhile
    assert (policy.read_text() if policy.exists() else None) == ("theirs" if there_before else None)
