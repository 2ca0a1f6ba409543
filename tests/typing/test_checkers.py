"""mypy and pyright accept ``accepted.py``, and refuse the lines that are marked in ``refused.py``, and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = [str(HERE.relative_to(ROOT) / name) for name in ("accepted.py", "refused.py")]
Errors = dict[tuple[str, int], set[str]]
"""The codes of the errors, by file and line."""


def expected(side: int) -> Errors:
    """What the marks say: 0 for mypy, 1 for pyright."""
    errors: Errors = {}
    for number, line in enumerate((HERE / "refused.py").read_text(encoding="utf-8").splitlines(), 1):
        mark = re.search(r"  # E: (.*)$", line)
        if mark and (codes := mark[1].split("|")[side].strip()):
            errors["refused.py", number] = set(codes.split(", "))
    return errors


def run(checker: str, *arguments: str) -> str:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: make env installs it, other environments have the tests' tools only")
    command = [sys.executable, "-m", checker, *arguments, *FILES]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.timeout(300)
def test_mypy() -> None:
    found: Errors = {}
    for line in run("mypy", "--no-error-summary", "--hide-error-context", "--no-pretty").splitlines():
        if error := re.fullmatch(r"(.*?):(\d+): error: .*\[([a-z-]+)\]", line):
            found.setdefault((Path(error[1]).name, int(error[2])), set()).add(error[3])
    assert found == expected(0)


@pytest.mark.timeout(300)
def test_pyright() -> None:
    found: Errors = {}
    for error in json.loads(run("pyright", "--outputjson"))["generalDiagnostics"]:
        place = Path(error["file"]).name, error["range"]["start"]["line"] + 1
        found.setdefault(place, set()).add(error["rule"])
    assert found == expected(1)
