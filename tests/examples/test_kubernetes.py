"""The Kubernetes example asks the paths that are answered, where they are answered, and waits for long enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anybroker.cli._main import _parser
from anybroker.config import BusSettings
from anybroker.engine.life import _CLOSE_TIMEOUT
from anybroker.engine.pump import _CANCEL_GRACE
from anybroker.observe import HealthServer
from anybroker.observe.answers import PATHS
from anybroker.observe.health import BLOCKED_LIMIT

FOLDER = Path(__file__).parents[2] / "examples" / "kubernetes"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pod() -> Any:
    yaml: Any = pytest.importorskip("yaml")
    return yaml.safe_load((FOLDER / "deployment.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]


def test_the_probes_ask_what_is_answered(pod: Any) -> None:
    (container,) = pod["containers"]
    (port,) = container["ports"]
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        asked = container[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, port["name"])
        assert path in PATHS
    program, *arguments = container["command"]
    assert program == "anybroker"
    options = _parser().parse_args(arguments)
    server = HealthServer(options.health)
    assert (server._host, server._port) == ("", port["containerPort"]), "a probe does not come from 127.0.0.1"


def test_it_has_the_time_to_drain(pod: Any) -> None:
    (container,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert float(environment["ANYBROKER_DRAIN"]) == BusSettings.model_fields["drain"].default
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    needed = float(seconds) + float(environment["ANYBROKER_DRAIN"]) + _CANCEL_GRACE + _CLOSE_TIMEOUT
    assert needed <= pod["terminationGracePeriodSeconds"]
    assert f"that is {needed:.0f}; at {pod['terminationGracePeriodSeconds']}" in README


def test_a_restart_is_the_last_resort(pod: Any) -> None:
    (container,) = pod["containers"]
    liveness = container["livenessProbe"]
    assert liveness["failureThreshold"] >= 3
    assert f"blocked for {BLOCKED_LIMIT:.0f} seconds" in README
