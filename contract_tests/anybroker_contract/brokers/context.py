"""What every source gets to start a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .errors import Cancelled

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """One broker's start: its name, a place for progress, the environment, and whether to give up."""

    name: str
    say: Callable[[str], None] = lambda _: None
    """Progress for a person, in one line; called from the thread that starts this broker."""
    environ: Mapping[str, str] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise ``Cancelled`` when the start is being given up."""
        if self.cancelled.is_set():
            raise Cancelled

    def setting(self, what: str) -> str | None:
        """The value of ``ANYBROKER_TEST_<NAME>_<WHAT>``, or ``None`` when unset or empty."""
        return self.environ.get(f"ANYBROKER_TEST_{self.name.upper()}_{what}") or None
