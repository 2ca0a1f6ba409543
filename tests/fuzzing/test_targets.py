"""The short tier of ``make fuzz``: a few hundred messages for each target, the same ones each time."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from fuzz.bounds import check
from fuzz.mutate import TOKENS
from fuzz.registry import Target, all_targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TARGETS = all_targets()
EXAMPLES = 300

_edits = st.lists(
    st.tuples(st.integers(0, 4096), st.integers(0, 8), st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4))),
    max_size=4,
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is said of odd messages is not looked at."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def edited(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    data = bytearray(seed)
    for at, gone, new in edits:
        at %= len(data) + 1
        data[at : at + gone] = new
    return bytes(data)


def messages(target: Target) -> st.SearchStrategy[bytes]:
    seeds = list(dict.fromkeys(target.seeds()))
    return st.one_of(st.builds(edited, st.sampled_from(seeds), _edits), st.binary(max_size=80))


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_outcomes(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=messages(target))
    def one(data: bytes) -> None:
        check(target.run, data, measured=False)

    one()


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.measured])
def test_no_seed_needs_or_keeps_much_memory(name: str) -> None:
    target = TARGETS[name]
    for seed in dict.fromkeys(target.seeds()):
        check(target.run, seed, measured=True)
