"""Dead letters as they are read back, and as the command line shows them."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import redirect_stdout
from typing import Any

from anybroker.adapter import Foreign, Inbound, Lane
from anybroker.cli._dead_letters import _end, _facts, _show, _whole
from anybroker.cli._output import table, write_json
from anybroker.cloudevents import HeaderBinding
from anybroker.deadletters import DeadLetter
from anybroker.errors import InvalidEvent
from anybroker.event import Event

from .. import seeds
from ..messages import split
from ..registry import target

_BINDING = HeaderBinding(bytes, prefix="ce_")
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 except the line feed, DEL, C1, and what changes the direction of text."""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _letter(data: bytes) -> DeadLetter:
    headers, body = split(data)
    named = [(name.decode("utf-8", "backslashreplace"), value) for name, value in headers]
    event: Event[Any] | Foreign
    try:
        event = _BINDING.parse(named, body)
    except InvalidEvent as exc:
        event = Foreign(body, named, None, exc)
    extra = {name.lower(): value.decode("utf-8", "replace") for name, value in named if value is not None}
    inbound = Inbound(event, Lane("orders.g.dlq/0", 1), 7, event.key, extra, None)
    return DeadLetter.read(inbound, "orders", "g")


@target("dead-letter", seeds.dead_letters)
def dead_letter(data: bytes) -> object:
    """A dead letter, and the headers of its replay"""
    letter = _letter(data)
    assert isinstance(letter.id, str)
    assert repr(letter)
    assert 0 <= letter.replays < 10**9
    assert 0 <= letter.attempts < 10**9
    assert 0 <= letter.pid < 10**10
    assert len(letter.history) <= 5
    for attempt in letter.history:
        assert attempt.error.isprintable()
        assert len(attempt.error.encode()) <= 200
    back = letter.replay_headers()
    assert not [name for name in back if name.startswith("anybroker-dead-")]
    assert back["anybroker-replays"] == str(letter.replays + 1)
    return letter


def _check(said: str) -> None:
    said.encode()
    found = _STEERING.search(said)
    assert found is None, f"U+{ord(found[0]):04X} is written to the terminal"


@target("cli-list", seeds.dead_letters)
def cli_list(data: bytes) -> object:
    """anybroker dlq list, on a terminal: nothing that controls it"""
    letter = _letter(data)
    os.environ["TERM"] = "dumb"  # rich's own colours are not a fault
    out = _Terminal()
    with redirect_stdout(out):
        facts = _facts(letter)
        table(("id", "type", "attempts", "died", "reason"), [(facts["id"], facts["type"] or "", *_end(facts))])
    _check(out.getvalue())
    return None


@target("cli-show", seeds.dead_letters)
def cli_show(data: bytes) -> object:
    """anybroker dlq show, on a terminal: nothing that controls it"""
    letter = _letter(data)
    out = _Terminal()
    with redirect_stdout(out):
        _show(_whole(letter))
    _check(out.getvalue())
    return None


@target("cli-json", seeds.dead_letters)
def cli_json(data: bytes) -> object:
    """The same with --json: one document, and nothing that controls a terminal"""
    letter = _letter(data)
    out = _Terminal()
    with redirect_stdout(out):
        write_json([_whole(letter), _facts(letter)])
    whole, _ = json.loads(out.getvalue())
    assert whole["reason"] == letter.reason
    _check(out.getvalue())
    return None
