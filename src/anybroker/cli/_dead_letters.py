"""``anybroker dlq``."""

from __future__ import annotations

import argparse
import asyncio
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..adapter import Foreign
from ..bus import Bus
from ..cloudevents.attributes import canonical
from ..deadletters.filters import LetterFilter
from ..deadletters.letter import DeadLetter, ambiguous
from ..deadletters.queue import DeadLetterQueue
from ..deadletters.tally import LetterStats
from ..errors import ConfigError, EventError
from ..printable import printable
from ._connect import outside
from ._output import say, table, write, write_json

__all__ = [
    "FIND",
    "chosen",
    "discard",
    "list_",
    "only_of",
    "queue_of",
    "replay",
    "show",
    "stats",
    "tell_missing",
]

_LIST = 100
_STATS = 100_000
FIND = 10_000
"""Dead letters that are looked at to find some."""
_SHOWN = 10
"""Most ids in one message."""
_LINES = (
    *("id", "fingerprint", "topic", "group", "handler", "reason", "reason_fingerprint", "error", "attempts", "died"),
    *("replays", "edited"),
    *("host", "version", "pid"),
)
"""What a dead letter shows in one line each."""
_LONG = ("anybroker-dead-traceback", "anybroker-dead-history")
"""Headers that are shown line by line, and not again among the headers."""


def queue_of(bus: Bus, options: argparse.Namespace) -> DeadLetterQueue:
    """The dead letters of the group that the command names."""
    queue: DeadLetterQueue = bus.dead_letters(options.topic, options.group)
    queue.patience = options.patience
    queue.who = getattr(options, "as_", None) or queue.who
    return queue


def only_of(options: argparse.Namespace) -> LetterFilter:
    """What the filters say. Raises ConfigError that names the option."""
    given = {name: getattr(options, name) for name in ("reason", "type", "key", "handler", "since", "until")}
    try:
        return LetterFilter(**given, where=tuple(options.where or ()))
    except ConfigError as exc:
        raise ConfigError(f"--{exc.setting}", exc.problem, exc.remedy) from None


async def _read(options: argparse.Namespace, limit: int) -> Sequence[DeadLetter]:
    only = only_of(options)
    async with outside(options, "reading") as (bus, _):
        return await queue_of(bus, options).list(limit, only=only)


def _limit(options: argparse.Namespace) -> int:
    """How many are looked at: all that can be, where only some are meant."""
    named = bool(getattr(options, "ids", None)) or bool(only_of(options).given)
    limit: int = options.limit or (FIND if named else _LIST)
    return limit


def list_(options: argparse.Namespace) -> int:
    """Ids, types, reasons, attempts, times; as JSON with tracebacks; no data."""
    limit = _limit(options)
    letters = asyncio.run(_read(options, limit))
    if options.json:
        write_json([_facts(letter) for letter in letters])
    elif not letters:
        say(f"{options.topic}/{options.group}: no dead letters")
    else:
        rows = [(item["id"], _type(item["type"]), item["key"] or "", *_end(item)) for item in map(_facts, letters)]
        table(("id", "type", "key", "attempts", "died", "reason"), rows)
    _more(letters, limit)
    return 0


def _end(facts: dict[str, Any]) -> tuple[object, object, str]:
    return facts["attempts"], facts["died"], _short(facts["reason"])


def _short(reason: str) -> str:
    shown = printable(reason)
    return shown if len(shown) <= 100 else f"{shown[:99]}…"


def _type(name: str | None) -> str:
    return name or "(not a CloudEvent)"


def stats(options: argparse.Namespace) -> int:
    """Count them by what they died of."""
    limit = options.limit or _STATS
    only = only_of(options)

    async def count() -> LetterStats:
        async with outside(options, "counting") as (bus, _):
            return await queue_of(bus, options).stats(limit, only=only)

    counted = asyncio.run(count())
    if options.json:
        write_json(asdict(counted))
    elif not counted.total:
        say(f"{options.topic}/{options.group}: no dead letters")
    else:
        rows = [
            (
                *(each.count, each.first, each.last, _types(each.types), each.handler),
                *(each.fingerprint, each.example, _short(each.pattern)),
            )
            for each in counted.reasons
        ]
        table(("count", "first", "last", "type", "handler", "reason", "example", "what"), rows)
        reasons = len(counted.reasons)
        write(f"{counted.total} dead letters of {reasons} {'reason' if reasons == 1 else 'reasons'}")
    if counted.more:
        say("anybroker: there may be more than were looked at: raise --limit")
    return 0


