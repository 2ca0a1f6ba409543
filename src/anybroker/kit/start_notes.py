"""Notes of handler starts, for brokers that give a message back as it was, without room for a count.

A member that gives messages back notes how often a handler was started with each, as JSON: a name for the message, and
the count. The member that is handed them next reads the notes. A lost note only makes attempts start again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic_core import from_json

from ..adapter import count_of

__all__ = ["format_starts", "parse_starts"]


def format_starts(starts: Mapping[str, int]) -> str:
    """The note that says this, in ASCII."""
    return json.dumps(dict(starts))


def parse_starts(note: str | bytes) -> dict[str, int] | None:
    """What a note says; None for what :func:`format_starts` never writes. Other programs may be able to write to the
    place where the notes are kept."""
    try:
        starts = from_json(note)
    except (ValueError, TypeError):
        return None
    if isinstance(starts, dict) and all(type(count) is int and count_of(count) for count in starts.values()):
        return starts
    return None
