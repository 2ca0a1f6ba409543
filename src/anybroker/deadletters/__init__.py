"""Dead letters: the headers of one, and how they are counted, listed, shown, replayed and discarded."""

from __future__ import annotations

from ..names import DEAD_LETTER_GROUP, dead_letter_topic
from .archive import Archived, read_line
from .filters import LetterFilter
from .letter import DeadLetter, reason_of
from .queue import DeadLetterQueue
from .tally import LetterReason, LetterStats

__all__ = [
    "DEAD_LETTER_GROUP",
    "Archived",
    "DeadLetter",
    "DeadLetterQueue",
    "LetterFilter",
    "LetterReason",
    "LetterStats",
    "dead_letter_topic",
    "read_line",
    "reason_of",
]
