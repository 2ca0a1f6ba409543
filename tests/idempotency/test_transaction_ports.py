"""What a store's transaction may tell the middleware, and which annotations it may serve."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.idempotency import Claim, MemoryStore, StoreUnavailable, Transaction, TransactionConflict
from anybroker.idempotency._stores import make_store
from anybroker.middleware import dead_letter, idempotent, retry
from anybroker.testing import settled

Run = Callable[[Coroutine[Any, Any, None]], None]


class Session:
    """What a client library would have."""


class SharedTransaction(Transaction):
    """Serves Session."""

    reasons: tuple[Any, ...] = ()
    released = False

    async def given(self, annotation: object, /) -> object:
        """A Session."""
        assert annotation is Session
        return Session()

    def reason(self, failure: Exception, /) -> StoreUnavailable | TransactionConflict | None:
        """The next one."""
        assert self.released
        first, *rest = type(self).reasons
        type(self).reasons = tuple(rest)
        result: StoreUnavailable | TransactionConflict | None = first
        return result


class SharedStore(MemoryStore):
    """In memory, with transactions."""

    transaction_type = SharedTransaction

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[Claim, SharedTransaction] = {}

    def transaction(self, claim: Claim, /) -> SharedTransaction:
        """A new one."""
        return self.made.setdefault(claim, SharedTransaction())

    async def release(self, claim: Claim, /) -> None:
        """Ends the transaction first."""
        self.made[claim].released = True
        await super().release(claim)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """SharedTransaction serves Session, as an installed package would say."""
    name = f"{Session.__module__}.{Session.__qualname__}"

    class Entry(EntryPoint):
        def load(self) -> Any:
            return SharedTransaction

    entry = Entry(name, "x:y", "anybroker.transactions")

    def entry_points(group: str) -> list[EntryPoint]:
        return [entry] if group == entry.group else []

    monkeypatch.setattr("anybroker.handlers.signature.entry_points", entry_points)


@pytest.mark.parametrize(
    ("reasons", "postponed", "lettered"),
    [
        ([TransactionConflict("another")], 1, 0),
        ([StoreUnavailable("it is away")], 1, 0),
        ([TransactionConflict("another"), StoreUnavailable("it is away"), TransactionConflict("another")], 3, 0),
        ([None], 0, 1),
        ([TransactionConflict("another"), None], 1, 1),
    ],
)
def test_why_a_handler_failed_decides_whether_it_counts(
    run: Run, reasons: list[Any], postponed: int, lettered: int
) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    failures = len(reasons)
    SharedTransaction.reasons = tuple(reasons)

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(SharedStore())
    async def charge(number: int, transaction: SharedTransaction) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("it failed")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1")
            await settled(bus)
            stats = bus.subscriptions[0].stats
            assert (stats.postponed, stats.dead_lettered) == (postponed, lettered)
            assert bus.subscriptions[0].problem is None or "it is away" in str(reasons)

    run(main())
    assert SharedTransaction.reasons == ()


@pytest.mark.parametrize("plain", [False, True])
def test_a_parameter_may_have_an_annotation_that_the_transaction_serves(run: Run, plain: bool) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    got: list[object] = []

    async def charge(number: int, session: Session) -> None:
        got.append(session)

    def charge_in_thread(session: Session, number: int) -> None:
        got.append(session)

    bus.subscribe("orders", group="billing")(idempotent(SharedStore())(charge_in_thread if plain else charge))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1")
            await settled(bus)

    run(main())
    assert [type(each) for each in got] == [Session]


def test_it_needs_a_store_with_that_transaction(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop")

    @bus.subscribe("orders", group="billing", name="charge")
    @idempotent(MemoryStore())
    async def charge(number: int, session: Session) -> None: ...

    async def main() -> None:
        await bus.start()

    with pytest.raises(ConfigError, match=r"asks for the Session of a SharedTransaction, and .* has none"):
        run(main())


def test_what_is_provided_wins(run: Run) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    mine, got = Session(), []
    bus.provide(Session, lambda: mine)

    @bus.subscribe("orders", group="billing")
    async def charge(number: int, session: Session) -> None:
        got.append(session)

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1")
            await settled(bus)

    run(main())
    assert got == [mine]


def test_a_store_whose_client_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anybroker_absent.py").write_text("import a_client_that_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("absent", "anybroker_absent:store", "anybroker.stores")
    monkeypatch.setattr("anybroker.idempotency._stores.entry_points", lambda group: [entry])
    text = "idempotency: absent:// needs the package 'a_client_that_nobody_has', which is not installed. pip install"
    with pytest.raises(ConfigError, match=text):
        make_store("absent://user:secret@host")


class OwnSession(Session):
    """What an application may have."""


class PickyTransaction(SharedTransaction):
    """Says what it was asked, and fails when the handler has returned."""

    asked: ClassVar[list[Any]] = []

    @classmethod
    def check(cls, annotation: object, is_async: bool, setting: str, /) -> None:
        """Refuses plain handlers."""
        cls.asked.append((annotation, is_async))
        if not is_async:
            raise ConfigError(setting, "is for 'async def'", "Write one.")

    async def given(self, annotation: object, /) -> object:
        """The same."""
        self.asked.append(annotation)
        return OwnSession()

    async def finish(self) -> None:
        """Fails."""
        self.asked.append("finish")
        raise OSError("it could not be written")


class PickyStore(SharedStore):
    transaction_type = PickyTransaction

    def transaction(self, claim: Claim, /) -> PickyTransaction:
        """A new one."""
        made = self.made.setdefault(claim, PickyTransaction())
        assert isinstance(made, PickyTransaction)
        return made


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """PickyTransaction serves Session; what it was asked."""

    class Entry(EntryPoint):
        def load(self) -> Any:
            return PickyTransaction

    entry = Entry(f"{Session.__module__}.{Session.__qualname__}", "x:y", "anybroker.transactions")
    monkeypatch.setattr("anybroker.handlers.signature.entry_points", lambda group: [entry])
    monkeypatch.setattr(PickyTransaction, "asked", [])
    return PickyTransaction.asked


def test_what_fails_when_the_handler_has_returned_is_its_failure_unless_the_database_did_it(
    run: Run, picky: list[Any]
) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    PickyTransaction.reasons = (TransactionConflict("another"), None)

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(PickyStore())
    async def charge(number: int, session: OwnSession) -> None:
        picky.append(type(session))

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1")
            await settled(bus)
            stats = bus.subscriptions[0].stats
            assert (stats.postponed, stats.dead_lettered) == (1, 1)

    run(main())
    assert picky == [(OwnSession, True), *[OwnSession, OwnSession, "finish"] * 2]


def test_a_handler_that_fails_is_not_finished(run: Run, picky: list[Any]) -> None:
    bus = Bus(MemoryBroker(), source="shop")
    PickyTransaction.reasons = (None,)

    @bus.subscribe("orders", group="billing")
    @dead_letter()
    @retry(attempts=1)
    @idempotent(PickyStore())
    async def charge(number: int, session: Session) -> None:
        raise OSError("it failed")

    async def main() -> None:
        async with bus:
            await bus.publish("orders", 7, type="order.v1")
            await settled(bus)

    run(main())
    assert picky == [(Session, True), Session]


def test_a_transaction_may_refuse_a_parameter(picky: list[Any]) -> None:
    def charge(number: int, session: Session) -> None: ...

    with pytest.raises(ConfigError, match=r"parameter 'session': is for 'async def'\. Write one"):
        Bus(MemoryBroker(), source="shop").subscribe("orders", group="billing")(charge)
