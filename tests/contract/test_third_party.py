"""The documented command runs the suite on an adapter that is not of these packages."""

from __future__ import annotations

import re

import pytest

from .conftest import Run


@pytest.mark.timeout(200)
def test_an_adapter_of_somebody_else_passes_the_suite(suite: Run) -> None:
    ran = suite("--adapter", "acme.testing:AcmeBroker", "-n", "2", seconds=180)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert "acme: a log in this process" in ran.stdout
    summary = re.search(r"^acme: (\d+) passed, (\d+) not applicable \((.*)\)", ran.stdout, re.MULTILINE)
    assert summary is not None
    assert int(summary[1]) >= 100
    assert "absent: delay" in summary[3]
    assert "skipped" not in ran.stdout
