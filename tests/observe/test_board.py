"""The Grafana board: what the builder makes, with metrics that there are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.observe.board import FILE, board
from tests.observe.metric_names import base_name, names_in

from anybroker.observe.instruments import INSTRUMENTS

METRICS = {instrument.prometheus for instrument in INSTRUMENTS}
BOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def expressions() -> Iterator[str]:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]


def test_the_file_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == board(), "run: python -m tests.observe.board"


def test_it_shows_every_metric_and_no_other() -> None:
    used = {base_name(series) for expression in expressions() for series in names_in(expression)}
    assert used == METRICS


def test_its_variables() -> None:
    assert [(each["name"], each["type"]) for each in BOARD["templating"]["list"]] == [
        ("datasource", "datasource"),
        ("topic", "query"),
        ("group", "query"),
    ]


def test_its_rows() -> None:
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Publish", "Consume", "Lag", "Dead letters", "Outbox", "Members"]


def test_each_panel_asks_the_chosen_source_and_says_what_it_shows() -> None:
    for panel in BOARD["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            assert panel["description"], panel["title"]
            assert panel["targets"], panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("max by (messaging_system) (anybroker_lag_events) > 0", {"anybroker_lag_events"}),
        ('rate(anybroker_a_total{messaging_system="anybroker_b"}[5m])', {"anybroker_a_total"}),
        ('label_values({__name__=~"anybroker_a|anybroker_b"}, messaging_system)', {"anybroker_a", "anybroker_b"}),
        ("sum(anybroker_a) without (messaging_system) / on (messaging_system) up", {"anybroker_a"}),
    ],
)
def test_names_in_an_expression(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names
