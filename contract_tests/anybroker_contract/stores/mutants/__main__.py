"""``python -m anybroker_contract.stores.mutants``: run the suite of stores against broken ones, and print what finds
which."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from ...mutants.finding import Finding, find
from .._stores import STORES
from .catalogue import MUTANTS

__all__ = ["main"]

SUITE = Path(__file__).parents[1]


def applying(store: str) -> Iterable[str]:
    """The names of the broken stores that this one can be broken into."""
    (harness,) = STORES.find([store]).values()
    return [name for name, mutant in MUTANTS.items() if mutant.applies(harness())]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    command = "anybroker_contract.stores.mutants"
    return find(Finding(command, "store", "anybroker_contract.stores", SUITE, MUTANTS, applying), arguments)


if __name__ == "__main__":
    sys.exit(main())
