"""Values of a hypothesis strategy as a list, for tests that keep one Bus and one topic for all of them."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

__all__ = ["generated"]

_T = TypeVar("_T")


def generated(strategy: st.SearchStrategy[_T], count: int) -> list[_T]:
    """This many values, the same ones in each run. A failure names its value: nothing is shrunk."""
    found: list[_T] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(strategy)
    def collect(value: _T) -> None:
        found.append(value)

    collect()
    return found
