"""What one input may take: CPU time, peak memory, and memory that is kept."""

from __future__ import annotations

import gc
import signal
import sys
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ["KEPT", "SECONDS", "Broken", "TooSlow", "check", "where"]

SECONDS = 1.0
"""Most CPU time. Linear work on a few kilobytes takes some milliseconds while coverage is counted."""
KEPT = 50
"""Bytes that may be held for each byte of the input, besides :data:`_SLACK`."""
_SLACK = 128 * 1024
"""Bytes that the memories of recurring names and values may grow by: a dict of a thousand doubles."""
_PEAK = 500
"""Peak bytes for each byte of the input, besides :data:`_PEAK_SLACK`: JSON as Python values takes up to 64."""
_PEAK_SLACK = 2 * 1024 * 1024


class TooSlow(BaseException):
    """Over :data:`SECONDS`. Not an Exception, so that nothing catches it on the way."""


class Broken(AssertionError):
    """A memory limit was exceeded."""


def _ring(_: int, __: FrameType | None) -> None:
    raise TooSlow(f"over {SECONDS} s of CPU time")


def check(run: Callable[[bytes], object], data: bytes, measured: bool) -> None:
    """Run it once. Raises whatever it raises, TooSlow, or Broken where ``measured``; from the main thread."""
    before: Any = signal.signal(signal.SIGVTALRM, _ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS * (3 if measured else 1))
    try:
        if measured:
            _measure(run, data)
        else:
            run(data)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _measure(run: Callable[[bytes], object], data: bytes) -> None:
    run(data)  # what is learned once is not held for this input
    collecting = gc.isenabled()
    gc.disable()  # what only the collector finds is kept
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = run(data)
        held, peak = (each - before for each in tracemalloc.get_traced_memory())
        del kept
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        if collecting:
            gc.enable()
    size = len(data)
    if held > KEPT * size + _SLACK:
        raise Broken(f"{held} bytes are held for an input of {size}")
    if left > _SLACK:
        raise Broken(f"{left} bytes stay after everything of an input of {size} was dropped")
    if peak > _PEAK * size + _PEAK_SLACK:
        raise Broken(f"{peak} bytes were needed for an input of {size}")


@dataclass(frozen=True)
class Place:
    """Identifies a fault: two inputs with the same place are the same fault."""

    error: str
    at: str


def where(error: BaseException) -> Place:
    """What was raised, and the innermost place in our code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/anybroker" in frame.filename.replace("\\", "/")]
    shown = ours[-1:] or [frame for frame in frames if "/targets/" in frame.filename][-2:] or list(frames)[-1:]
    at = []
    for frame in shown:
        line = "" if isinstance(error, TooSlow) else f":{frame.lineno}"
        at.append(f"{'/'.join(frame.filename.replace(chr(92), '/').split('/')[-2:])}{line} {frame.name}")
    return Place(type(error).__name__, ", ".join(at) or "?")


if sys.platform == "win32":  # pragma: no cover - it has no such timer
    raise ImportError("fuzzing needs setitimer")
