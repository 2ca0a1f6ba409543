"""The keeper: everything that was started ends, whatever happens to the process that started it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anybroker_contract.brokers.errors import BrokerFailed
from anybroker_contract.brokers.ports import free_port
from anybroker_contract.brokers.process import Keeper
from anybroker_contract.brokers.tcp import connect, line
from anybroker_contract.brokers.waiting import until_ready

HERE = Path(__file__).parent
SECONDS = 20.0


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[int]:
    """The reading end of a pipe that the fake server and its daemon hold open."""
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def wait_until_gone(reader: int) -> None:
    assert select.select([reader], [], [], SECONDS)[0], "something still holds the pipe"
    assert os.read(reader, 1) == b""


def greeted(port: int) -> None:
    with connect("127.0.0.1", port) as connection:
        assert line(connection) == "up"


def run_fake(keeper: Keeper, port: int, folder: Path) -> None:
    keeper.run([sys.executable, str(HERE / "fake_server.py"), str(port), str(folder)], env=dict(os.environ))
    until_ready("fake", lambda: greeted(port), seconds=SECONDS)


def test_end_leaves_no_process_and_no_folder(tmp_path: Path, alive: int) -> None:
    keeper = Keeper("anybroker-test-")
    run_fake(keeper, free_port(), tmp_path)
    assert keeper.processes() == 2  # the server and its daemon
    keeper.end()
    wait_until_gone(alive)
    assert not keeper.folder.exists()
    keeper.end()  # twice is nothing


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_parent_is_killed(number: signal.Signals, tmp_path: Path, alive: int) -> None:
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "parent.py"), str(port), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        until_ready("fake", lambda: greeted(port), seconds=SECONDS)
        parent.send_signal(number)
        parent.wait(SECONDS)
        wait_until_gone(alive)

    def folder_gone() -> None:
        if folder.exists():
            raise FileExistsError

    until_ready("the folder's removal", folder_gone, seconds=SECONDS)


def test_the_command_dies_with_a_killed_keeper(tmp_path: Path) -> None:
    keeper = Keeper("anybroker-test-")
    run_fake(keeper, port := free_port(), tmp_path)
    keeper._process.kill()
    keeper._process.wait(SECONDS)

    def refused() -> None:
        try:
            greeted(port)
        except ConnectionRefusedError:
            return
        raise FileExistsError

    until_ready("the server's end", refused, seconds=SECONDS)
    with pytest.raises(BrokerFailed, match="keeper process is gone"):
        keeper.running()
    keeper.end()
    # Its folder and the daemon are what nobody is left to remove, so this test does.
    for file in keeper.folder.iterdir():
        file.unlink()
    keeper.folder.rmdir()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if str(tmp_path).encode() in entry.read_bytes():
            os.kill(int(entry.parent.name), signal.SIGKILL)


def test_kill_and_run_again(tmp_path: Path, alive: int) -> None:
    with Keeper("anybroker-test-") as keeper:
        run_fake(keeper, port := free_port(), tmp_path)
        keeper.kill()
        wait_until_gone(alive)
        assert keeper.exit_code() == -signal.SIGKILL
        assert keeper.processes() == 0
        run_fake(keeper, port, tmp_path)
    assert (tmp_path / "starts").read_text() == ".."


def test_frozen_processes_answer_nothing_until_thawed(tmp_path: Path) -> None:
    with Keeper("anybroker-test-") as keeper:
        run_fake(keeper, port := free_port(), tmp_path)
        keeper.freeze()
        with connect("127.0.0.1", port) as connection:  # the kernel accepts it, nobody answers
            assert not select.select([connection], [], [], 0.1)[0]
            keeper.thaw()
            assert line(connection) == "up"


def test_a_frozen_broker_can_be_ended(tmp_path: Path, alive: int) -> None:
    with Keeper("anybroker-test-") as keeper:
        run_fake(keeper, free_port(), tmp_path)
        keeper.freeze()
    wait_until_gone(alive)


def test_a_command_for_the_end_runs_before_the_folder_goes(tmp_path: Path) -> None:
    with Keeper("anybroker-test-") as keeper:
        (keeper.folder / "fact").write_text("known")
        keeper.at_end(["cp", str(keeper.folder / "fact"), str(tmp_path / "copy")])
    assert (tmp_path / "copy").read_text() == "known"


def test_a_command_that_does_not_exist_is_an_error_here(tmp_path: Path) -> None:
    with Keeper("anybroker-test-") as keeper, pytest.raises(BrokerFailed, match="no-such-program"):
        keeper.run([str(tmp_path / "no-such-program")], env={})


def test_asking_after_the_end_is_an_error() -> None:
    keeper = Keeper("anybroker-test-")
    keeper.end()
    with pytest.raises(BrokerFailed, match="stopped before"):
        keeper.running()


def test_output_is_in_the_log(tmp_path: Path) -> None:
    with Keeper("anybroker-test-", tmp_path) as keeper:
        run_fake(keeper, free_port(), tmp_path)
        assert keeper.folder.parent == tmp_path
        assert keeper.log.read_text() == "listening\n"
