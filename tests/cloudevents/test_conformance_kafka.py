"""The scenarios of the Kafka protocol binding, read from the official feature file by a small step reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anybroker.cloudevents import HeaderBinding
from anybroker.event import Event

FEATURE = Path(__file__).parent / "conformance" / "kafka-protocol-binding.feature"
KEYWORDS = ("Given ", "And ", "When ", "Then ")


@dataclass
class Step:
    text: str
    table: list[list[str]] = field(default_factory=list)
    document: str | None = None

    def pairs(self, values: dict[str, str]) -> list[tuple[str, str]]:
        """The rows below the head of the table, with the outline's placeholders filled in."""
        return [(name, fill(value, values)) for name, value in self.table[1:]]


@dataclass
class Scenario:
    name: str
    steps: list[Step] = field(default_factory=list)
    examples: list[list[str]] = field(default_factory=list)


def fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    return text


def scenarios(text: str) -> list[Scenario]:
    found: list[Scenario] = []
    lines = iter(text.splitlines())
    in_examples = False
    for raw in lines:
        line = raw.strip()
        if line.startswith(("Scenario:", "Scenario Outline:")):
            found.append(Scenario(line.partition(":")[2].strip()))
            in_examples = False
        elif line == "Examples:":
            in_examples = True
        elif not found or not line:
            continue  # the feature's title and its background, which hold no data
        elif line.startswith("|"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            (found[-1].examples if in_examples else found[-1].steps[-1].table).append(row)
        elif line == '"""':
            found[-1].steps[-1].document = "\n".join(document(lines))
        elif line.startswith(KEYWORDS):
            found[-1].steps.append(Step(line.partition(" ")[2]))
        else:
            raise AssertionError(f"a line that this reader does not know: {raw!r}")
    return found


def document(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.strip() == '"""':
            return
        yield line


def cases() -> list[Any]:
    result = []
    for scenario in scenarios(FEATURE.read_text()):
        heads, *rows = scenario.examples or [[], []]
        for row in rows:
            values = dict(zip(heads, row, strict=True))
            result.append(pytest.param(scenario, values, id=fill(scenario.name, values)))
    return result


def test_the_file_has_three_cases() -> None:
    assert len(cases()) == 3


@pytest.mark.parametrize(("scenario", "values"), cases())
def test_scenario(scenario: Scenario, values: dict[str, str]) -> None:
    binding = HeaderBinding(bytes, prefix="ce_")
    payload = b""
    headers: list[tuple[str, bytes]] = []
    event: Event[Any] | None = None
    for step in scenario.steps:
        match step.text:
            case "a Kafka message with payload:":
                payload = (step.document or "").encode()
            case "Kafka headers:":
                headers = [(name, value.encode()) for name, value in step.pairs(values)]
            case "parsed as Kafka message":
                event = binding.parse(headers, payload)
            case "the attributes are:":
                assert event is not None
                assert dict(event.attributes) == dict(step.pairs(values))
            case "the data is equal to the following JSON:":
                assert event is not None
                assert event.data == json.loads(step.document or "")
            case text:
                raise AssertionError(f"a step that this reader does not know: {text!r}")
    assert event is not None
    assert binding.parse(binding.binary_headers(event), event.body) == event
