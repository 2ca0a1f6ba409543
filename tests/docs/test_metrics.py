"""``docs/metrics.md`` has the table of metrics as the code has it, and its example runs.

``python -m tests.docs.test_metrics`` writes the table.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from anybroker.observe.instruments import INSTRUMENTS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
GROUP = {"messaging.destination.name", "messaging.consumer.group.name"}
START, END = "<!-- metrics:start -->", "<!-- metrics:end -->"


def table() -> str:
    """The table in Markdown."""
    lines = [
        "| metric | in Prometheus | kind, unit | attributes | what it is | alarm when |",
        "|---|---|---|---|---|---|",
    ]
    for each in INSTRUMENTS:
        of_group = set(each.attributes) >= GROUP
        own = [f"`{name}`" for name in each.attributes[1:] if not of_group or name not in GROUP]
        attributes = ", ".join(["*of a group*"] * of_group + own)
        unit = each.unit.strip("{}")
        cells = (
            f"`{each.name}`",
            f"`{each.prometheus}`",
            f"{each.kind}, {unit}",
            attributes,
            each.description,
            each.alarm,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written() -> str:
    """The page as it should be."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    return f"{before}{START}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


def test_the_table_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == written(), "run: python -m tests.docs.test_metrics"


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-W", "error", "-c", example], check=True, timeout=60)


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
