"""Every Python snippet of the guide runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
OUTPUT = [
    "{'id': 'o-1'}\n",
    "Oslo application/vnd.acme.deflated\n",
    "alive\n",
    "charge handled None\n",
    "orders billing 0 0.0\norders billing 0\n",
    "charged o-1\n",
]


def test_each_snippet_has_its_output() -> None:
    assert len(SNIPPETS) == len(OUTPUT)


@pytest.mark.parametrize("number", range(len(OUTPUT)))
def test_snippet_runs_without_a_warning(number: int, tmp_path: Path) -> None:
    program = tmp_path / f"snippet_{number}.py"
    program.write_text(SNIPPETS[number], encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=50
    )
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", OUTPUT[number])
