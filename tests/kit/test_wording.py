"""What other libraries' exceptions say, in our errors."""

from __future__ import annotations

import pytest

from anybroker.kit.wording import said


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (ValueError("it failed."), "it failed"),
        (ValueError("one line\n  and another. "), "one line and another"),
        (ValueError(), "ValueError"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
        (TimeoutError(" ... "), "TimeoutError"),
    ],
)
def test_one_line_that_is_never_empty(exc: Exception, text: str) -> None:
    assert said(exc) == text
