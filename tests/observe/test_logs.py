"""What a Bus logs by default: what failed, with the facts to find it by, and nothing of what went well."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel
from tests.engine.scripted_adapter import ScriptedBroker

from anybroker import Bus, Delivery, Event, MemoryBroker, Retry
from anybroker.adapter import Foreign, Outbound
from anybroker.engine.facts import FIELDS
from anybroker.engine.observing import Observer, Observers
from anybroker.errors import Rejected, Unavailable
from anybroker.kit.client_logs import quiet
from anybroker.middleware import dead_letter, retry
from anybroker.observe import EventContext, JsonFormatter, add_event_context
from anybroker.observe.logs import LogObserver
from anybroker.testing import FaultyBroker, fail, settled

Run = Callable[..., Any]
Until = Callable[[Callable[[], object]], Coroutine[Any, Any, None]]


class Order(BaseModel):
    cents: int


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def _bus(broker: Any = None, *, attempts: int = 2, **options: Any) -> tuple[Bus, Any]:
    bus = Bus(broker or MemoryBroker(), source="shop")
    return bus, bus.subscription("orders", group="g", middleware=[retry(attempts=attempts, first=0.0)], **options)


async def _publish(bus: Bus, *events: Event[Any], headers: dict[str, str] | None = None) -> None:
    async with bus:
        for event in events:
            await bus.publish("orders", event, headers=headers)
        await settled(bus)


def _event(number: int = 1, type_: str = "t", **more: Any) -> Event[Any]:
    return Event.create("secret payload", type=type_, source="shop", id=f"e-{number}", key="secret key", **more)


def _said(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name in ("anybroker.handler", "anybroker.broker")]


def _about(record: Any) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in FIELDS)


async def broken(_: Event[str]) -> None:
    raise ValueError("no\nway")


def test_a_good_event_costs_nothing_and_says_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    mine = LogObserver(lambda topic, group: f"{topic}.{group}.dlq", lambda *_: ["t"])
    for method in ("started", "finished", "received", "published", "lag"):
        assert getattr(LogObserver, method) is getattr(Observer, method)
    assert Observers([mine]).of_starts() is None
    bus, subscription = _bus()

    async def handle(_: Event[str]) -> None: ...

    subscription.on(handle, type="t")
    with caplog.at_level(logging.DEBUG, "anybroker"):
        run(_publish(bus, _event()))
    assert _said(caplog) == []


def test_a_retry_and_a_dead_letter(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    event = _event(extensions={"correlationid": "c-1"})
    run(_publish(bus, event, headers={"traceparent": PARENT}))
    again, dead = _said(caplog)
    assert (again.levelname, dead.levelname) == ("WARNING", "ERROR")
    facts = ("e-1", "t", "shop", "orders", "g")
    assert _about(again) == (*facts, 1, PARENT[3:35], "c-1")
    assert _about(dead) == (*facts, 2, PARENT[3:35], "c-1")
    assert again.getMessage() == (
        "orders/g: the handler broken failed at attempt 1 of 2 and starts again in 0.0 s, with the event 'e-1' of type "
        "'t': ValueError: no way"
    )
    assert dead.getMessage() == (
        "orders/g: dead-lettered to orders.g.dlq after 2 attempts of the handler broken: the event 'e-1' of type 't': "
        "ValueError: no way"
    )
    assert again.exc_info is None
    assert "in broken" in dead.exc_text
    assert dead.exc_text.count("File ") == 1  # it begins in the handler, not in the library
    assert "secret" not in caplog.text


def test_where_the_number_of_attempts_is_not_known(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    starts = []

    @bus.subscribe("orders", group="g", type="t", middleware=[retry(attempts=9)])
    async def handle(_: Event[str]) -> None:
        starts.append(1)
        if len(starts) == 1:
            raise Retry(after=0.0, reason="not yet")

    run(_publish(bus, _event()))
    (again,) = _said(caplog)
    assert "attempt 1 of 9" in again.getMessage()
    assert again.getMessage().endswith("Retry: not yet")


def test_what_cannot_be_decoded_shows_no_data(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()

    async def handle(_: Order) -> None: ...

    subscription.on(handle, type="t")
    run(_publish(bus, _event()))
    (dead,) = _said(caplog)
    assert "DecodeError" in dead.getMessage()
    assert "secret" not in caplog.text + JsonFormatter().format(dead)


def test_an_unknown_type_is_said_once_and_counted(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    run(_publish(bus, *(_event(number, "typo") for number in range(5)), *(_event(9, "other") for _ in range(2))))
    typo, other, more = _said(caplog)
    assert {each.levelname for each in (typo, other, more)} == {"WARNING"}
    assert "no handler takes events of type 'typo', only 't': they" in typo.getMessage()
    assert "'other'" in other.getMessage()
    assert more.lines == 5
    assert "typo (4), other (1)" in more.getMessage()


def test_of_many_types_that_handlers_take_ten_are_named(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type=[f"t{number:02}" for number in range(12)])
    run(_publish(bus, _event(1, "typo")))
    (typo,) = _said(caplog)
    assert "only 't00', 't01'," in typo.getMessage()
    assert "'t09' and 2 more: they" in typo.getMessage()


def test_remembered_types_are_bounded(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    run(_publish(bus, *(_event(number, f"u{number}") for number in range(105))))
    *lines, more = _said(caplog)
    assert len(lines) == 100
    assert more.lines == 5
    assert "other types (5)" in more.getMessage()


def test_an_unknown_type_that_is_dead_lettered_is_said_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus(unhandled="dead_letter")
    subscription.on(broken, type="t")
    run(_publish(bus, _event(1, "typo")))
    (dead,) = _said(caplog)
    assert (dead.levelname, dead.exc_info) == ("ERROR", None)
    assert "after 0 attempts: " in dead.getMessage()


def test_what_is_stuck_says_so_with_its_traceback(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    letters: list[object] = []

    def first_two(outbound: Outbound) -> bool:
        letters.extend([outbound] if outbound.topic == "orders.g.dlq" else [])
        return outbound.topic == "orders.g.dlq" and len(letters) <= 2

    broker = FaultyBroker(MemoryBroker(), fail("publish", Rejected("full"), when=first_two))
    bus, subscription = _bus(broker, attempts=1)
    subscription.on(broken, type="t")
    run(_publish(bus, _event()))
    stuck = next(record for record in _said(caplog) if "neither finished nor dead-lettered" in record.getMessage())
    assert stuck.levelname == "ERROR"
    assert stuck.event_id == "e-1"
    assert "full" in stuck.exc_text


def test_a_flood_is_bounded_and_the_counts_are_not(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    run(_publish(bus, *(_event(number) for number in range(500))))
    said = _said(caplog)
    assert len(said) <= 24
    stats = bus.subscriptions[0].stats
    assert sum(getattr(each, "lines", 1) for each in said if each.levelname == "WARNING") == stats.retried == 500
    assert sum(getattr(each, "lines", 1) for each in said if each.levelname == "ERROR") == stats.dead_lettered == 500


def test_a_level_that_is_off_costs_nothing(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    with caplog.at_level(logging.CRITICAL, "anybroker"):
        run(_publish(bus, *(_event(number) for number in range(50))))
    assert _said(caplog) == []


def test_a_slow_handler_and_a_lost_lease(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    bus, subscription = _bus()
    mine = LogObserver(lambda topic, group: f"{topic}.{group}.dlq", lambda *_: ["t"])

    async def handle(delivery: Delivery) -> None:
        mine.slow(delivery, 3.25)
        mine.lease_lost(delivery.topic, delivery.group, delivery.event)
        mine.lease_lost(delivery.topic, delivery.group, Foreign(b"secret"))

    subscription.on(handle, type="t")
    run(_publish(bus, _event()))
    slow, lost, foreign = _said(caplog)
    assert slow.getMessage().startswith("orders/g: the handler ")
    assert "has been running for 3.2 s, attempt 1, with the event 'e-1' of type 't'" in slow.getMessage()
    assert (lost.name, lost.levelname, lost.event_id) == ("anybroker.broker", "WARNING", "e-1")
    assert "a message that is not a CloudEvent" in foreign.getMessage()
    assert _about(foreign) == ("", "", "", "orders", "g", "", "", "")
    assert "secret" not in caplog.text


def test_a_connection_that_is_back_says_how_long_it_was_away(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        broker = ScriptedBroker()
        bus = Bus(broker, source="shop", idempotency="memory://")
        bus.subscription("orders", group="g").on(broken, type="t")
        async with bus:
            broker.receiver.die(Unavailable("gone"))
            await until(lambda: bus.subscriptions[0].stats.reconnects == 1)

    with caplog.at_level(logging.INFO, "anybroker"):
        run(main())
    lost, back = (record for record in _said(caplog) if record.name == "anybroker.broker")
    assert (lost.levelname, lost.getMessage()) == ("WARNING", "orders/g: gone; opening another receiver")
    assert back.levelname == "INFO"
    assert back.getMessage().startswith("orders/g: receives again, after ")


@pytest.mark.parametrize("plain", [False, True])
def test_records_of_a_handler_have_the_context(run: Run, caplog: pytest.LogCaptureFixture, plain: bool) -> None:
    caplog.handler.addFilter(context := EventContext())
    log = logging.getLogger("shop")
    bus, subscription = _bus()
    seen: list[dict[str, Any]] = []

    def note() -> None:
        log.warning("charged", extra={"topic": "my own"})
        seen.append(dict(add_event_context(None, "info", {"event": "charged", "group": "mine"})))

    async def handle(_: Event[str]) -> None:
        note()

    def handle_plainly(_: Event[str]) -> None:
        note()

    subscription.on(handle_plainly if plain else handle, type="t", name="handle")
    try:
        run(_publish(bus, _event()))
        log.warning("outside")
    finally:
        caplog.handler.removeFilter(context)
    inside, outside = (record for record in caplog.records if record.name == "shop")
    assert _about(inside) == ("e-1", "t", "shop", "my own", "g", 1, "", "e-1")
    assert _about(outside) == ("",) * 8
    assert seen == [
        {
            "event": "charged",
            "event_id": "e-1",
            "event_type": "t",
            "source": "shop",
            "topic": "orders",
            "group": "mine",
            "attempt": 1,
            "correlation_id": "e-1",
        }
    ]
    assert add_event_context(None, "info", {"event": "x"}) == {"event": "x"}


def test_a_processor_of_structlog(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    structlog = pytest.importorskip("structlog")
    processors = [add_event_context, structlog.processors.JSONRenderer()]
    log = structlog.wrap_logger(structlog.PrintLogger(sys.stdout), processors=processors)
    bus, subscription = _bus()

    async def handle(_: Event[str]) -> None:
        log.info("charged", cents=5)

    subscription.on(handle, type="t")
    run(_publish(bus, _event()))
    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["cents"], found["event_id"], found["attempt"]) == ("charged", 5, "e-1", 1)


def test_json_lines() -> None:
    record = logging.makeLogRecord(
        {"name": "shop", "levelname": "ERROR", "msg": "it\n%s", "args": ("failed",), "created": 0.25}
    )
    vars(record).update(event_id="e\u202e", attempt=2, trace_id="", odd=float("nan"), big=object(), taskName="x")
    vars(record).update(count=2**62, large=2**63, huge=10**5000)
    try:
        raise ValueError("no\nway")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("exception").endswith("ValueError: no\nway")
    assert found.pop("big").startswith("<object")
    assert found.pop("huge").startswith("(its text cannot be made")
    assert found == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "ERROR",
        "logger": "shop",
        "message": "it\nfailed",
        "event_id": "e\u202e",
        "attempt": 2,
        "odd": "nan",
        "count": 2**62,
        "large": str(2**63),
    }


def test_clients_are_quiet_unless_the_program_says_otherwise() -> None:
    unset, set_ = logging.getLogger("tests.quiet.unset"), logging.getLogger("tests.quiet.set")
    set_.setLevel(logging.DEBUG)
    quiet(unset.name, set_.name)
    assert (unset.level, set_.level) == (logging.WARNING, logging.DEBUG)


def test_a_log_that_cannot_be_written_holds_up_no_event(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left on the device")

    full = Full()
    logging.getLogger().addHandler(full)
    bus, subscription = _bus()
    handled: list[str] = []
    subscription.on(broken, type="t")

    async def well(event: Event[str]) -> None:
        handled.append(event.id)

    subscription.on(well, type="other")
    try:
        run(asyncio.wait_for(_publish(bus, _event(), _event(2, "other")), 20.0))
    finally:
        logging.getLogger().removeHandler(full)
    assert (subscription.stats.dead_lettered, handled) == (1, ["e-2"])
    assert "no space left on the device" in capsys.readouterr().err


def test_a_record_factory_that_sets_one_of_the_facts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    plain = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.trace_id, record.source = "", "the service"
        return record

    logging.setLogRecordFactory(factory)
    bus, subscription = _bus()
    subscription.on(broken, type="t")
    try:
        run(_publish(bus, _event(), headers={"traceparent": PARENT}))
    finally:
        logging.setLogRecordFactory(plain)
    assert [(each.source, each.trace_id) for each in _said(caplog)] == [("shop", PARENT[3:35])] * 2


def test_an_error_of_megabytes_is_short_in_lines_problems_and_health(
    run: Run, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    subscription = bus.subscription("orders", group="g", middleware=[dead_letter(enabled=False), retry(attempts=1)])

    async def handle(_: Event[str]) -> None:
        raise ValueError("x\n" * 1_000_000)

    subscription.on(handle)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", _event())
            await until(lambda: bus.problems)
            assert len(bus.problems["orders/g"]) <= 1_001
            assert len(bus.health().as_json()) < 10_000
            await bus.close(drain=0.0)

    run(main())
    assert max(len(each.getMessage()) for each in _said(caplog)) < 1_000
