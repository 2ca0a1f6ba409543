"""The tables of tests × adapters in ``docs/contract.md`` and of tests × stores in ``docs/stores.md``: a complete run
writes one, and checks that it is current.

It has only names and outcomes, so that it changes when a promise does. Columns of adapters that a run did not test stay
unchanged.
"""

from __future__ import annotations

from pathlib import Path

from ._outcomes import Outcome, Outcomes
from ._skips import SUITE, known_tests

__all__ = ["check_table", "render", "reworded", "write_table"]

START = "<!-- contract-table:start -->"
END = "<!-- contract-table:end -->"

Cells = dict[str, dict[str, str]]
"""Test to adapter to cell."""


def cell_of(outcomes: list[Outcome]) -> str | None:
    """The cell for the outcomes of one test on one adapter; None if it must pass first."""
    if any(outcome.verdict in ("failed", "skipped") for outcome in outcomes):
        return None
    for outcome in outcomes:
        if outcome.verdict == "ledgered":
            return f"ledgered: {outcome.reason}"
        if outcome.verdict == "not applicable":
            return f"– {outcome.reason}"
    return "✓"


def gather(outcomes: Outcomes, adapters: list[str], suite: Path = SUITE) -> tuple[Cells, str | None]:
    """The cells of this run, or why they are incomplete."""
    known = known_tests(suite)
    by_place: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes.all:
        by_place.setdefault((outcome.test, outcome.adapter), []).append(outcome)
    cells: Cells = {}
    for test in known:
        for adapter in adapters:
            found = by_place.get((test, adapter))
            if found is None:
                return {}, f"the run was not complete: {test} did not run on {adapter}"
            cell = cell_of(found)
            if cell is None:
                return {}, f"{test} did not pass on {adapter}"
            cells.setdefault(test, {})[adapter] = cell
    return cells, None


def read(text: str) -> tuple[list[str], Cells]:
    """Adapters and cells of the table in a page."""
    _, _, rest = text.partition(START)
    lines = [line for line in rest.partition(END)[0].splitlines() if line.startswith("|")]
    rows = [[part.strip() for part in line.strip().strip("|").split("|")] for line in lines]
    if not rows:
        return [], {}
    adapters = rows[0][1:]
    cells: Cells = {}
    file = ""
    for row in rows[2:]:
        name = row[0]
        if name.startswith("**"):
            file = f"{name.strip('*')}.py"
            continue
        cells[f"{file}::{name.split('`')[1]}"] = dict(zip(adapters, row[1:], strict=True))
    return adapters, cells


def render(adapters: list[str], cells: Cells, suite: Path = SUITE) -> str:
    """The table as markdown."""
    lines = [f"| test | {' | '.join(adapters)} |", f"|{'---|' * (len(adapters) + 1)}"]
    file = ""
    for test, promise in known_tests(suite).items():
        name, _, function = test.partition("::")
        if name != file:
            file = name
            lines.append(f"| **{name.removesuffix('.py')}** |{' |' * len(adapters)}")
        row = cells.get(test, {})
        shown = " | ".join(row.get(adapter, "?") for adapter in adapters)
        lines.append(f"| `{function}` {promise.replace('|', '/')} | {shown} |")
    return "\n".join(lines)


def reworded(text: str, suite: Path = SUITE) -> str:
    """The page with the tests that there are now, in their own words, and with the cells that it has."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{render(*read(text), suite)}\n{END}{rest.partition(END)[2]}"


def _merged(page: Path, outcomes: Outcomes, adapters: list[str], suite: Path) -> tuple[str, str, str | None]:
    """The page as it is, as it should be, and why it cannot be written."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if START not in text or END not in text:
        return text, text, f"it has no lines {START} and {END}"
    cells, problem = gather(outcomes, adapters, suite)
    if problem is not None:
        return text, text, problem
    columns, old = read(text)
    columns = columns + [adapter for adapter in adapters if adapter not in columns]
    for test, row in cells.items():
        old.setdefault(test, {}).update(row)
    before, _, rest = text.partition(START)
    after = rest.partition(END)[2]
    return text, f"{before}{START}\n{render(columns, old, suite)}\n{END}{after}", None


def write_table(page: Path, outcomes: Outcomes, adapters: list[str], suite: Path = SUITE) -> str | None:
    """Renew the table in the page; returns why that failed, or None."""
    text, wanted, problem = _merged(page, outcomes, adapters, suite)
    if problem is None and wanted != text:
        page.write_text(wanted, encoding="utf-8")
    return problem


def check_table(page: Path, outcomes: Outcomes, adapters: list[str], suite: Path = SUITE) -> str | None:
    """What is wrong with the table in the page; None if it is current."""
    text, wanted, problem = _merged(page, outcomes, adapters, suite)
    if problem is not None or wanted == text:
        return problem
    old, new = text.splitlines(), wanted.splitlines()
    changed = [line for line in new if line not in set(old)]
    first = changed[0] if changed else "a row is gone"
    return f"is not current: renew it with --write-table; the first difference: {first}"


if __name__ == "__main__":
    for name, folder in (("contract.md", SUITE), ("stores.md", SUITE / "stores")):
        page = SUITE.parents[1] / "docs" / name
        page.write_text(reworded(page.read_text(encoding="utf-8"), folder), encoding="utf-8")
