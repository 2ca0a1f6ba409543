"""Handler starts that a clean leave must not forget: a message is given back as it was, with no room for a count.

A note is an empty message in the topic's stream whose subject says everything,
``<topic>.@.<group>.~.<sequence>.<starts>``, so that one request reads all notes. No consumer gets them, and they are
deleted a day later. Losing a note makes attempts start again, no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from anybroker.adapter import count_of, number_of

from .answers import Answers
from .link import Link
from .names import note_subject, stream_name

__all__ = ["read_notes", "write_notes"]

_HEADERS: Final = b"NATS/1.0\r\nNats-TTL: 86400\r\n\r\n"
"""Seconds until the server removes the note."""
_END: Final = b" %d %d\r\n%b\r\n" % (len(_HEADERS), len(_HEADERS), _HEADERS)
"""Of the command that stores a note: the place for the answer comes before it."""
_DIGITS: Final = 20
"""Those of the highest stream sequence, of 64 bits."""


async def write_notes(answers: Answers, topic: str, group: str, starts: Mapping[int, int]) -> None:
    """Note how often handlers were started, by stream sequence, for the member that gets the events next."""
    subject = note_subject(topic, group)
    await answers.ask([(f"HPUB {subject}.{sequence}.{count}".encode(), _END) for sequence, count in starts.items()])


async def read_notes(link: Link, topic: str, group: str) -> dict[int, int]:
    """What the notes of a group say: handler starts by stream sequence. Usually there are none."""
    subject = note_subject(topic, group)
    info = await link.api(f"STREAM.INFO.{stream_name(topic)}", {"subjects_filter": f"{subject}.>"})
    starts: dict[int, int] = {}
    for noted in info["state"].get("subjects") or {}:
        digits, _, count = noted.removeprefix(f"{subject}.").partition(".")
        # Anyone who may publish to the topic may write here, too.
        if (sequence := number_of(digits, _DIGITS)) is not None and (noted := count_of(count)):
            starts[sequence] = max(noted, starts.get(sequence, 0))
    return starts
