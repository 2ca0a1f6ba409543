"""The alert rules: Prometheus takes them, each fires when it should, and each has its section in docs/alerts.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.import_graph import ROOT
from tests.observe.metric_names import base_name, names_in

from anybroker.observe.instruments import INSTRUMENTS
from anybroker_contract.brokers.context import Context
from anybroker_contract.brokers.errors import Missing
from anybroker_contract.brokers.install import ALLOW, debian_program

RULES = ROOT / "src" / "anybroker" / "observe" / "files" / "rules.yml"
TESTS = Path(__file__).with_name("rules_test.yml")
DOCS = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in ALERTS]
LABELS = {"job", "instance", "severity"} | {
    attribute.replace(".", "_") for instrument in INSTRUMENTS for attribute in instrument.attributes
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Required where tests may install what is missing, as in CI."""
    try:
        return debian_program(Context("prometheus", environ=os.environ), "promtool", "prometheus")
    except Missing as missing:
        if os.environ.get(ALLOW) == "1":
            pytest.fail(f"{missing.reason}: {missing.remedy}")
        pytest.skip(f"the alert rules are not tested: {missing.reason} ({missing.remedy})")


@pytest.mark.timeout(300)  # it may be installed first
@pytest.mark.parametrize(("what", "file"), [("check", RULES), ("test", TESTS)], ids=("check", "test"))
def test_promtool_agrees(promtool: str, what: str, file: Path) -> None:
    done = subprocess.run([promtool, what, "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_configuration_in_the_docs_loads_the_rules(promtool: str, tmp_path: Path) -> None:
    (config,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(config, encoding="utf-8")
    (tmp_path / "anybroker-rules.yml").write_bytes(RULES.read_bytes())
    done = subprocess.run(
        [promtool, "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("AnybrokerLagGrowing", "offset 10m", "offset 1m"),
        ("AnybrokerLagGrowing", ") > 100", ") > 0"),
        ("AnybrokerLagOld", "> 300", ">= 300"),
        ("AnybrokerLagOld", "max by", "sum by"),
        ("AnybrokerDeadLetters", "max by", "sum by"),
        ("AnybrokerDeadLetters", "unless max by", "and max by"),
        ("AnybrokerDeadLetters", "or (anybroker_dead_letters_total > 0", "or (anybroker_dead_letters_total > 9999"),
        ("AnybrokerErrorRate", "|postponed|returned", ""),
        ("AnybrokerErrorRate", "> 0.05", "> 0.06"),
        ("AnybrokerErrorRate", "> 0.05", ">= 0.05"),
        ("AnybrokerNoConsumer", "(increase(messaging_client_consumed_messages_total[5m])) > 0", "(vector(0)) > 0"),
        ("AnybrokerNoConsumer", "(anybroker_deliveries_buffered) > 0", "(anybroker_deliveries_buffered) > 1"),
        ("AnybrokerNoConsumer", "(anybroker_lag_age_seconds) == 0", "(anybroker_lag_age_seconds) < 0"),
        (
            "AnybrokerOutcomesUnknown",
            "increase(anybroker_publish_unknown_total[15m])",
            "anybroker_publish_unknown_total",
        ),
        ("AnybrokerKeyStuck", "> 300", ">= 300"),
        ("AnybrokerCircuitOpen", "for: 2m", "for: 0m"),
        ("AnybrokerCircuitOpen", "max by", "min by"),
        ("AnybrokerNotReady", "for: 2m", "for: 0m"),
        ("AnybrokerOutboxOld", "> 300", ">= 300"),
        ("AnybrokerOutboxOld", "max by", "sum by"),
    ],
)
def test_a_wrong_rule_is_noticed(promtool: str, tmp_path: Path, name: str, right: str, wrong: str) -> None:
    """So the series that do not fire are at the edge."""
    before, alert, rest = RULES.read_text(encoding="utf-8").partition(f"- alert: {name}\n")
    rule, following, after = rest.partition("- alert: ")
    assert right in rule
    broken = tmp_path / "rules.yml"
    broken.write_text(before + alert + rule.replace(right, wrong) + following + after, encoding="utf-8")
    tests = tmp_path / "tests.yml"
    tests.write_text(re.sub(r"rule_files: .*", "rule_files: [rules.yml]", TESTS.read_text(encoding="utf-8")))
    done = subprocess.run([promtool, "test", "rules", str(tests)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"alertname: {name}" in done.stdout + done.stderr


def test_each_rule_has_its_tests() -> None:
    """At least one that fires, and one that does not."""
    fires: dict[str, set[bool]] = {name: set() for name in NAMES}
    for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            fires[case["alertname"]].add(bool(case["exp_alerts"]))
    assert fires == {name: {True, False} for name in NAMES}


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_a_rule_is_whole(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert "First " in rule["annotations"]["description"]


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_a_rule_uses_metrics_that_there_are(rule: dict[str, Any]) -> None:
    used = {base_name(series) for series in names_in(rule["expr"])}
    assert used
    assert used <= {instrument.prometheus for instrument in INSTRUMENTS}
    for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
        assert set(by.split(", ")) <= LABELS
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= LABELS


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_a_rule_has_a_runbook(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor) == ("docs/alerts.md", rule["alert"].lower())
    _, _, section = DOCS.partition(f"\n## {rule['alert']}\n")
    section = section.partition("\n## ")[0]
    for part in ("**What it means.**", "**What to look at.**", "**What to do.**"):
        assert part in section, part


def test_the_page_has_no_other_alerts() -> None:
    assert re.findall(r"^## (Anybroker\w+)$", DOCS, re.MULTILINE) == NAMES
