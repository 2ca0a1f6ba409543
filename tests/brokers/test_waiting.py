"""Waiting for a broker, and what is said when that was in vain."""

from __future__ import annotations

import threading

import pytest

from anybroker_contract.brokers.errors import BrokerFailed, Cancelled
from anybroker_contract.brokers.waiting import NotYet, until_ready


class Probe:
    """Fails with the given errors, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.attempts = 0

    def __call__(self) -> None:
        self.attempts += 1
        if self.errors:
            raise self.errors.pop(0)


def test_it_asks_until_it_is_answered() -> None:
    probe = Probe(ConnectionRefusedError(), NotYet("loading"), TimeoutError())
    assert until_ready("kafka", probe) < 20
    assert probe.attempts == 4


def test_after_the_deadline_it_says_what_was_wrong_and_shows_the_log() -> None:
    with pytest.raises(BrokerFailed) as caught:
        until_ready("kafka", Probe(NotYet("no controller")), seconds=0.0, log=lambda: "    disk full")
    assert str(caught.value) == (
        "kafka did not answer in 0 s (NotYet: no controller); the end of its log:\n    disk full"
    )


def test_a_dead_broker_is_noticed_before_the_deadline() -> None:
    with pytest.raises(BrokerFailed, match=r"kafka ended with exit code 1; the end of its log:\n    bad config"):
        until_ready(
            "kafka", Probe(NotYet()), died=lambda: "ended with exit code 1", log=lambda: "    bad config", seconds=600
        )


def test_it_gives_up_when_asked() -> None:
    cancelled = threading.Event()
    cancelled.set()
    probe = Probe()
    with pytest.raises(Cancelled):
        until_ready("kafka", probe, cancelled=cancelled)
    assert probe.attempts == 0


def test_a_mistake_in_a_probe_is_not_waited_for() -> None:
    with pytest.raises(ZeroDivisionError):
        until_ready("kafka", Probe(ZeroDivisionError()))
