"""The waits of every retry: bounded, whatever the factor and however many tries there were."""

from __future__ import annotations

from typing import Any

import pytest

from anybroker import Bus, ConfigError
from anybroker.engine.backoff import Backoff
from anybroker.middleware import retry
from anybroker.testing import settled


@pytest.mark.parametrize("factor", [1.0, 2.0, 3, 1e6, 1e300, 10**30])
@pytest.mark.parametrize("tries", [1, 2, 53, 61, 1_000, 10**9])
def test_no_wait_is_over_the_cap(monkeypatch: pytest.MonkeyPatch, factor: float, tries: int) -> None:
    monkeypatch.setattr("anybroker.engine.backoff.random", lambda: 1.0)
    wait = Backoff(first=0.1, cap=30.0, factor=factor).wait(tries)
    if factor == 1 or tries == 1:
        assert wait == 0.1
    assert 0.1 <= wait <= 30.0
    if factor > 1 and tries > 50:
        assert wait == 30.0


def test_no_first_wait_is_no_wait_ever() -> None:
    assert Backoff(first=0.0, cap=30.0, factor=1e6).wait(1_000) == 0.0


def test_a_large_factor_goes_through_all_its_attempts(bus: Bus, run: Any) -> None:
    starts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @retry(attempts=60, first=1e-9, cap=0.0001, factor=1e6)
    async def charge(number: int) -> None:
        starts.append(number)
        raise OSError("no")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="number.v1")
            await settled(bus)
            (letter,) = await bus.dead_letters("orders", "billing").list(1)
            assert (letter.reason, letter.attempts) == ("OSError: no", 60)

    run(main())
    assert len(starts) == 60


def test_an_infinite_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retry\(factor=\): inf is not a factor"):
        retry(factor=float("inf"))
