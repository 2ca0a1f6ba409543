"""One session as the on-call person of the services on one broker: what fires, what is logged, what the probes say."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..brokers.api import Broker
from .board import Asked, empty_panels
from .faults import Fault
from .running import Answer, Running

__all__ = ["INTERVAL", "PATIENCE", "Found", "Session"]

PATIENCE = 35
"""Minutes of the rules to wait: the slowest one needs 20, and the lags that it reads may be 15 s old."""
INTERVAL = 1.0
"""Seconds between two scrapes, and two evaluations."""
BACK_SECONDS = 60.0
"""How long a service may take to be ready again once its broker answers."""

Say = Callable[[str, str], None]


@dataclass
class Seen:
    """What one service showed while its fault lasted."""

    ready: Answer
    live: Answer
    line: str | None
    """The line of its log that says what is wrong."""


@dataclass
class Found:
    """What came of a session."""

    seconds: dict[tuple[str, str], float] = field(default_factory=dict)
    """By rule and service: seconds until it fired, from the start of the services, or from the broker's end."""
    descriptions: dict[tuple[str, str], str] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    back: float | None = None
    """Seconds from when the broker answered again until the service that had lost it was ready. None: not tried."""
    panels: int = 0
    """Expressions of the board that were asked for."""
    problems: list[str] = field(default_factory=list)


class Session:
    """``faults``: with the rules that can fire on this broker. ``broker``: to be killed at the end; None: the faults
    that wait for that begin by themselves."""

    def __init__(
        self,
        services: Running,
        prometheus: Asked,
        faults: Sequence[Fault],
        minute: float,
        broker: Broker | None,
        say: Say,
    ) -> None:
        self._services = services
        self._prometheus = prometheus
        self._faults = faults
        self._minute = minute
        self._broker = broker
        self._say = say
        self.found = Found()

    def run(self, board: bool = False) -> Found:
        """Until each rule has fired for its fault, or for as long as is allowed. ``board``: ask its panels too."""
        found, faults, broker = self.found, self._faults, self._broker
        ends = [fault for fault in faults if fault.last and broker is not None]
        self._watch([fault for fault in faults if fault not in ends])
        for fault in faults:
            if fault not in ends:
                self._look(fault)
        allowed = {(rule, fault.service) for fault in faults for rule in (*fault.trips, *fault.may_trip)}
        found.problems += [f"{rule} fired for {service}" for rule, service in sorted(found.seconds.keys() - allowed)]
        if ends and broker is not None:
            self._kill(broker, ends)
        if board:  # now, when each service has had its fault
            self._say("board", "asking for what its panels show")
            found.panels, wrong = empty_panels(self._prometheus, 15 * self._minute)
            found.problems += wrong
        if ends and broker is not None and broker.survives_kill:
            self._start(broker, ends)
        return found

    def _kill(self, broker: Broker, ends: Sequence[Fault]) -> None:
        """The broker goes away from all of them; those that wait for it are looked at."""
        for fault in ends:
            self._say(fault.trips[0], f"killing the broker of {fault.service}")
        broker.kill()
        self._watch(ends)
        for fault in ends:
            self._look(fault)

    def _start(self, broker: Broker, ends: Sequence[Fault]) -> None:
        """The broker is back; those that waited for it are ready again."""
        broker.start()
        begun = time.monotonic()
        for fault in ends:
            while (ready := self._services.ask(fault.service, "/ready")).status != 200:
                self._services.check()
                if time.monotonic() - begun > BACK_SECONDS:
                    self.found.problems.append(f"{fault.service} is not ready {BACK_SECONDS:g} s after: {ready.said}")
                    return
                time.sleep(0.1)
        self.found.back = time.monotonic() - begun

    def _watch(self, faults: Sequence[Fault]) -> None:
        """Until what these faults trip has fired."""
        found = self.found
        missing = {(rule, fault.service) for fault in faults for rule in fault.trips}
        pending: set[tuple[str, str]] = set()
        begun = time.monotonic()
        while missing:
            self._services.check()
            passed = time.monotonic() - begun
            if passed > PATIENCE * self._minute:
                found.problems += [f"{rule} did not fire for {service}" for rule, service in sorted(missing)]
                break
            for alert in self._prometheus.alerts():
                rule, service = alert["labels"]["alertname"], _service(alert)
                if alert["state"] == "firing" and (rule, service) not in found.seconds:
                    found.seconds[rule, service] = passed
                    found.descriptions[rule, service] = alert["annotations"]["description"]
                    self._say(rule, f"fired for {service} after {passed:.0f} s")
                elif (rule, service) in missing - pending:
                    pending.add((rule, service))
                    self._say(rule, f"pending for {service} after {passed:.0f} s")
            missing -= found.seconds.keys()
            time.sleep(INTERVAL / 2)

    def _look(self, fault: Fault) -> None:
        """What the service shows now, and whether it is what the fault should show."""
        name, problems = fault.service, self.found.problems
        ready, live = (self._services.ask(name, path) for path in ("/ready", "/live"))
        lines = self._services.warnings(name)
        line = next((line for line in lines if fault.says is not None and re.search(fault.says, line)), None)
        self.found.seen[name] = Seen(ready, live, line)
        if fault.says is None and lines:
            problems.append(f"{name} logged what nobody expects: {lines[0]}")
        if fault.says is not None and line is None:
            problems.append(f"{name} did not log {fault.says!r}")
        for path, answer, good in (("/ready", ready, fault.ready), ("/live", live, fault.live)):
            if (answer.status == 200) is not good or answer.status == 0:
                problems.append(f"{path} of {name} says: {answer}")


def _service(alert: dict[str, Any]) -> str:
    """The topic has its name; where a rule is not about a topic, the job."""
    labels: dict[str, str] = alert["labels"]
    return labels.get("messaging_destination_name") or labels["job"]
