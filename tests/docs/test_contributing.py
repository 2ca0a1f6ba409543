"""The commands of "Write an adapter in a day" do what they say on the worked example."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Write an adapter in a day")[2]
COMMANDS = re.findall(r"^ *(pytest .*)$", SECTION.partition("\n## ")[0], re.MULTILINE)
STEPS = [command for command in COMMANDS if " -k " in command]


def test_there_are_steps() -> None:
    assert len(STEPS) == 3
    assert len(COMMANDS) == 4  # the last runs everything: tests/contract/test_third_party.py does it


@pytest.mark.timeout(150)
@pytest.mark.parametrize("command", STEPS)
def test_a_step_passes_on_the_worked_example(command: str) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ANYBROKER_"))}
    places = (str(ROOT / "contract_tests"), str(ROOT / "tests" / "contract" / "third_party"))
    ran = subprocess.run(
        [sys.executable, "-m", *shlex.split(command), "-q", "-n", "2", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=140,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    passed = re.search(r"^acme: (\d+) passed", ran.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= 3
