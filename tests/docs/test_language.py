"""The worst patterns do not come back: they read as a translation, and a plainer word exists for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "adapters", "docs", "contract_tests", "fuzz", "examples", "benchmarks")
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "contract_tests/README.md")
GENERATED = ("docs/contract.md", "docs/hostile.md")  # tables, written from the contract suite's own texts
PATTERNS = {
    "fix, not mend": re.compile(r"\bmend(s|ed|ing)?\b", re.IGNORECASE),
    "anyone who, not whoever": re.compile(r"\bwho(m)?ever\b", re.IGNORECASE),
    "is not a ..., not is no ...": re.compile(
        r"(?<!there )(?<!There )\b(is|are|was|were) no (?!(longer|more|less|later|worse|better|larger|earlier)\b)\w+"
    ),
}


def texts() -> Iterator[Path]:
    for folder in FOLDERS:
        for kind in ("*.py", "*.md"):
            yield from (ROOT / folder).rglob(kind)
    yield from (ROOT / page for page in PAGES)


CHECKED = sorted(
    path for path in texts() if not path.relative_to(ROOT).as_posix().startswith((*GENERATED, "docs/_build/"))
)


@pytest.mark.parametrize("rule", PATTERNS)
def test_plain_english(rule: str) -> None:
    assert len(CHECKED) > 100
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in CHECKED
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PATTERNS[rule].search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("fix, not mend", "say how to mend it", "recommended amendments"),
        ("anyone who, not whoever", "whoever may write", "anyone who may write"),
        ("is not a ..., not is no ...", "0 is no number of seconds", "there is no file; it is no longer open"),
    ],
)
def test_a_pattern_finds_what_it_forbids(rule: str, bad: str, good: str) -> None:
    assert PATTERNS[rule].search(bad)
    assert not PATTERNS[rule].search(good)
