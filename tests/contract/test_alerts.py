"""``python -m anybroker_contract.alerts``: what it makes of the rules, and what it says of what fires."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from anybroker_contract.alerts import cli, session
from anybroker_contract.alerts.board import empty_panels
from anybroker_contract.alerts.faster import faster
from anybroker_contract.alerts.faults import FAULTS, Fault
from anybroker_contract.alerts.running import Answer
from anybroker_contract.alerts.services import SERVICES
from anybroker_contract.alerts.session import Found, Session
from anybroker_contract.brokers.errors import BrokerFailed, Missing

RULES = files("anybroker").joinpath("observe/files/rules.yml").read_text("utf-8")
FAILING = next(fault for fault in FAULTS if fault.service == "failing")
LINE = "ERROR anybroker.handler: failing/failing: dead-lettered: ValueError: the handler of this service fails"
OK = Answer(200, "ok")


class Services:
    """They run, and say this."""

    def __init__(self, ready: Answer = OK, live: Answer = OK, lines: Sequence[str] = (LINE,)) -> None:
        self.answers = {"/ready": ready, "/live": live}
        self.lines = list(lines)

    def check(self) -> None:
        """None has ended."""

    def warnings(self, service: str) -> list[str]:
        return self.lines if service == "failing" else []

    def ask(self, service: str, path: str) -> Answer:
        return self.answers[path]


class Server:
    """A broker that can be killed."""

    survives_kill = True

    def __init__(self, services: Services) -> None:
        self.services = services
        self.calls: list[str] = []

    def kill(self) -> None:
        self.calls.append("kill")
        self.services.answers["/ready"] = Answer(503, "reconnecting")
        self.services.lines = ["WARNING anybroker.broker: failing/failing: gone"]

    def start(self) -> None:
        self.calls.append("start")
        self.services.answers["/ready"] = OK


class Answers:
    """A Prometheus that says that these rules fire, each for a topic."""

    def __init__(self, *alerts: tuple[str, str], series: int = 1) -> None:
        self._alerts = alerts
        self._series = series
        self.asked: list[str] = []

    def alerts(self) -> list[dict[str, Any]]:
        return [
            {
                "labels": {"alertname": rule, "messaging_destination_name": topic},
                "annotations": {"description": "text"},
                "state": "firing",
            }
            for rule, topic in self._alerts
        ]

    def query(self, expression: str) -> int:
        self.asked.append(expression)
        return self._series

    def label_values(self, label: str, selector: str) -> int:
        self.asked.append(f"{label} of {selector}")
        return self._series


def found(
    prometheus: Answers,
    monkeypatch: pytest.MonkeyPatch,
    *faults: Fault,
    services: Services | None = None,
    broker: Any = None,
) -> Found:
    monkeypatch.setattr(session, "INTERVAL", 0.002)
    faults = faults or (FAILING,)
    return Session(services or Services(), prometheus, faults, 0.001, broker, lambda *_: None).run()


def problems(prometheus: Answers, monkeypatch: pytest.MonkeyPatch, services: Services | None = None) -> list[str]:
    return found(prometheus, monkeypatch, services=services).problems


def test_a_minute_becomes_shorter_wherever_one_is_waited_for() -> None:
    shorter = faster(RULES, 4)
    assert not re.search(r"for: \d+m$|\[\d+m\]|offset \d+m\b|> 300\b", shorter, re.MULTILINE)
    assert "for: 20000ms" in shorter
    assert "[60000ms]" in shorter
    assert "offset 40000ms" in shorter
    assert "(anybroker_lag_age_seconds) > 20\n" in shorter
    assert ") > 100\n" in shorter
    assert len(shorter.splitlines()) == len(RULES.splitlines())


def test_a_minute_of_60_seconds_changes_nothing_but_the_unit() -> None:
    back = re.sub(r"\b(\d+)0000ms", lambda found: f"{int(found[1]) // 6}m", faster(RULES, 60))
    assert back == RULES


def test_each_rule_has_its_fault_and_each_fault_its_service() -> None:
    tripped = {rule for fault in FAULTS for rule in fault.trips}
    assert sorted(tripped) == sorted(re.findall(r"- alert: (\w+)", RULES))
    assert [fault.service for fault in FAULTS] == list(SERVICES)


def test_all_fired(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(Answers(*((rule, "failing") for rule in FAILING.trips)), monkeypatch) == []


def test_one_that_does_not_fire_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(Answers(("AnybrokerErrorRate", "failing")), monkeypatch) == [
        "AnybrokerDeadLetters did not fire for failing"
    ]


def test_one_that_fires_without_its_fault_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    fired = [(rule, "failing") for rule in FAILING.trips]
    assert problems(Answers(*fired, ("AnybrokerErrorRate", "healthy")), monkeypatch) == [
        "AnybrokerErrorRate fired for healthy"
    ]


@pytest.mark.parametrize(
    ("services", "problem"),
    [
        (Services(lines=["WARNING anybroker.handler: other"]), "failing did not log 'ERROR anybroker"),
        (Services(ready=Answer(503, "away")), "/ready of failing says: 503 away"),
        (Services(live=Answer(0, "no answer: refused")), "/live of failing says: 0 no answer: refused"),
    ],
)
def test_what_is_logged_and_answered_is_looked_at(
    services: Services, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = problems(Answers(*((rule, "failing") for rule in FAILING.trips)), monkeypatch, services)
    assert said.startswith(problem)


def test_what_is_not_ready_is_to_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = Fault("blocked", "", (), ready=False, live=False)
    assert found(Answers(), monkeypatch, blocked).problems == [
        "/ready of blocked says: ok",
        "/live of blocked says: ok",
    ]


def test_a_service_that_should_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = replace(FAILING, trips=(), says=None)
    assert found(Answers(), monkeypatch, quiet).problems == [f"failing logged what nobody expects: {LINE}"]


def test_the_broker_is_killed_last_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    services = Services()
    server = Server(services)
    cut = replace(FAILING, trips=("AnybrokerNotReady",), says=r"broker: .*gone", ready=False, last=True)
    prometheus = Answers(("AnybrokerNotReady", "failing"), ("AnybrokerNotReady", "healthy"))
    result = found(prometheus, monkeypatch, Fault("healthy", "", ()), cut, services=services, broker=server)
    assert server.calls == ["kill", "start"]
    assert result.problems == []
    assert str(result.seen["failing"].ready) == "503 reconnecting"
    assert str(result.seen["healthy"].ready) == "ok", "as it was before"
    assert result.back is not None


def test_a_rule_that_needs_what_a_broker_does_not_know_is_not_waited_for() -> None:
    behind = next(fault for fault in FAULTS if fault.service == "behind")
    assert [fault.trips for fault in cli.on("kafka", [behind])] == [behind.trips]
    assert [fault.trips for fault in cli.on("rabbitmq", [behind])] == [("AnybrokerLagGrowing",)]


def test_the_board_is_asked_with_its_variables_filled_in() -> None:
    prometheus = Answers()
    count, wrong = empty_panels(prometheus, 60)
    assert (count, wrong) == (len(prometheus.asked), [])
    assert count > 30
    assert not [asked for asked in prometheus.asked if "$" in asked]


def test_a_panel_that_shows_nothing_is_a_problem() -> None:
    count, wrong = empty_panels(Answers(series=0), 60)
    assert len(wrong) == count
    assert wrong[0] == "panel Processes is empty: count(anybroker_ready)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Missing("no prometheus on this machine", "apt-get install prometheus"), "machine: apt-get install prometheus"),
        (BrokerFailed("prometheus ended with exit code 1"), "prometheus ended with exit code 1"),
    ],
)
def test_without_a_prometheus_it_is_2(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(_say: object) -> str:
        raise error

    monkeypatch.setattr(cli, "find", find)
    assert cli.main([]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--minute", "0"], ["--rule", "Other"], ["--broker", "other"], ["--fast"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert capsys.readouterr().err
