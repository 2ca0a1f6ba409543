"""The exposition for Prometheus, and what is said where its client is not installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from anybroker import ConfigError
from anybroker.observe import PrometheusMetrics
from anybroker.observe.instruments import INSTRUMENTS
from anybroker.stats import PublishStats


def a_bus() -> Any:
    capabilities = SimpleNamespace(adapter="memory", system="memory")
    return SimpleNamespace(
        adapter=SimpleNamespace(capabilities=capabilities),
        stats=PublishStats(unknown=3),
        subscriptions=(),
        problems={'a "name"\\': "down"},
        health=lambda: SimpleNamespace(ready=False),
    )


def test_every_metric_has_its_help_and_type_before_there_is_a_bus() -> None:
    families = {each.name: each for each in parse(PrometheusMetrics().exposition()[0].decode())}
    assert families.keys() == {each.prometheus.removesuffix("_total") for each in INSTRUMENTS}
    for each in INSTRUMENTS:
        family = families[each.prometheus.removesuffix("_total")]
        assert (family.type, family.documentation) == (each.kind, each.description)


@pytest.mark.parametrize(
    ("accept", "content_type", "read"),
    [
        ("", "text/plain; version=0.0.4", parse),
        ("*/*", "text/plain; version=0.0.4", parse),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text",
            parse_openmetrics,
        ),
    ],
)
def test_the_accept_header_chooses_the_format(accept: str, content_type: str, read: Any) -> None:
    metrics = PrometheusMetrics()
    metrics.attached(a_bus())
    body, shown = metrics.exposition(accept)
    assert shown.startswith(content_type)
    samples = {
        (each.name, *each.labels.values()): each.value for family in read(body.decode()) for each in family.samples
    }
    assert samples["anybroker_publish_unknown_total", "memory"] == 3
    assert 1 in [value for (name, *_), value in samples.items() if name == "anybroker_problem"]


def test_it_registers_where_something_else_exports() -> None:
    registry = CollectorRegistry(auto_describe=True)
    Counter("shop_orders", "Of the program itself.", registry=registry).inc()
    metrics = PrometheusMetrics(registry)
    metrics.attached(a_bus())
    body = metrics.exposition()[0]
    assert b"shop_orders_total 1.0" in body
    assert b'anybroker_ready{messaging_system="memory"} 0.0' in body


def test_by_default_it_is_in_no_other_registry() -> None:
    PrometheusMetrics()
    PrometheusMetrics()  # nor is a second one in the way of the first
    assert "anybroker_ready" not in REGISTRY._names_to_collectors


def test_without_the_client_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'anybroker\[prometheus\]'"):
        PrometheusMetrics()


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", ";;=,", "\x00"])
def test_a_header_that_makes_no_sense_is_answered_as_text(accept: str) -> None:
    body, content_type = PrometheusMetrics().exposition(accept)
    assert b"anybroker_ready" in body
    assert content_type.startswith("text/plain")


def test_a_registry_that_has_them_already() -> None:
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    with pytest.raises(ConfigError, match=r"PrometheusMetrics\(registry\): the registry has metrics of these names"):
        PrometheusMetrics(registry)
