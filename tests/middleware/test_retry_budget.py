"""How many retries a budget lets through, and how much longer the others wait."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, MemoryBroker, Retry
from anybroker.middleware import Layer, Uncounted, deadline, retry, retry_budget
from anybroker.stats import SubscriptionStats
from anybroker.testing import settled


class Storm:
    """Starts on a clock of its own. What fails is to start again at once."""

    def __init__(self, budget: retry_budget, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(sys.modules[retry_budget.__module__], "monotonic", lambda: self.now)
        self.stats = SubscriptionStats()
        self.failure: Exception | None = None
        chain: Any = SimpleNamespace(topic="orders", group="billing", stats=self.stats)
        self._handle = budget.bind(self._inner, chain)

    async def _inner(self, delivery: Delivery) -> None:
        if self.failure is not None:
            raise self.failure

    def start(self, failure: Exception | None = None) -> float | None:
        """The wait after it; None where nothing failed."""
        self.failure = failure
        delivery: Any = None
        try:
            asyncio.run(self._handle(delivery))  # type: ignore[arg-type] # the layer's is a coroutine
        except Retry as exc:
            return exc.after
        return None

    def fail(self, times: int, after: float = 0.0) -> list[float]:
        """The waits of as many starts at this moment."""
        waits = [self.start(Retry(after)) for _ in range(times)]
        return [wait for wait in waits if wait is not None]


def test_within_the_budget_no_wait_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(retry_budget(0.0, floor=10.0), monkeypatch)
    assert storm.fail(10, after=3.0) == [3.0] * 10
    storm.now += 1
    assert storm.fail(10, after=3.0) == [3.0] * 10
    assert storm.stats.retries_slowed == 0


def test_over_it_each_takes_its_turn_behind_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(retry_budget(0.0, floor=10.0), monkeypatch)
    assert storm.fail(30) == pytest.approx([0.0] * 10 + [0.1 * number for number in range(1, 21)])
    storm.now += 1
    assert storm.fail(2) == pytest.approx([1.1, 1.2])
    assert storm.stats.retries_slowed == 22
    storm.now += 60
    assert storm.fail(1) == [0.0]


def test_a_share_of_the_starts_is_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds 1,000 starts: 200 retries, 20 a second, beside the floor's one a second."""
    storm = Storm(retry_budget(0.2, floor=1.0, over=10.0), monkeypatch)
    storm.fail(1)
    for _ in range(10):
        storm.now += 1
        for _ in range(100):
            storm.start()
    waits = storm.fail(40)
    assert waits[:20] == [0.0] * 20
    assert waits[39] == pytest.approx(19 / 21, rel=0.1)


def test_starts_of_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(retry_budget(0.5, floor=1.0, over=10.0), monkeypatch)
    storm.fail(1)
    for _ in range(10_000):
        storm.start()
    storm.now += 5
    assert storm.fail(100) == [0.0] * 100
    storm.now += 3_600
    storm.fail(1)
    storm.now += 11
    assert storm.fail(3)[1:] != [0.0, 0.0]


def test_no_wait_is_longer_by_more_than_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(retry_budget(0.0, floor=1.0, longest=5.0), monkeypatch)
    waits = storm.fail(50, after=2.0)
    assert max(waits) == waits[-1] == 7.0
    storm.now += 6.1
    assert storm.fail(1, after=2.0) == [2.0]


def test_what_is_put_off_is_no_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(retry_budget(0.0, floor=0.1), monkeypatch)
    assert [storm.start(Uncounted(1.0, "the store is away")) for _ in range(20)] == [1.0] * 20
    assert storm.stats.retries_slowed == 0


def test_a_flood_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    storm = Storm(retry_budget(0.0, floor=1.0), monkeypatch)
    storm.fail(100)
    (record,) = caplog.records
    assert record.getMessage() == (
        "orders/billing: retries are over their budget (0 % of the starts and 1 a second) and wait longer, this one by "
        "1.0 s (1 times since this was said last)"
    )


def test_one_budget_of_a_bus_is_shared_by_its_handlers(run: Any) -> None:
    budget = retry_budget(0.0, floor=1000.0)
    bus = Bus(MemoryBroker(), source="shop", middleware=[budget, retry(2, delays=0)])
    for group in ("billing", "audit"):

        @bus.subscribe("orders", group=group)
        async def handle(number: int) -> None:
            raise OSError("no")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)

    run(main())
    assert budget._starts == 4


def test_it_stands_outside_of_what_looks_at_the_wait() -> None:
    """``deadline`` sees the wait as it was, so that no event dies sooner because of the budget."""
    bus = Bus(MemoryBroker(), source="shop", middleware=[retry_budget(), deadline()])

    @bus.subscribe("orders", group="billing")
    async def handle(number: int) -> None:
        """Nothing."""

    (subscription,) = bus.subscriptions
    kinds = [item.kind for item in subscription.arranged(subscription.handlers[0]) if isinstance(item, Layer)]
    assert kinds == ["trace", "dead_letter", "retry_budget", "deadline", "retry"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"share": 1.0}, "retry_budget(share=): 1.0 is not a part. Use 0 or more, and less than 1."),
        ({"share": -0.1}, "retry_budget(share=): -0.1 is not a part"),
        ({"floor": 0}, "retry_budget(floor=): 0 is not a rate. Use more than 0 retries a second."),
        ({"over": float("inf")}, "retry_budget(over=): inf is not a time. Use seconds over 0."),
        ({"longest": 0}, "retry_budget(longest=): 0 is not a time"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        retry_budget(**arguments)
    assert text in str(caught.value)
