"""A commit's metadata: the note, and which topic the position belongs to."""

from __future__ import annotations

__all__ = ["mark", "unmark"]

_MARK = "t="


def mark(note: str, identity: str) -> str:
    """A commit's metadata: the note, and which topic the position is of."""
    return f"{_MARK}{identity};{note}" if identity else note


def unmark(metadata: str) -> tuple[str, str]:
    """The identity (empty: not said) and the note of :func:`mark`."""
    if metadata.startswith(_MARK):
        identity, _, note = metadata[len(_MARK) :].partition(";")
        return identity, note
    return "", metadata
