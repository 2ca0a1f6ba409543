"""What pytest's reports say about a test of a suite: passed, failed, not applicable, ledgered, or skipped."""

from __future__ import annotations

import pytest

from ._outcomes import Verdict

__all__ = ["LEDGERED", "NOT_APPLICABLE", "reason_of", "status_of", "verdict_of"]

NOT_APPLICABLE = "not applicable: "
LEDGERED = "ledgered: "


def verdict_of(report: pytest.TestReport) -> tuple[Verdict | None, str]:
    """What one report says about the test; None: nothing yet."""
    if report.failed:
        return "failed", str(report.longrepr).strip().rpartition("\n")[2]
    if report.skipped:
        reason = reason_of(report)
        if reason.startswith(NOT_APPLICABLE):
            return "not applicable", reason.removeprefix(NOT_APPLICABLE)
        if reason.startswith(LEDGERED):
            return "ledgered", reason.removeprefix(LEDGERED)
        return "skipped", reason
    return ("passed", "") if report.when == "call" else (None, "")


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Leave tests that a capability excludes out of the list of skips: nobody has to read them."""
    if report.outcome == "skipped" and reason_of(report).startswith(NOT_APPLICABLE):
        return "not applicable", "", "N/A"
    return None


def reason_of(report: pytest.TestReport) -> str:
    """Why it was skipped."""
    longrepr = report.longrepr
    text = getattr(report, "wasxfail", None) or (longrepr[2] if isinstance(longrepr, tuple) else "")
    return str(text).removeprefix("reason: ").removeprefix("Skipped: ")
