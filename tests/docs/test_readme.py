"""Every Python snippet of the README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 3


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs_without_a_warning(number: int, tmp_path: Path) -> None:
    program = tmp_path / f"snippet_{number}.py"
    program.write_text(SNIPPETS[number], encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    logged = (" ", "orders/billing: ", "Traceback")  # a handler that fails on purpose says so, its traceback indented
    other = [line for line in ran.stderr.splitlines() if not line.startswith(logged)]
    assert (ran.returncode, other) == (0, [])


def test_the_five_lines_do_what_they_say(tmp_path: Path) -> None:
    program = tmp_path / "five.py"
    program.write_text(SNIPPETS[0], encoding="utf-8")
    ran = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert ran.stdout == "charging c-7: 999 cents\n"


def test_every_linked_file_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
