"""``python -m anybroker_contract.mutants``: run the suite against broken adapters, and print which tests find which."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from .._adapters import find_harnesses
from .._skips import SUITE
from .catalogue import MUTANTS
from .finding import Finding, find

__all__ = ["main"]


def applying(adapter: str) -> Iterable[str]:
    """The names of the broken adapters that this one can be broken into."""
    (harness,) = find_harnesses([adapter]).values()
    capabilities = harness().capabilities()
    return [name for name, mutant in MUTANTS.items() if mutant.applies(capabilities)]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    finding = Finding("anybroker_contract.mutants", "adapter", "anybroker_contract", SUITE, MUTANTS, applying)
    return find(finding, arguments)


if __name__ == "__main__":
    sys.exit(main())
