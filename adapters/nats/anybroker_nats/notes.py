"""Handler starts that a clean leave must not forget: a message is given back as it was, with no room for a count.

A note is an empty message in the topic's stream whose subject says it all,
``<topic>.@.<group>.~.<sequence>.<starts>``, so that one request tells all notes. No consumer gets them, and they are
gone a day later. Losing a note makes attempts start again, no more.
"""

from __future__ import annotations

from typing import Final

from .link import Link
from .names import note_subject, stream_name

__all__ = ["note", "read_notes"]

_HEADERS: Final = b"NATS/1.0\r\nNats-TTL: 86400\r\n\r\n"
"""Seconds until the server removes the note."""


def note(subject: str, sequence: int, starts: int) -> tuple[bytes, bytes]:
    """The command that stores a note, in two parts: the place for the answer goes between them."""
    size = len(_HEADERS)
    return f"HPUB {subject}.{sequence}.{starts}".encode(), b" %d %d\r\n%b\r\n" % (size, size, _HEADERS)


async def read_notes(link: Link, topic: str, group: str) -> dict[int, int]:
    """All that the notes of a group say: handler starts by stream sequence. Usually there are none."""
    subject = note_subject(topic, group)
    info = await link.api(f"STREAM.INFO.{stream_name(topic)}", {"subjects_filter": f"{subject}.>"})
    starts: dict[int, int] = {}
    for noted in info["state"].get("subjects") or {}:
        sequence, _, count = noted.removeprefix(f"{subject}.").partition(".")
        if _is_number(sequence, 19) and _is_number(count, 9):  # whoever may publish to the topic may write here, too
            starts[int(sequence)] = max(int(count), starts.get(int(sequence), 0))
    return starts


def _is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= digits
