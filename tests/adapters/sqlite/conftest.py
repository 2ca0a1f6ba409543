"""A file of its own for each test, and what the tests share with the processes that they start."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybroker.adapter import GroupSpec, SubscriptionSpec, TopicSpec, Topology

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The module ``worker.py``: helpers, and the program that the tests start as processes."""
    spec = importlib.util.spec_from_file_location("anybroker_sqlite_tests_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database will be."""
    return tmp_path / "shop.db"


class Broker:
    """An open adapter with one topic, and short words for what the tests do to it."""

    def __init__(self, kit: ModuleType, adapter: Any) -> None:
        self.kit = kit
        self.adapter = adapter
        self.sender: Any = None

    async def join(self, topic: str = "orders", group: str = "billing", ordered: bool = True) -> Any:
        spec = SubscriptionSpec(topic, group, ordered, 4, "new", 100)
        return await self.adapter.open_receiver(spec, self.kit.Listener())

    async def publish(self, *outbounds: Any) -> list[Any]:
        results: list[Any] = await self.kit.submit(self.sender, list(outbounds))
        return results


Open = Callable[..., AbstractAsyncContextManager[Broker]]


@pytest.fixture
def opened(kit: ModuleType, path: Path) -> Open:
    """Opens an adapter on the test's file; several of them are several services."""

    @asynccontextmanager
    async def open_one(
        *, ordered: bool = True, retention: float | None = None, **settings: Any
    ) -> AsyncIterator[Broker]:
        broker = Broker(kit, kit.make_adapter(path, **settings))
        await broker.adapter.connect()
        try:
            groups = (GroupSpec("billing", ordered), GroupSpec("stock", ordered))
            topic = TopicSpec("orders", groups, ordered, retention=retention)
            await broker.adapter.declare(Topology((topic,)), "create")
            broker.sender = await broker.adapter.open_sender()
            yield broker
            await broker.sender.close()
        finally:
            await broker.adapter.close()

    return open_one
