"""The cache: complete or absent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Cancelled, Missing
from anybroker_contract.brokers.places import cache, locked, once


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_it_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache() == tmp_path / "anybroker"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache() == tmp_path / "home" / ".cache" / "anybroker"


def test_built_once_by_many_threads() -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("whole")

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: once("thing", Context("x"), build), range(8)))
    assert set(got) == {cache() / "thing"}
    assert len(built) == 1
    assert (cache() / "thing" / "file").read_text() == "whole"


def test_a_failed_build_leaves_nothing_under_the_name_and_is_tried_again() -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise Missing("no network")

    with pytest.raises(Missing):
        once("thing", Context("x"), fail)
    assert not (cache() / "thing").exists()
    again = once("thing", Context("x"), lambda folder: (folder / "whole").touch())
    assert [file.name for file in again.iterdir()] == ["whole"]


def test_waiting_for_a_lock_can_be_given_up() -> None:
    context = Context("x", cancelled=threading.Event())
    with locked("name", Context("x")):
        context.cancelled.set()
        with pytest.raises(Cancelled), locked("name", context):
            pytest.fail("two inside")
