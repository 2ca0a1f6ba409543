"""The traceback in a dead letter: printable lines, cut from the middle to what there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os.path import dirname, join
from traceback import StackSummary, TracebackException, walk_tb
from typing import Final

from ..engine.failures import titled
from ..errors import AnybrokerError
from ..printable import in_one_line, printable

__all__ = ["Stack", "stack_of"]

_OWN: Final = join(dirname(dirname(__file__)), "")
_FRAMES: Final = 1_000
"""Most frames of one exception, the innermost: a service may allow itself a deeper recursion."""
_MOST: Final = 100
"""Most exceptions of one traceback: a group may have thousands."""
_LONGEST: Final = 512
"""Most UTF-8 bytes of a line, or the text of an exception could leave no room for its frames."""
_BREAK: Final = len(in_one_line("\n"))


class Stack:
    """A formatted traceback. :meth:`within` makes the text of a header from it, each time from the whole."""

    __slots__ = ("_lines", "_size")

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines(keepends=True)
        self._size = _bytes_of(text)

    def within(self, limit: int) -> str:
        """In one line of at most ``limit`` UTF-8 bytes: whole, or its first and its last lines with one between them
        that says how many bytes of UTF-8 are left out. Empty where not even the last line fits."""
        lines = self._lines
        head, _ = _first(lines, limit + _BREAK)
        if len(head) == len(lines):
            return _joined(head)
        room = limit - len(_left_out(self._size).encode())  # as long as it gets
        head, size = _first(lines, room // 2)
        tail, _ = _first(reversed(lines), room - size)
        if not tail:
            return ""
        kept = _bytes_of("".join([*lines[: len(head)], *lines[-len(tail) :]]))
        return _joined([*head, _left_out(self._size - kept), *reversed(tail)])


def stack_of(error: BaseException) -> Stack | None:
    """Its traceback and those of its causes, without the frames of the library that they begin with. None where they
    say no more than its text: it was never raised, or it is an error of the library that the library itself raised."""
    try:
        if _are_many(error):
            return Stack(_alone(error))
        whole = TracebackException.from_exception(error, limit=-_FRAMES, compact=True)
        outside = [_begin_outside(each) for each in _all(whole)]
        if not any(outside) and (isinstance(error, AnybrokerError) or not whole.stack):
            return None
        return Stack("".join(whole.format()))
    except Exception as exc:  # noqa: BLE001 - it is the user's class
        return Stack(f"(its traceback cannot be made: {type(exc).__name__})")


def _are_many(error: BaseException) -> bool:
    """Whether its causes and the members of groups are more than can be formatted in a moment."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left and len(seen) <= _MOST:
        if (each := left.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            left += (each.__cause__, each.__context__)
            if isinstance(each, BaseExceptionGroup):
                left += each.exceptions
    return len(seen) > _MOST


def _alone(error: BaseException) -> str:
    frames = StackSummary.extract(walk_tb(error.__traceback__), limit=-_FRAMES)
    return (
        f"Traceback (most recent call last):\n{''.join(frames.format())}{titled(error)}\n"
        f"(more than {_MOST} causes, or members of a group, are left out)"
    )


def _all(whole: TracebackException) -> Iterator[TracebackException]:
    """It, its causes, and the members of groups."""
    left = [whole]
    while left:
        each = left.pop()
        yield each
        left += [other for other in (each.__cause__, each.__context__, *(each.exceptions or ())) if other is not None]


def _begin_outside(traceback: TracebackException) -> bool:
    """Take away the frames of the library that it begins with, if others follow. Returns whether any do."""
    stack = traceback.stack
    first = next((at for at, frame in enumerate(stack) if not frame.filename.startswith(_OWN)), None)
    if first is not None:
        del stack[:first]
    return first is not None


def _first(lines: Iterable[str], room: int) -> tuple[list[str], int]:
    """The first of these lines that take at most ``room`` bytes with a break after each; and what they take."""
    taken: list[str] = []
    size = 0
    for line in lines:
        shown = _shown(line.splitlines()[0])
        more = len(in_one_line(shown).encode()) + _BREAK
        if size + more > room:
            break
        taken.append(shown)
        size += more
    return taken, size


def _shown(line: str) -> str:
    """Printable, and cut from the middle if it is long."""
    half = _LONGEST // 2
    if len(line) <= _LONGEST and len((shown := printable(line)).encode()) <= _LONGEST:
        return shown
    first = printable(line[:half]).encode()[: half - 5]
    last = printable(line[-half:]).encode()[-half:]
    return f"{first.decode('utf-8', 'ignore')} … {last.decode('utf-8', 'ignore')}"


def _left_out(size: int) -> str:
    return f"… {size} bytes are left out here …"


def _bytes_of(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _joined(lines: Iterable[str]) -> str:
    return in_one_line("\n".join(lines))
