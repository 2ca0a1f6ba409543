"""Whether the panels of the board show something."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any, Protocol

__all__ = ["Asked", "empty_panels"]

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.*), (?P<label>\w+)\)")


class Asked(Protocol):
    """What is asked of a Prometheus."""

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing now."""
        ...

    def query(self, expression: str) -> int:
        """How many series an expression gives now. ``ValueError`` where it is not one."""
        ...

    def label_values(self, label: str, selector: str) -> int:
        """How many values a label has in the series of a selector."""
        ...


def empty_panels(prometheus: Asked, seconds: float) -> tuple[int, list[str]]:
    """How many expressions the board has, and those that Prometheus refuses or that give nothing now.

    ``seconds``: what the board's ranges are.
    """
    board: dict[str, Any] = json.loads(files("anybroker").joinpath("observe/files/dashboard.json").read_text("utf-8"))
    expressions = [
        (f"panel {panel['title']}", target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())
    ]
    expressions += [
        (f"variable {each['name']}", each["query"]) for each in board["templating"]["list"] if each["type"] == "query"
    ]
    wrong: list[str] = []
    for place, expression in expressions:
        filled = re.sub(r"\$(topic|group)\b", ".*", expression)
        filled = re.sub(r"\$__(rate_interval|range)\b", f"{seconds:g}s", filled)
        try:
            values = _LABEL_VALUES.fullmatch(filled)
            found = prometheus.label_values(values["label"], values["selector"]) if values else prometheus.query(filled)
        except ValueError as error:
            wrong.append(f"{place}: {expression}: {error}")
        else:
            if not found:
                wrong.append(f"{place} is empty: {expression}")
    return len(expressions), wrong
