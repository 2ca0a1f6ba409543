"""``anybroker dlq edit``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..cloudevents.event import Event
from ..deadletters.edit import event_of, is_json_event, with_body, with_fields
from ..deadletters.letter import DeadLetter
from ..errors import ConfigError
from ._connect import outside
from ._dead_letters import FIND, chosen, queue_of, tell_missing
from ._output import write, write_json

__all__ = ["edit"]


def edit(options: argparse.Namespace) -> int:
    """Correct the data of one dead letter, and replay it."""
    limit: int = options.limit or FIND
    letter, missing = asyncio.run(_find(options, limit))
    if letter is None:
        return tell_missing(missing, limit)
    event = _edited(options, event_of(letter))
    if event.body == letter.event.body:
        write("unchanged: nothing is sent")
        return 0
    if options.dry_run:
        write(f"would be replayed with these data: {letter.id}")
        write(_text(event))
        return 0
    done = asyncio.run(_send(options, letter, event, limit))
    if options.json:
        write_json({"edited": [] if done is None else [letter.id], "missing": [letter.id] if done is None else []})
    else:
        write(f"edited and replayed: {0 if done is None else 1}")
    return tell_missing([letter.id] if done is None else [], limit)


async def _find(options: argparse.Namespace, limit: int) -> tuple[DeadLetter | None, list[str]]:
    async with outside(options, "reading") as (bus, _):
        letters = await queue_of(bus, options).list(limit)
    found, missing = chosen(options, letters)
    if len(found) > 1:
        raise ConfigError(
            "ID", f"names {len(found)} dead letters", "Name one by its fingerprint, which begins with '#'."
        )
    return next((letter for letter in letters if letter.fingerprint in found), None), missing


async def _send(options: argparse.Namespace, letter: DeadLetter, event: Event[Any], limit: int) -> DeadLetter | None:
    async with outside(options, "edited") as (bus, _):
        return await queue_of(bus, options).edit(letter, event, limit)


def _edited(options: argparse.Namespace, event: Event[Any]) -> Event[Any]:
    if options.data is not None and options.set:
        raise ConfigError("--data", "and --set are both given", "Give one of them.")
    if options.set:
        return with_fields(event, options.set)
    return with_body(event, _given(options.data) if options.data is not None else _in_editor(event))


def _given(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as exc:
        raise ConfigError(
            "--data", f"{text[1:]} cannot be read: {exc.strerror}", "Name a file, or - for stdin."
        ) from None


def _in_editor(event: Event[Any]) -> bytes:
    """What the user makes of it. The file is the user's alone, and removed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise ConfigError("EDITOR", "is not set, and neither --data nor --set is given", "Set it, or use one of them.")
    before = _text(event)
    with TemporaryDirectory(prefix="anybroker-") as folder:
        path = Path(folder, "data.json" if is_json_event(event) else "data.txt")
        path.write_bytes(before.encode())
        ended = subprocess.run([*shlex.split(editor), str(path)], check=False)
        if ended.returncode:
            raise ConfigError("EDITOR", f"{editor} ended with {ended.returncode}", "Nothing was changed. Try again.")
        after = path.read_bytes()
    return event.body or b"" if after.decode("utf-8", "replace") == before else after


def _text(event: Event[Any]) -> str:
    """The data, for people. ConfigError for bytes that are not text."""
    try:
        text = (event.body or b"").decode()
    except UnicodeDecodeError:
        raise ConfigError("--data", "is needed: the event's data are not text", "Give --data @file.") from None
    if is_json_event(event):
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
        except (ValueError, RecursionError):
            pass  # that may be what is wrong with it
    return text
