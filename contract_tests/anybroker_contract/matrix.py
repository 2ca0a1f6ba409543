"""The capability matrix: what each adapter declares, as a markdown table.

python -m anybroker_contract.matrix                      print it
python -m anybroker_contract.matrix --write README.md    renew it between its two markers
python -m anybroker_contract.matrix --check README.md    exit 1 if it is not current
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anybroker.capabilities import Capabilities

from ._adapters import find_harnesses

__all__ = ["END", "START", "main", "matrix"]

START = "<!-- capabilities:start -->"
END = "<!-- capabilities:end -->"

_MARKS = {"native": "✓", "emulated": "✓ (emulated)", "absent": "–"}


def _bytes(count: int | None) -> str:
    if count is None:
        return "none"
    for unit, size in (("MiB", 1024 * 1024), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def _seconds(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:g} s"


def matrix(declared: Sequence[Capabilities]) -> str:
    """The table: one row per capability, one column per adapter."""
    rows = [
        ["", *(item.adapter for item in declared)],
        ["---"] * (len(declared) + 1),
        ["acknowledgement", *(item.acknowledgement.value for item in declared)],
    ]
    tables = [item.table() for item in declared]
    rows += [[f"`{name}`", *(_MARKS[table[name]] for table in tables)] for name in tables[0]]
    rows.append(["largest event", *(_bytes(item.max_event_bytes) for item in declared)])
    delays = (_seconds(item.max_delay) if item.delay else "–" for item in declared)
    rows.append(["longest delay", *delays])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _declared(names: Sequence[str]) -> list[Capabilities]:
    return [harness().capabilities() for harness in find_harnesses(names).values()]


def renewed(text: str, table: str, start: str = START, end: str = END) -> str:
    """The page with the table between its markers. ``ValueError`` where it has none."""
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"has no lines {start} and {end}")
    return f"{before}{start}\n{table}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.matrix", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME", help="a column; repeatable (default: all)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", type=Path, metavar="FILE", help="renew the table between the markers of this page")
    where.add_argument("--check", type=Path, metavar="FILE", help="exit 1 if that table is not current")
    options = parser.parse_args(arguments)
    table = matrix(_declared(options.adapter or ["all"]))
    page: Path | None = options.write or options.check
    if page is None:
        sys.stdout.write(table + "\n")
        return 0
    try:
        text = page.read_text(encoding="utf-8")
        wanted = renewed(text, table)
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"{page}: {exc}\n")
        return 2
    if wanted == text:
        return 0
    if options.check is not None:
        sys.stderr.write(
            f"{page}: the capability matrix is not current: python -m anybroker_contract.matrix --write {page}\n"
        )
        return 1
    page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
