"""Which store a handler gets that names none, how a URL names one, and who opens and closes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, ConfigError, MemoryBroker
from anybroker.adapter import BrokerUrl
from anybroker.config import parse_url
from anybroker.idempotency import MemoryStore, SqliteStore, StoreUnavailable
from anybroker.idempotency._stores import Stores, make_store
from anybroker.middleware import idempotent

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, and no settings of the machine's."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANYBROKER_IDEMPOTENCY", "ANYBROKER_CONFIG", "ANYBROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def chosen(broker: str | None, durable: bool, configured: Any = None) -> Any:
    url = None if broker is None else parse_url(broker)
    return Stores(configured, url, durable, "shop").use(None).store


def test_memory_under_a_broker_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(chosen(None, durable=False), MemoryStore)
    assert isinstance(chosen("memory://", durable=False), MemoryStore)
    assert caplog.text == ""


def test_a_file_beside_the_embedded_brokers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = chosen("sqlite:///shop.db", durable=True)
    assert isinstance(store, SqliteStore)
    assert store.path == folder / "shop-idempotency.db"
    assert chosen(f"sqlite:///{folder}/data/x.sqlite", durable=True).path == folder / "data" / "x-idempotency.db"
    assert caplog.text == ""


def test_a_file_of_this_machine_under_a_broker_elsewhere_and_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen("kafka://broker:9092", durable=True).path == folder / "anybroker-idempotency.db"
    assert (
        f"no idempotency store is set: using the file {folder}/anybroker-idempotency.db, which only processes of this "
        "machine share. Set ANYBROKER_IDEMPOTENCY, or 'idempotency' in anybroker.toml"
    ) in caplog.text


@pytest.mark.parametrize("configured", ["memory://", MemoryStore()])
def test_memory_under_a_durable_broker_is_warned_of_once(configured: Any, caplog: pytest.LogCaptureFixture) -> None:
    stores = Stores(configured, BrokerUrl("sqlite", (), path="/shop.db"), True, "shop")
    assert stores.use(None) is stores.use(None)
    assert caplog.text.count("the idempotency store is in memory while the broker is durable") == 1


def test_the_same_store_has_one_keeper() -> None:
    store = MemoryStore()
    stores = Stores(None, None, False, "shop")
    assert stores.use(store) is stores.use(store)
    assert stores.use(MemoryStore()) is not stores.use(store)
    assert stores.use(store).owner == stores.use(None).owner
    assert stores.use(store).owner.startswith("shop-")


def test_urls(folder: Path) -> None:
    memory = make_store("memory://?size=17&retain=60")
    assert isinstance(memory, MemoryStore)
    assert (memory.size, memory.retain) == (17, 60.0)
    file = make_store("sqlite:///shop.db?retain=60&busy_timeout=0.5")
    assert isinstance(file, SqliteStore)
    assert (file.path, file.retain) == (folder / "shop.db", 60.0)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("shop.db", "idempotency: 'shop.db' is not a broker URL. Write sqlite:///shop-idempotency.db or memory://."),
        ("sqlite://shop.db", "idempotency: sqlite://shop.db names no file. Write sqlite:///shop.db"),
        ("memory://here", "idempotency: memory://here names a server or a path"),
        ("sqlit:///shop.db", "idempotency: no store for 'sqlit'://. Did you mean 'sqlite'? Known: memory, "),
        ("sqlite:///s.db?retian=1", "'retian': there is no such option. Did you mean 'retain'?"),
        ("memory://?size=many", "idempotency option 'size': 'many' is not a number"),
        ("memory://?retain=0", "MemoryStore(retain=): 0.0 is not a number of seconds over 0"),
        ("mongodb://user:secret@host:1", "no store for 'mongodb'://"),
    ],
)
def test_wrong_urls(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_store(url)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_store_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "elsewhere"

        @staticmethod
        def load() -> Callable[[BrokerUrl], MemoryStore]:
            return lambda url: MemoryStore(size=int(url.options["size"]))

    monkeypatch.setattr("anybroker.idempotency._stores.entry_points", lambda group: [Entry])
    store = make_store("elsewhere://host?size=3")
    assert isinstance(store, MemoryStore)
    assert store.size == 3


def service(**options: Any) -> Bus:
    bus = Bus(MemoryBroker(), source="shop", **options)

    @bus.subscribe("orders", group="billing")
    @idempotent()
    async def charge(number: int) -> None: ...

    return bus


def used(bus: Bus) -> Any:
    (keeper,) = bus._core.stores._keepers.values()
    return keeper.store


def test_the_setting_comes_from_arguments_environment_and_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    found: list[Any] = []

    async def main(bus: Bus) -> None:
        async with bus:
            found.append(used(bus))

    (folder / "anybroker.toml").write_text('idempotency = "sqlite:///toml.db"\n')
    run(main(service()))
    monkeypatch.setenv("ANYBROKER_IDEMPOTENCY", "sqlite:///environment.db")
    run(main(service()))
    run(main(service(idempotency="sqlite:///argument.db")))
    assert [store.path.name for store in found] == ["toml.db", "environment.db", "argument.db"]
    mine = MemoryStore()
    run(main(service(idempotency=mine)))
    assert found[-1] is mine


def test_the_bus_opens_and_closes_what_its_handlers_use(run: Run, breakable: Any) -> None:
    shared, own = breakable(MemoryStore()), breakable(MemoryStore())

    async def main() -> None:
        bus = service(idempotency=shared)
        bus.subscribe("orders", group="stock")(idempotent(own)(handle))
        async with bus:
            assert (shared.opened, own.opened) == (1, 1)
            (subscription, _) = bus.subscriptions
            await subscription.stop()
            await subscription.start()
            assert (shared.opened, own.opened) == (1, 1)
        assert (shared.opened, own.opened) == (0, 0)

    async def handle(number: int) -> None: ...

    run(main())


def test_a_bus_whose_handlers_need_no_store_opens_none(run: Run, folder: Path) -> None:
    bus = Bus(MemoryBroker(), source="shop", idempotency="sqlite:///shop.db")

    @bus.subscribe("orders", group="billing")
    async def charge(number: int) -> None: ...

    async def main() -> None:
        async with bus:
            assert not (folder / "shop.db").exists()

    run(main())


def test_a_store_that_cannot_be_opened_fails_the_start_and_leaves_nothing_open(run: Run, breakable: Any) -> None:
    class Away(MemoryStore):
        async def open(self) -> None:
            raise StoreUnavailable("the idempotency store is away")

    fine = breakable(MemoryStore())

    async def main() -> None:
        bus = service(idempotency=fine)

        @bus.subscribe("invoices", group="printer", name="print")
        @idempotent(Away())
        async def print_it(number: int) -> None: ...

        with pytest.raises(StoreUnavailable, match="the idempotency store is away"):
            await bus.start()
        assert fine.opened == 0

    run(main())


def test_a_wrong_url_is_said_at_the_start(run: Run) -> None:
    async def main() -> None:
        await service(idempotency="sqlite:///nowhere/shop.db").start()

    with pytest.raises(ConfigError, match=r"idempotency: the folder .*/nowhere does not exist"):
        run(main())


def test_what_is_too_old_is_purged_until_nothing_is_left(
    run: Run, breakable: Any, monkeypatch: pytest.MonkeyPatch, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("anybroker.idempotency._stores._PURGE_EVERY", 0.01)
    caplog.set_level(logging.WARNING)
    store = breakable(MemoryStore())
    store.fail_before = ["purge"]

    async def main() -> None:
        async with service(idempotency=store):
            await until(lambda: store.calls.count("purge") >= 3)

    run(main())
    assert "old entries could not be purged: purge did not get there" in caplog.text
