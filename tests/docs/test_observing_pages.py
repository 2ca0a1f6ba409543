"""The pages for the person on call: their Python snippets run, and every logger is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTPUT = {"observing": "", "health": "True False ('the Bus is new',)\n"}


@pytest.mark.parametrize("name", OUTPUT)
def test_the_snippet_runs_without_a_warning(name: str, own_folder: Path) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ran = subprocess.run([sys.executable, "-W", "error", "-c", snippet], capture_output=True, text=True, timeout=50)
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", OUTPUT[name])


def test_every_logger_is_named() -> None:
    files = [path for folder in ("src", "adapters") for path in (ROOT / folder).rglob("*.py")]
    made = {name for path in files for name in re.findall(r'logger\("anybroker(\.\w+)"\)', path.read_text("utf-8"))}
    page = (ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    assert ".handler" in made
    assert [name for name in sorted(made) if f"anybroker{name}`" not in page and f"`{name}`" not in page] == []
