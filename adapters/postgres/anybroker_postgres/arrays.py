"""Batches as arrays: one parameter for each column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["array", "columns"]


def array(values: Iterable[object]) -> str:
    """An array of what needs no quotes (numbers, hashes), as PostgreSQL writes it."""
    return f"{{{','.join(map(str, values))}}}"


def columns(rows: Sequence[tuple[str, int, str]]) -> tuple[str, str, list[str]]:
    """Hashes, fencing numbers and owners."""
    return array(row[0] for row in rows), array(row[1] for row in rows), [row[2] for row in rows]
