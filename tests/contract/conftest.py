"""Running the suite in a separate process, as a third party does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).with_name("third_party")
SUITE = Path(__file__).parents[2] / "contract_tests"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def suite(tmp_path: Path) -> Run:
    """``suite("--adapter", …)``: the documented command, in an empty folder, without what the outer pytest set."""

    def run(*arguments: str, seconds: float = 50.0) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "ANYBROKER_"))}
        environ["PYTHONPATH"] = os.pathsep.join([str(THIRD_PARTY), str(SUITE)])
        return subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "anybroker_contract.plugin", "-p", "no:cacheprovider"),
                *("--pyargs", "anybroker_contract", "--color=no", *arguments),
            ],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    return run