def _types(types: Mapping[str, int]) -> str:
    names = [_type(name) for name in sorted(types, key=lambda name: (-types[name], name))]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _facts(letter: DeadLetter) -> dict[str, Any]:
    event = None if isinstance(letter.event, Foreign) else letter.event
    return {
        "id": letter.id,
        "fingerprint": letter.fingerprint,
        "source": event and event.source,
        "type": event and event.type,
        "key": letter.key,
        "reason_fingerprint": letter.reason_fingerprint,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "died": letter.died,
        "replays": letter.replays,
        "edited": letter.edited,
        "handler": letter.handler,
        "topic": letter.topic,
        "group": letter.group,
        "host": letter.host,
        "version": letter.version,
        "pid": letter.pid,
        "history": [{"number": each.number, "at": each.at, "error": each.error} for each in letter.history],
        "traceback": letter.traceback,
    }


def _whole(letter: DeadLetter) -> dict[str, Any]:
    """Everything, the data included."""
    event = letter.event
    if isinstance(event, Foreign):
        headers = {
            name: None if value is None else value.decode("utf-8", "backslashreplace") for name, value in event.headers
        }
        content = {"attributes": None, "foreign_headers": headers, **_body(event.body)}
    else:
        attributes = {
            name: value if isinstance(value, str | int | bool) else canonical(value)
            for name, value in event.attributes.items()
        }
        content = {"attributes": attributes, **_data(event)}
    return {**_facts(letter), "error": letter.error, "headers": dict(letter.headers), **content}


def _data(event: Any) -> dict[str, Any]:
    """The data as JSON or text if it is that, else base64."""
    try:
        data = event.data
        json.dumps(data)
    except (EventError, TypeError, ValueError):
        return _body(event.body)
    return {"data": data} if event.has_data else {}


def _body(body: bytes | None) -> dict[str, Any]:
    if body is None:
        return {}
    try:
        return {"data": body.decode()}
    except UnicodeDecodeError:
        return {"data_base64": b64encode(body).decode()}


def show(options: argparse.Namespace) -> int:
    """Show whole dead letters."""
    limit = _limit(options)
    letters = asyncio.run(_read(options, limit))
    missing: list[str] = []
    if options.ids:
        shown, missing = chosen(options, letters)
        letters = [letter for letter in letters if letter.fingerprint in shown]
    if options.json:
        write_json([_whole(letter) for letter in letters])
    else:
        for number, letter in enumerate(letters):
            if number:
                write()
            _show(_whole(letter))
        if not letters and not missing:
            say(f"{options.topic}/{options.group}: no dead letters")
    return tell_missing(missing, limit)


def _show(letter: dict[str, Any]) -> None:
    for name in _LINES:
        write(f"{name}: {letter[name]}")
    if letter["history"]:
        write("history:")
        for each in letter["history"]:
            write(f"  {each['number']} at {each['at']}: {each['error']}")
    if letter["traceback"]:
        write("traceback:")
        for line in letter["traceback"].splitlines():
            write(f"  {line}")
    for section in ("attributes", "headers", "foreign_headers"):
        if letter.get(section):
            write(f"{section}:")
            for name, value in letter[section].items():
                if name in _LONG and section == "headers":
                    continue
                write(f"  {name}: {'(null)' if value is None else value}")
    for name in ("data", "data_base64"):
        if name in letter:
            write(f"{name}:")
            text = letter[name]
            if name == "data" and not isinstance(text, str):
                text = json.dumps(text, indent=2, ensure_ascii=False)
            for line in text.splitlines() or [""]:
                write(f"  {line}")


def replay(options: argparse.Namespace) -> int:
    """Send dead letters back to the group that failed."""
    return asyncio.run(_take(options, "replayed"))


def discard(options: argparse.Namespace) -> int:
    """Drop dead letters for good."""
    return asyncio.run(_take(options, "discarded"))


