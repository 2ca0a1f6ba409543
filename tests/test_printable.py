"""What comes from outside steers no terminal, and passes for no line of a log."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anybroker import printable as module
from anybroker.printable import brief, logger, printable, printable_lines

ROOT = Path(__file__).parents[1]

CONTROLS = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0))))
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = "\u00ad\u200b\u200d\u2060\ufeff\U000e0041"
SEPARATORS = "\u00a0\u2028\u2029\u3000"
SURROGATES = "\ud800\udfff"


@pytest.mark.parametrize("text", [CONTROLS, BIDI, INVISIBLE, SEPARATORS, SURROGATES])
def test_every_character_shows(text: str) -> None:
    shown = printable(f"a{text}z")
    assert shown.isprintable()
    assert (shown[0], shown[-1]) == ("a", "z")
    shown.encode()  # can be written


def test_every_character_there_is() -> None:
    shown = printable("".join(map(chr, range(0x110000))))
    assert shown.isprintable()
    shown.encode()


def test_nothing_that_matters_is_lost() -> None:
    assert printable("\x1b[2J\x9b1m\u202etxt.exe\x00") == r"\x1b[2J\x9b1m\u202etxt.exe\x00"
    assert printable("one\r\n\ttwo\u2028three") == "one   two three"
    assert printable("Grüße, 世界 🙂 [red]") == "Grüße, 世界 🙂 [red]"
    assert printable(ValueError("\x9b")) == r"\x9b"


def test_done_twice_it_is_the_same() -> None:
    once = printable(CONTROLS + BIDI)
    assert printable(once) == once


def test_no_line_but_the_first_begins_at_the_margin() -> None:
    assert printable_lines("one\ntwo\rthree\x85four\u2028\x9bfive") == "one\n  two\n  three\n  four\n  \\x9bfive"


def test_an_object_whose_text_cannot_be_made() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert printable(Broken()) == "(its text cannot be made: ZeroDivisionError)"


# ----------------------------------------------------------------------------------------------------------- logs


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger of the library, and what a handler writes that knows nothing of ours."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log = logger("anybroker.test_printable")
    log.propagate = False
    log.addHandler(handler)
    yield log, written
    log.removeHandler(handler)


EVIL = "\x9b2J\u202e\nERROR forged"


def test_a_log_line_is_one_line_and_printable(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger("anybroker.test_printable")  # again: nothing is done twice
    log[0].error("%s %r %s %d %.1f %s", EVIL, EVIL, ValueError(EVIL), 3, 0.5, [EVIL])
    log[0].error("%(name)s", {"name": EVIL})
    lines = log[1].getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    shown = r"\x9b2J\u202e ERROR forged"
    quoted = r"'\x9b2J\u202e\nERROR forged'"
    assert lines[0] == f"ERROR {shown} {quoted} {shown} 3 0.5 [{quoted}]"
    assert lines[1] == f"ERROR {shown}"


def test_a_traceback_passes_for_no_other_record(log: tuple[logging.Logger, io.StringIO]) -> None:
    try:
        raise ValueError(EVIL) from KeyError(EVIL)
    except ValueError:
        log[0].exception("it failed")
    lines = log[1].getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if not line.startswith(" ")] == ["ERROR it failed", lines[1]]
    assert "  ERROR forged" in lines


def test_a_name_of_a_megabyte_does_not_fill_the_disk(log: tuple[logging.Logger, io.StringIO]) -> None:
    log[0].error("%s %r %s", "n" * 1_000_000, "n" * 1_000_000, ValueError("n" * 1_000_000))
    assert len(log[1].getvalue()) < 3 * 4096 + 100


def test_all_of_the_library_logs_that_way() -> None:
    """Every module makes its logger with ``printable.logger``, and passes text from outside as arguments."""
    wrong = []
    for folder in ("src", "adapters"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name == "printable.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                called = ast.unparse(node.func)
                first = node.args[0] if node.args else None
                if called == "logging.getLogger" and isinstance(first, ast.Constant) and "anybroker" in first.value:
                    wrong.append(f"{path}:{node.lineno}: a logger of its own")
                if called.startswith("_log.") and not isinstance(first, ast.Constant):
                    wrong.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert wrong == []


class Breaks(logging.Handler):
    """A handler of the program that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on the device")


@pytest.mark.parametrize("where", ["handler", "filter of a handler", "filter of the logger"])
def test_a_log_call_never_fails(capsys: pytest.CaptureFixture[str], where: str) -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise OSError("no space left on the device")

    log = logger("anybroker.test")
    handler = Breaks() if where == "handler" else logging.StreamHandler(io.StringIO())
    if where == "filter of a handler":
        handler.addFilter(refuse)
    log.addHandler(handler)
    if where == "filter of the logger":
        log.addFilter(refuse)
    try:
        log.warning("the broker of %s is away", "orders")
    finally:
        log.removeHandler(handler)
        log.removeFilter(refuse)
    told = capsys.readouterr().err
    assert "no space left on the device" in told
    assert "the broker of %s is away" in told


def test_the_facts_of_a_record_may_have_names_that_the_programs_factory_sets() -> None:
    records: list[logging.LogRecord] = []
    log = logger("anybroker.test")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign] # nothing is written
    plain = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.trace_id, record.request = "-", "r-1"
        return record

    log.addHandler(handler)
    logging.setLogRecordFactory(factory)
    try:
        log.warning("it failed", extra={"trace_id": "t-1", "topic": "orders"})
        log.warning("it failed")
    finally:
        logging.setLogRecordFactory(plain)
        log.removeHandler(handler)
    facts = [(each.__dict__["trace_id"], each.__dict__["request"], each.__dict__.get("topic")) for each in records]
    assert facts == [("t-1", "r-1", "orders"), ("-", "r-1", None)]
    assert records[0].funcName == "test_the_facts_of_a_record_may_have_names_that_the_programs_factory_sets"


def test_a_brief_text_is_made_of_the_beginning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    plain = module.printable

    def counted(text: object) -> str:
        lengths.append(len(str(text)))
        return plain(text)

    monkeypatch.setattr(module, "printable", counted)
    assert brief("a\n" * 5_000_000, 5) == "a a a…"
    assert brief("a\nb", 5) == "a b"
    assert max(lengths) == 5
