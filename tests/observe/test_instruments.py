"""The table of metrics: as OpenTelemetry's conventions have it, and with names that Prometheus takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import (
    cloudevents_attributes,
    error_attributes,
    messaging_attributes,
)
from opentelemetry.semconv._incubating.metrics import messaging_metrics

from anybroker.observe.instruments import INSTRUMENTS, Instrument, by_name, label

CONVENTIONAL = [each for each in INSTRUMENTS if each.name.startswith("messaging.")]
OURS = [each for each in INSTRUMENTS if each not in CONVENTIONAL]
ATTRIBUTES = {
    value
    for module in (messaging_attributes, error_attributes, cloudevents_attributes)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


class Meter:
    """What the conventions' own functions create."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, str]] = {}

    def create_counter(self, name: str, unit: str, description: str) -> None:
        self.made[name] = "counter", unit

    def create_histogram(self, name: str, unit: str, description: str) -> None:
        self.made[name] = "histogram", unit


@pytest.mark.parametrize("instrument", CONVENTIONAL, ids=lambda each: each.name)
def test_name_kind_and_unit_are_those_of_the_conventions(instrument: Instrument) -> None:
    meter: Any = Meter()
    getattr(messaging_metrics, f"create_{label(instrument.name)}")(meter)
    assert meter.made == {instrument.name: (instrument.kind, instrument.unit)}


def test_the_conventions_have_four_that_we_have() -> None:
    current = {
        name for name in vars(messaging_metrics) if name.startswith("create_") and "client_published" not in name
    }
    deprecated = re.compile("create_messaging_(publish|receive)_|create_messaging_process_messages")
    assert {f"create_{label(each.name)}" for each in CONVENTIONAL} == {
        name for name in current if not deprecated.match(name)
    }


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda each: each.name)
def test_attributes_are_those_of_the_conventions_or_our_own(instrument: Instrument) -> None:
    assert instrument.attributes[0] == "messaging.system"
    assert {name for name in instrument.attributes if not name.startswith("anybroker.")} <= ATTRIBUTES


@pytest.mark.parametrize("operation", ["send", "receive", "process"])
def test_operations_are_those_of_the_conventions(operation: str) -> None:
    assert messaging_attributes.MessagingOperationTypeValues(operation)


def test_names_are_told_apart_in_both() -> None:
    assert len({each.name for each in INSTRUMENTS}) == len({each.prometheus for each in INSTRUMENTS}) == 33
    assert all(each.name.startswith("anybroker.") for each in OURS)
    assert all(re.fullmatch("[a-z_]+", each.prometheus) for each in INSTRUMENTS)


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda each: each.name)
def test_only_histograms_have_buckets_which_grow(instrument: Instrument) -> None:
    assert bool(instrument.bounds) == (instrument.kind == "histogram")
    assert list(instrument.bounds) == sorted(set(instrument.bounds))


def test_one_can_be_looked_up() -> None:
    assert by_name("anybroker.lag.age").prometheus == "anybroker_lag_age_seconds"
    with pytest.raises(KeyError):
        by_name("anybroker.nothing")
