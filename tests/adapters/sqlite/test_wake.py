"""The wake folder where other users of the machine put things into it, or put it there."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anybroker.adapter import Outbound
from anybroker.errors import ConfigError
from anybroker_sqlite.wake import Bells, Fifo

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, which only root can")
SOMEBODY = 64_321
"""A user who is not there."""
NAME = "0123456789abcdef"


@pytest.fixture
def database(path: Path) -> Path:
    path.touch(0o600)
    return path


@pytest.fixture
def folder(path: Path) -> Path:
    return path.parent / "shop.db-wake"


def refusal(folder: Path, database: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Fifo(folder, database)
    assert caught.value.setting == "wake_folder"
    return str(caught.value)


def test_a_fifo_and_its_folder_are_private(folder: Path, database: Path) -> None:
    before = os.umask(0)
    try:
        fifo = Fifo(folder, database)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = (folder / fifo.name).stat()
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    bells = Bells(folder, database)
    assert bells.has_reader(fifo.name)
    bells.ring([fifo.name])
    assert os.read(fifo.fd, 10) == b"\0"
    fifo.close()
    assert not bells.has_reader(fifo.name)
    assert list(folder.iterdir()) == []


# ------------------------------------------------------------------------------------------------ the folder itself


def test_a_folder_that_is_a_link_is_refused(folder: Path, database: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    folder.symlink_to(elsewhere)
    assert refusal(folder, database) == (
        f"wake_folder: {folder} is not safe to use: it is a symbolic link. "
        "Remove it, or set wake_folder to a folder that only users who may write the database can write."
    )
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "of_database", "safe"),
    [
        (0o700, 0o600, True),
        (0o755, 0o600, True),
        (0o770, 0o600, False),
        (0o702, 0o660, False),
        (0o770, 0o660, True),  # a group that shares both
        (0o777, 0o666, True),
    ],
)
def test_who_may_write_the_folder_may_write_the_database(
    folder: Path, database: Path, mode: int, of_database: int, safe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anybroker.kit.file_access._is_private_group", lambda found: False)
    folder.mkdir()
    folder.chmod(mode)
    database.chmod(of_database)
    if safe:
        Fifo(folder, database).close()
    else:
        assert f"users who cannot write the database can write it (mode {mode:04o})" in refusal(folder, database)
    assert list(folder.iterdir()) == []


@needs_root
def test_a_folder_of_another_user_is_refused(folder: Path, database: Path) -> None:
    folder.mkdir(0o700)
    os.chown(folder, SOMEBODY, SOMEBODY)
    assert f"it belongs to another user (uid {SOMEBODY})" in refusal(folder, database)
    os.chown(database, SOMEBODY, SOMEBODY)  # root looks at what a service has
    Fifo(folder, database).close()


@needs_root
def test_a_group_of_others_is_not_the_databases(folder: Path, database: Path) -> None:
    folder.mkdir()
    os.chown(folder, 0, SOMEBODY)
    folder.chmod(0o770)
    database.chmod(0o660)
    assert "users who cannot write the database can write it (mode 0770)" in refusal(folder, database)


@needs_root
def test_a_sticky_folder_of_roots_will_do(folder: Path, database: Path) -> None:
    folder.mkdir()
    folder.chmod(0o1777)
    Fifo(folder, database).close()


def test_a_publisher_does_not_use_such_a_folder_and_says_so_once(
    folder: Path, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fifo = Fifo(folder, database)
    folder.chmod(0o777)
    bells = Bells(folder, database)
    for _ in range(3):
        bells.ring([fifo.name])
        assert bells.has_reader(fifo.name), "nothing says that it is dead"
        bells.remove(fifo.name)
    with pytest.raises(BlockingIOError):
        os.read(fifo.fd, 1)
    assert (folder / fifo.name).exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"the wake folder {folder} cannot be used as it is: users who cannot write the database can write it "
        "(mode 0777). Members in other processes find events by polling"
    ]
    fifo.close()


# ------------------------------------------------------------------------------------------------- what lies in it


def test_a_link_in_the_folder_is_not_followed(
    folder: Path, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("first byte")
    folder.mkdir(0o700)
    (folder / NAME).symlink_to(precious)
    bells = Bells(folder, database)
    bells.ring([NAME])
    assert bells.has_reader(NAME)
    assert precious.read_text() == "first byte"
    assert f"{NAME} is a symbolic link" in caplog.text
    assert len(caplog.records) == 1


def test_a_file_in_the_folder_is_not_written(folder: Path, database: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(0o700)
    (folder / NAME).write_text("first byte")
    bells = Bells(folder, database)
    bells.ring([NAME])
    assert bells.has_reader(NAME)
    assert (folder / NAME).read_text() == "first byte"
    assert f"{NAME} is not a FIFO" in caplog.text


@needs_root
def test_a_fifo_of_another_user_is_not_written(folder: Path, database: Path, caplog: pytest.LogCaptureFixture) -> None:
    fifo = Fifo(folder, database)
    os.chown(folder / fifo.name, SOMEBODY, SOMEBODY)
    bells = Bells(folder, database)
    bells.ring([fifo.name])
    assert bells.has_reader(fifo.name)
    with pytest.raises(BlockingIOError):
        os.read(fifo.fd, 1)
    assert f"{fifo.name} belongs to another user (uid {SOMEBODY})" in caplog.text
    fifo.close()


@pytest.mark.parametrize(
    "name", ["../precious", "{folder}/../precious", "dead", "", ".", "..", f"{NAME}\n", NAME.upper()]
)
def test_a_name_in_the_database_does_not_lead_out_of_the_folder(
    folder: Path, database: Path, tmp_path: Path, name: str
) -> None:
    """Who writes the database writes these names: a reader that is gone has its FIFO removed."""
    folder.mkdir(0o700)
    name = name.format(folder=folder)
    os.mkfifo(tmp_path / "precious")
    bells = Bells(folder, database)
    bells.ring([name])
    assert not bells.has_reader(name)
    bells.remove(name)
    assert (tmp_path / "precious").exists()


def test_a_folder_that_is_gone_has_no_readers(folder: Path, database: Path, caplog: pytest.LogCaptureFixture) -> None:
    bells = Bells(folder, database)
    bells.ring([NAME])
    assert not bells.has_reader(NAME)
    assert caplog.records == []


def test_events_arrive_although_the_bell_is_a_link(
    opened: Any, path: Path, folder: Path, tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A member whose FIFO another user has replaced looks by itself, and loses nothing to others."""
    precious = tmp_path / "precious"
    precious.write_text("first byte")

    async def scenario() -> None:
        async with opened(poll=0.05) as here, opened(poll=0.05) as there:
            receiver = await there.join()
            name = receiver._fifo.name
            (folder / name).unlink()
            (folder / name).symlink_to(precious)
            await here.publish(Outbound(here.kit.make_event(1, "k"), "orders"))
            other = await here.join()  # looks for dead members
            first = await receiver.receive(1, lanes=None, timeout=5)
            second = await other.receive(1, lanes=None, timeout=0.2)
            assert len(first) + len(second) == 1
            with sqlite3.connect(path) as connection:
                assert connection.execute("SELECT count(*) FROM ab_member").fetchone() == (2,)
            connection.close()
            await receiver.close()
            await other.close()

    run(scenario())
    assert precious.read_text() == "first byte"
    assert "is a symbolic link" in caplog.text