async def _take(options: argparse.Namespace, done: str) -> int:
    only = only_of(options)
    ways = [bool(options.ids), options.all, bool(only.given)]
    if sum(ways) != 1:
        named = [way for way, given in zip(("ids", "--all", "a filter"), ways, strict=True) if given]
        problem = f"both {' and '.join(named)} are given" if named else "neither an id, a filter nor --all is given"
        raise ConfigError("ID", problem, "Name the dead letters, say what they have in common, or write --all.")
    limit = options.limit or FIND
    missing: list[str] = []
    stay: list[DeadLetter] = []
    letters: Sequence[DeadLetter] = ()
    rounds: int | None = getattr(options, "max_rounds", None)
    async with outside(options, done) as (bus, progress):
        queue = queue_of(bus, options)
        ids: dict[str, str] | None = None
        if options.ids or options.dry_run:  # all are looked up first: an ambiguous one stops the command
            found = await queue.list(limit, only=only)
            if options.ids:
                ids, missing = chosen(options, found)
                found = [letter for letter in found if letter.fingerprint in ids]
            if options.dry_run:
                stay = [letter for letter in found if rounds is not None and letter.replays >= rounds]
                letters = [letter for letter in found if rounds is None or letter.replays < rounds]
        if not options.dry_run and ids != {}:
            if done == "replayed":
                letters = await queue.replay(
                    ids,
                    limit,
                    only=only,
                    rate=options.rate,
                    max_rounds=rounds,
                    left=stay.append,
                    force=options.force,
                    progress=progress,
                )
            elif ids is None and not only.given:
                if every := await queue.list(limit):
                    letters = await queue.discard(every, limit, rate=options.rate, progress=progress)
            else:
                letters = await queue.discard(ids, limit, only=only, rate=options.rate, progress=progress)
            if ids is not None:
                there = {letter.fingerprint for letter in (*letters, *stay)}
                missing += sorted({id_ for fingerprint, id_ in ids.items() if fingerprint not in there})  # taken since
    _tell_done(options, f"would be {done}" if options.dry_run else done, letters, stay, missing)
    if options.all:
        _more([*letters, *stay], limit, "do it again, or ")
    return tell_missing(missing, limit)


def _tell_done(
    options: argparse.Namespace,
    done: str,
    letters: Sequence[DeadLetter],
    stay: Sequence[DeadLetter],
    missing: Sequence[str],
) -> None:
    if options.json:
        told = {done.replace(" ", "_"): [letter.id for letter in letters], "missing": missing}
        write_json(told | ({"left": [letter.id for letter in stay]} if stay else {}))
        return
    if options.dry_run and letters:
        rows = [(each.id, _type(each.type), each.key or "", each.replays, *_end(_facts(each))[1:]) for each in letters]
        table(("id", "type", "key", "replays", "died", "reason"), rows)
    write(f"{done}: {len(letters)}")
    if stay:
        write(f"left, because of --max-rounds {options.max_rounds}: {len(stay)}")


def chosen(options: argparse.Namespace, letters: Sequence[DeadLetter]) -> tuple[dict[str, str], list[str]]:
    """The selected letters by fingerprint, with their ids, and the names that select none. A letter is selected by its
    fingerprint, by its id, or by a prefix of either that no other letter has.

    Raises ConfigError for a name that selects several, and writes these as JSON if that is asked for.
    """
    by_id: dict[str, list[DeadLetter]] = {}
    by_fingerprint: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_id.setdefault(letter.id, []).append(letter)
        by_fingerprint.setdefault(letter.fingerprint, []).append(letter)
    chosen: dict[str, str] = {}
    missing: list[str] = []
    several: dict[str, list[str]] = {}
    same: dict[str, list[DeadLetter]] = {}
    for wanted in options.ids:
        matched = by_fingerprint.get(wanted) or by_id.get(wanted) or []
        if not matched and wanted:
            if wanted.startswith("#"):
                starts = [each for name, each in by_fingerprint.items() if name.startswith(wanted)]
                matched = starts[0] if len(starts) == 1 else []
            matches = [id_ for id_ in by_id if id_.startswith(wanted)]
            if len(matches) + bool(matched) > 1:
                several[wanted] = matches
                continue
            matched = matched or (by_id[matches[0]] if matches else [])
        if not matched:
            missing.append(wanted)
        elif len({letter.content for letter in matched}) > 1 and wanted not in by_fingerprint:
            same[wanted] = matched
        else:
            chosen |= {letter.fingerprint: letter.id for letter in matched}
    if several or same:
        if options.json:
            listed = {name: [letter.fingerprint for letter in matched] for name, matched in same.items()}
            write_json({"ambiguous": several | listed})
        if same:
            raise ambiguous("ID", *next(iter(same.items())))
        said = (
            f"{start!r} matches {len(ids)} ids: {', '.join(ids[:_SHOWN])}{', …' if len(ids) > _SHOWN else ''}"
            for start, ids in several.items()
        )
        raise ConfigError("ID", "; ".join(said), "Give more of it.")
    return chosen, missing


def tell_missing(missing: Sequence[str], limit: int) -> int:
    """Say which were not found; the exit code."""
    if not missing:
        return 0
    say(f"anybroker: not among the first {limit} dead letters: {', '.join(missing)}")
    return 1


def _more(letters: Sequence[DeadLetter], limit: int, remedy: str = "") -> None:
    if len(letters) >= limit:
        say(f"anybroker: there may be more than these {limit}: {remedy}raise --limit")
