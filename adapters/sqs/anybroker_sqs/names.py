"""What topics, groups and keys are called in SQS and SNS.

A dot, which AWS does not take, is an underscore; two of them separate, which no topic's or group's name can have. Of 80
characters a dead-letter topic with the longest names takes all.
"""

from __future__ import annotations

import re
from hashlib import blake2b

__all__ = [
    "DEAD_LETTERS",
    "HASHED",
    "message_group",
    "names_of",
    "notes_name",
    "queue_name",
    "redrive_name",
    "topic_name",
]

DEAD_LETTERS = "dlq"
"""The group of every topic for dead letters (see ``Topology``)."""

HASHED = "#"
"""Begins message groups that are not the key itself."""

_LEGAL = re.compile(r"""[A-Za-z0-9!"$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z0-9!-/:-@\[-`{-~]{0,127}""")
"""What AWS takes as MessageGroupId, and does not begin with ``HASHED``."""


def _plain(name: str) -> str:
    return name.replace(".", "_")


def topic_name(topic: str, fifo: bool) -> str:
    """The SNS topic."""
    return _plain(topic) + (".fifo" if fifo else "")


def queue_name(topic: str, group: str, fifo: bool) -> str:
    """The group's SQS queue."""
    return f"{_plain(topic)}__{_plain(group)}" + (".fifo" if fifo else "")


def names_of(queue: str) -> tuple[str, str] | None:
    """The topic and the group of a queue; None for a queue that is no group's."""
    topic, separator, group = queue.removesuffix(".fifo").partition("__")
    if not (topic and separator and group) or "__" in group or group.startswith("-"):
        return None
    return topic.replace("_", "."), group.replace("_", ".")


def notes_name(topic: str, group: str) -> str:
    """The queue that keeps the attempts of what a leaving member gave back."""
    return f"{_plain(topic)}__{_plain(group)}__notes"


def redrive_name(topic: str, fifo: bool) -> str:
    """The queue for what SNS cannot deliver, and for what SQS handed over 1,000 times."""
    return f"{_plain(topic)}__-redrive" + (".fifo" if fifo else "")


def message_group(key: str) -> str:
    """The MessageGroupId of an ordering key: itself, or a hash where AWS does not take it."""
    if _LEGAL.fullmatch(key) is not None:
        return key
    return HASHED + blake2b(key.encode(), digest_size=16).hexdigest()
