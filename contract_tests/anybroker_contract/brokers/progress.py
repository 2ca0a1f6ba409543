"""Progress on stderr: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

__all__ = ["progress"]


@contextlib.contextmanager
def progress(names: Sequence[str]) -> Iterator[Callable[[str, str], None]]:
    """Give a ``say(name, text)`` that may be called from several threads until the block ends."""
    table = _table(names) if sys.stderr.isatty() else None
    if table is None:
        yield _line
        return
    with table as say:
        yield say


def _line(name: str, text: str) -> None:
    sys.stderr.write(f"{name}: {text}\n")
    sys.stderr.flush()


def _table(names: Sequence[str]) -> contextlib.AbstractContextManager[Callable[[str, str], None]] | None:
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.table import Table
    except ImportError:
        return None

    latest = dict.fromkeys(names, "waiting")
    begun = time.monotonic()
    lock = threading.Lock()

    def render() -> Table:
        table = Table.grid(padding=(0, 2))
        with lock:
            for name, text in latest.items():
                table.add_row(Spinner("dots"), name, text, f"{time.monotonic() - begun:.0f} s")
        return table

    @contextlib.contextmanager
    def live() -> Iterator[Callable[[str, str], None]]:
        with Live(get_renderable=render, console=Console(stderr=True), transient=True, refresh_per_second=8):

            def say(name: str, text: str) -> None:
                with lock:
                    latest[name] = text

            yield say

    return live()
