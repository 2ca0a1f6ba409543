"""A native broker's life, with a small server in the place of a broker."""

from __future__ import annotations

import threading

import pytest

from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import BrokerFailed, Cancelled
from anybroker_contract.brokers.native import NativeBroker, Step

from .fakes import command, fake, greeted


def test_its_whole_life() -> None:
    broker = NativeBroker.launch(Context("fake"), fake(), "a fake")
    folder = broker._keeper.folder
    port = int(broker.url.rpartition(":")[2])
    try:
        assert (broker.name, broker.source, broker.detail, broker.can_restart) == ("fake", "native", "a fake", True)
        broker.restart()
        broker.kill()
        with pytest.raises(ConnectionRefusedError):
            greeted(port)
        broker.start()
        broker.freeze()
        broker.restart()  # a frozen one too
        greeted(port)
        assert (folder / "starts").read_text() == "...."  # the same folder each time
    finally:
        broker.stop()
    assert not folder.exists()
    broker.stop()  # twice is nothing


def test_starting_what_runs_is_an_error() -> None:
    broker = NativeBroker.launch(Context("fake"), fake(), "a fake")
    try:
        with pytest.raises(BrokerFailed, match="running already"):
            broker.start()
    finally:
        broker.stop()


def test_restarting_what_was_killed_is_an_error() -> None:
    broker = NativeBroker.launch(Context("fake"), fake(), "a fake")
    try:
        broker.kill()
        with pytest.raises(BrokerFailed, match="does not run"):
            broker.restart()
    finally:
        broker.stop()


def test_one_that_ends_at_once_shows_its_log() -> None:
    with pytest.raises(BrokerFailed, match=r"fake ended with exit code 3; the end of its log:\n    no such cluster"):
        NativeBroker.launch(Context("fake"), command("/bin/sh", "-c", "echo no such cluster; exit 3"), "a fake")


def test_one_that_never_answers_shows_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBROKER_TEST_START_SECONDS", "0")
    with pytest.raises(BrokerFailed, match=r"fake did not answer in 0 s \(ConnectionRefusedError"):
        NativeBroker.launch(Context("fake"), command("/bin/sh", "-c", "sleep 600"), "a fake")


def test_giving_up_leaves_nothing() -> None:
    context = Context("fake", cancelled=threading.Event())
    context.cancelled.set()
    with pytest.raises(Cancelled):
        NativeBroker.launch(context, command("/bin/sh", "-c", "sleep 600"), "a fake")


def test_steps_run_before_the_first_start() -> None:
    broker = NativeBroker.launch(Context("fake"), fake(before=(Step(("/bin/sh", "-c", "echo made >made")),)), "a fake")
    try:
        assert (broker._keeper.folder / "made").read_text() == "made\n"
    finally:
        broker.stop()


def test_a_failing_step_shows_its_log() -> None:
    step = Step(("/bin/sh", "-c", "echo no space; exit 1"))
    with pytest.raises(BrokerFailed, match=r"/bin/sh failed with 1:\n    no space"):
        NativeBroker.launch(Context("fake"), fake(before=(step,)), "a fake")


def test_a_step_has_a_deadline() -> None:
    step = Step(("/bin/sh", "-c", "sleep 600"), seconds=0.0)
    with pytest.raises(BrokerFailed, match="took 0 s"):
        NativeBroker.launch(Context("fake"), fake(before=(step,)), "a fake")
