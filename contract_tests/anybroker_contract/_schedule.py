"""With pytest-xdist: the tests of an adapter that need a separate broker go to one worker; all others go to any worker.

Not with xdist's own ``loadgroup``: the mark does not reach its scheduler under pytest 9.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["ALONE", "SECURED", "make_scheduler", "scope_of"]

ALONE = "@alone"
"""Follows the adapter's name in the id of a test that disturbs the broker."""

SECURED = "@secured"
"""The same for a test on the adapter's broker with TLS and credentials, which only one worker then starts."""

_TOGETHER = re.compile(rf"[\w.]+({ALONE}|{SECURED})")


def scope_of(nodeid: str) -> str:
    """The scope of this test, which stays together: all tests on the same separate broker."""
    found = _TOGETHER.search(nodeid)
    return found[0] if found else nodeid


def make_scheduler(config: Any, log: Any) -> Any:
    """A scheduler that keeps scopes together."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped, unused-ignore]

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc, unused-ignore] # xdist is there when this is called
        def _split_scope(self, nodeid: str) -> str:  # the one method that its subclasses are made by
            return scope_of(nodeid)

    return Scheduling(config, log)
