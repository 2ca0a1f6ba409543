"""The checked-in ledger of tests that an adapter is excused from, and the check that it is not stale."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["SUITE", "Ledger", "Row", "known_tests", "read_ledger"]

SUITE = Path(__file__).parent
OWN = SUITE / "ledger.toml"


@dataclass(frozen=True)
class Row:
    """One test that one adapter, or one store, does not pass yet, and why."""

    name: str
    """Of the adapter or the store."""
    test: str
    """``test_order.py::test_…``; with parameters, all of them."""
    reason: str


Ledger = dict[tuple[str, str], Row]


def read_ledger(paths: Iterable[Path], *, of: str = "adapter", suite: Path = SUITE) -> Ledger:
    """All rows. UsageError for a file or a row that cannot be read, or a row that names no test of the suite.

    ``of`` is what a row is about, and ``suite`` the folder of the tests."""
    known = known_tests(suite)
    ledger: Ledger = {}
    for path in paths:
        try:
            rows = tomllib.loads(path.read_text(encoding="utf-8")).get("skip", [])
            for entry in rows:
                row = Row(entry[of], entry["test"], entry["reason"])
                if row.test not in known:
                    raise pytest.UsageError(f"{path.name}: stale row, there is no test {row.test!r}")
                if not row.reason.strip():
                    raise pytest.UsageError(f"{path.name}: the row of {row.name} × {row.test} gives no reason")
                ledger[row.name, row.test] = row
        except (OSError, tomllib.TOMLDecodeError, KeyError) as exc:
            raise pytest.UsageError(f"ledger {path}: {exc!r}") from exc
    return ledger


def known_tests(suite: Path = SUITE) -> dict[str, str]:
    """Every test of the suite as ``file::function`` with the promise in its docstring, read without importing."""
    found: dict[str, str] = {}
    for path in sorted(suite.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = " ".join(
                    (ast.get_docstring(node) or "").partition("\n\n")[0].split()
                )
    return found
