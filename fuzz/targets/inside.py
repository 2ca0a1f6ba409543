"""What the core reads besides events: notes of positions, counts, traces, URLs, settings."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anybroker.adapter import Foreign, count_of
from anybroker.config import load_settings, parse_url
from anybroker.deadletters import reason_of
from anybroker.engine.context import caused, incoming
from anybroker.engine.ledger import NOTE_LIMIT, LaneLedger, parse_note
from anybroker.errors import ConfigError, InvalidEvent, Reject
from anybroker.event import Event
from anybroker.kit.start_notes import parse_starts

from .. import seeds
from ..messages import split, text
from ..registry import target


@target("ledger-note", lambda: seeds.lines("positions"))
def ledger_note(data: bytes) -> object:
    """The note of a committed position, which any client that may commit for the group can write"""
    note = text(data)
    parse_note(note)
    ledger = LaneLedger(note)
    for position in range(1195, 1215):
        starts = ledger.receive(position)
        assert -1 <= starts < 10**9
        if starts >= 0 and position % 3:
            ledger.finish(position)
        own = ledger.note()
        assert len(own) <= NOTE_LIMIT
        assert own.isascii()
    return ledger


@target("start-note", lambda: seeds.lines("notes"))
def start_note(data: bytes) -> object:
    """A note of handler starts, where other programs can write too"""
    starts = parse_starts(data) or {}
    assert all(type(name) is str and type(count) is int and count_of(count) == count for name, count in starts.items())
    return starts


@target("count", lambda: seeds.lines("counts"))
def count(data: bytes) -> object:
    """A count in a header"""
    found = count_of(text(data))
    assert 0 <= found < 10**9
    return found


@target("trace", seeds.traces)
def trace(data: bytes) -> object:
    """W3C trace headers of a delivery, and what an event that it causes inherits"""
    fields, body = split(data)
    headers = {name.decode("utf-8", "replace").lower(): text(value or b"") for name, value in fields}
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **headers}
    try:
        event = Event({**attributes, "correlationid": text(body or b"")})
    except InvalidEvent:
        event = Event({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"})
    for each in (event, Foreign(b"")):
        delivery: Any = SimpleNamespace(headers=headers, event=each, topic="orders", group="g")
        carrier = incoming(delivery)
        assert carrier.keys() <= {"traceparent", "tracestate", "baggage"}
        assert all(value.isprintable() for value in carrier.values())
        extensions: dict[str, Any] = {}
        beside: dict[str, str] = {}
        caused(delivery, extensions, beside)
        assert len(str(extensions)) + len(str(beside)) < 20_000
    return carrier, extensions


@target("reason", lambda: seeds.lines("reasons"))
def reason(data: bytes) -> object:
    """The text of an exception, as a dead letter has it"""
    for error in (Reject(text(data)), ValueError(text(data))):
        said = reason_of(error)
        assert said.isprintable()
        assert len(said.encode()) <= 1024
    return said


@target("url", lambda: seeds.lines("urls"))
def url(data: bytes) -> object:
    """A broker's URL"""
    try:
        found = parse_url(text(data))
    except ConfigError as exc:
        return str(exc)
    assert str(found)
    assert repr(found)
    return found


@target("settings", lambda: seeds.lines("settings"))
def settings(data: bytes) -> object:
    """anybroker.toml"""
    global _file
    _file = _file or Path(tempfile.mkdtemp(prefix="anybroker-fuzz-"), "anybroker.toml")
    _file.write_bytes(data)
    os.environ["ANYBROKER_CONFIG"] = str(_file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return load_settings({})
    except ConfigError as exc:
        return str(exc)
    finally:
        del os.environ["ANYBROKER_CONFIG"]


_file: Path | None = None