def test_a_group_of_the_owners_own_is_nobody_else(
    folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A umask of 002, with a group for each user."""
    folder.mkdir()
    folder.chmod(0o775)
    for alone in (True, False):
        monkeypatch.setattr("anybroker.kit.file_access._is_private_group", lambda found, alone=alone: alone)
        if alone:
            Fifo(folder, database).close()
        else:
            refusal(folder, database)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_members_of_another_user_are_not_woken_and_it_is_said_once(
    folder: Path, database: Path, tmp_path: Path
) -> None:
    """Two users who share a broker, by a group: neither can write the other's FIFOs."""
    fifos = [Fifo(folder, database) for _ in range(3)]
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o011)
    folder.chmod(0o711)
    os.chown(database, 0, SOMEBODY)
    program = (
        "import logging, os, sys; from pathlib import Path; from anybroker_sqlite.wake import Bells\n"
        "logging.basicConfig(format='%(message)s')\n"
        f"os.setgroups([]); os.setgid({SOMEBODY}); os.setuid({SOMEBODY})\n"
        "bells = Bells(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "bells.ring(sys.argv[3:]); bells.ring(sys.argv[3:])\n"
        "assert all(map(bells.has_reader, sys.argv[3:]))\n"
    )
    names = [fifo.name for fifo in fifos]
    ended = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(database), *names], capture_output=True, text=True, check=False
    )
    for fifo in fifos:
        fifo.close()
    assert (ended.returncode, ended.stderr) == (
        0,
        f"the wake folder {folder} cannot be used as it is: Permission denied. "
        "Members in other processes find events by polling\n",
    )
