"""The session on the page about dead letters is what the commands write."""

from __future__ import annotations

import pytest
from tests.docs.dead_letters import PAGE, replaced, written


@pytest.mark.filterwarnings("default")
def test_the_session_is_current() -> None:
    page = PAGE.read_text()
    assert replaced(page, written()) == page, "python -m tests.docs.dead_letters writes it anew"
