"""``python -m anybroker_contract.outboxes.mutants``: run the suite of outboxes against broken ones, and print what
finds which."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ...mutants.finding import Finding, find
from .._outboxes import OUTBOXES
from .catalogue import MUTANTS

__all__ = ["main"]

SUITE = Path(__file__).parents[1]


def applying(outbox: str) -> Iterable[str]:
    """The names of the broken outboxes that this one can be broken into."""
    (harness,) = OUTBOXES.find([outbox]).values()
    return [name for name, mutant in MUTANTS.items() if mutant.applies(harness())]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    command = "anybroker_contract.outboxes.mutants"
    return find(Finding(command, "outbox", "anybroker_contract.outboxes", SUITE, MUTANTS, applying), arguments)


if __name__ == "__main__":
    sys.exit(main())
