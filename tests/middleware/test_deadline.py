"""Events that are of use until a moment only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anybroker import Bus, ConfigError, Delivery, Event, MemoryBroker, Retry
from anybroker.middleware import Uncounted, dead_letter, deadline, retry
from anybroker.testing import settled

PAST = {"expirytime": "2020-01-01T00:00:00Z"}
FUTURE = {"expirytime": "9999-01-01T00:00:00Z"}


def subscribed(bus: Bus, failure: Exception | None, *decorators: Any) -> list[int]:
    """A handler that fails with this each time; the attempts that it saw."""
    attempts: list[int] = []

    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if failure is not None:
            raise failure

    for decorator in reversed(decorators):
        charge = decorator(charge)
    bus.subscribe("orders", group="billing", name="charge")(charge)
    return attempts


def test_what_has_expired_is_dead_lettered_unstarted(bus: Bus, run: Any, handled: Any) -> None:
    seen = subscribed(bus, None, deadline())
    (letter,) = run(handled(bus, 1, extensions=PAST))
    assert seen == []
    assert (letter.attempts, letter.reason, letter.handler) == (
        0,
        "ExpiredError: the event expired at 2020-01-01T00:00:00Z",
        "charge",
    )
    stats = bus.subscriptions[0].stats
    assert (stats.dead_lettered, stats.expired, stats.acked) == (1, 0, 1)


def test_what_has_expired_is_dead_lettered_where_failures_are_not(bus: Bus, run: Any, handled: Any) -> None:
    seen = subscribed(bus, None, dead_letter(enabled=False), deadline())
    (letter,) = run(handled(bus, 1, extensions=PAST))
    assert seen == []
    assert letter.attempts == 0


def test_what_has_expired_is_skipped_counted_and_logged_once(
    bus: Bus, run: Any, handled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen = subscribed(bus, None, deadline(expired="skip"))
    assert run(handled(bus, 1, 2, 3, extensions=PAST)) == []
    assert seen == []
    stats = bus.subscriptions[0].stats
    assert (stats.dead_lettered, stats.expired, stats.acked) == (0, 3, 3)
    (line,) = [each.getMessage() for each in caplog.records if "is skipped" in each.getMessage()]
    assert line.startswith("orders/billing: ")
    assert "is skipped: the event expired at 2020-01-01T00:00:00Z (1 times since" in line


@pytest.mark.parametrize(
    "extensions", [None, FUTURE, {"expirytime": "yesterday"}, {"expirytime": "2020-01-01T00:00:00"}]
)
def test_everything_else_is_handled(bus: Bus, run: Any, handled: Any, extensions: Any) -> None:
    seen = subscribed(bus, None, deadline(expired="skip"))
    assert run(handled(bus, 1, extensions=extensions)) == []
    assert seen == [1]


@pytest.mark.parametrize("expired", ["dead_letter", "skip"])
def test_a_wait_beyond_the_deadline_is_not_made(bus: Bus, run: Any, handled: Any, expired: Any) -> None:
    seen = subscribed(bus, OSError("no"), deadline(expired=expired), retry(delays=120))
    letters = run(handled(bus, 1, expires_in=60))
    assert seen == [1]
    if expired == "skip":
        assert letters == []
        assert bus.subscriptions[0].stats.expired == 1
        return
    (letter,) = letters
    assert letter.attempts == 1
    assert letter.reason.startswith("ExpiredError: the event expires at 2")
    assert letter.reason.endswith(", before its next start in 120.0 s")
    assert "<- builtins.OSError: no" in letter.error


def test_a_wait_that_ends_before_it_is_made(bus: Bus, run: Any, handled: Any) -> None:
    seen = subscribed(bus, OSError("no"), deadline(), retry(3, delays=0.01))
    (letter,) = run(handled(bus, 1, expires_in=600))
    assert seen == [1, 2, 3]
    assert letter.reason == "OSError: no"


def test_what_is_put_off_is_looked_at_when_it_starts_again(bus: Bus, run: Any, handled: Any) -> None:
    attempts: list[int] = []

    @bus.subscribe("orders", group="billing")
    @deadline(expired="skip")
    async def charge(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        raise Uncounted(0.15, "the store is away")

    assert run(handled(bus, 1, expires_in=0.1)) == []
    assert attempts == [1]
    stats = bus.subscriptions[0].stats
    assert (stats.postponed, stats.expired) == (1, 1)


def test_an_event_that_expires_is_published(run: Any) -> None:
    bus = Bus(MemoryBroker(), source="shop", topics={"orders": {"groups": ["billing"]}})
    seen: list[Event[Any]] = []

    @bus.subscribe("orders", group="billing")
    async def charge(event: Event[Any]) -> None:
        seen.append(event)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1", expires_in=90)
            await bus.topic("orders").publish(2, type="order.v1", expires_in=0.5)
            await settled(bus)

    before = datetime.now(UTC)
    run(main())
    after = datetime.now(UTC)
    moments = [datetime.fromisoformat(str(event["expirytime"])) for event in seen]
    assert before + timedelta(seconds=90) <= moments[0] <= after + timedelta(seconds=90)
    assert before + timedelta(seconds=0.5) <= moments[1] <= after + timedelta(seconds=0.5)


def test_a_second_run_of_a_handler_gives_the_same_id_to_what_expires(run: Any) -> None:
    """The moment is another one then, as the time is."""
    bus = Bus(MemoryBroker(), source="shop", topics={"mails": {"groups": ["sending"]}})
    ids: list[str] = []

    @bus.subscribe("orders", group="billing")
    @retry(2, delays=0.01)
    async def charge(delivery: Delivery) -> None:
        receipt = await bus.publish("mails", "paid", type="mail.v1", expires_in=60)
        assert receipt.event is not None
        ids.append(receipt.event.id)
        if delivery.attempt == 1:
            raise Retry

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 1, type="order.v1")
            await settled(bus)

    run(main())
    assert len(ids) == 2
    assert len(set(ids)) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"expires_in": 0}, "publish(expires_in=): 0 is not a time. Use a number of seconds over 0."),
        ({"expires_in": float("nan")}, "publish(expires_in=): nan is not a time"),
        ({"expires_in": True}, "publish(expires_in=): True is not a time"),
        ({"expires_in": 1e12}, "publish(expires_in=): 1000000000000.0 s end after the year 9999"),
        ({"expires_in": 1, "extensions": FUTURE}, "publish(expires_in=): is given, and expirytime in extensions too"),
    ],
)
def test_wrong_times(bus: Bus, run: Any, arguments: Any, text: str) -> None:
    async def main() -> None:
        async with bus:
            with pytest.raises(ConfigError) as caught:
                await bus.publish("orders", 1, type="order.v1", **arguments)
            assert text in str(caught.value)

    run(main())


def test_an_event_of_the_callers_own_is_not_changed(bus: Bus, run: Any) -> None:
    event = Event.create(1, type="order.v1", source="shop")

    async def main() -> None:
        async with bus:
            with pytest.raises(ConfigError, match=r"publish\(expires_in=\): is given with an Event"):
                await bus.publish("orders", event, expires_in=5)

    run(main())
    assert "expirytime" not in event.attributes


def test_an_unknown_setting() -> None:
    with pytest.raises(ConfigError, match=r"deadline\(expired=\): 'drop' is not known. Use 'dead_letter' or 'skip'."):
        deadline(expired="drop")  # type: ignore[arg-type]
