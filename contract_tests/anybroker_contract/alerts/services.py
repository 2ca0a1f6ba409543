"""The services that misbehave, each a process: ``python -m anybroker_contract.alerts.services NAME URL PORT``.

Each has a topic and a group of its own name on that broker, logs to its standard error, and serves its health and its
metrics on that port of 127.0.0.1. It runs until it is ended.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from tempfile import TemporaryDirectory

from anybroker import Bus
from anybroker.adapter import Adapter, AdapterContext, Inbound, Lane, Receiver, SubscriptionSpec
from anybroker.errors import PublishOutcomeUnknown, Unavailable
from anybroker.middleware import Layer, circuit, dead_letter, retry
from anybroker.observe import HealthServer, PrometheusMetrics
from anybroker.testing import AdapterWrapper, FaultyBroker, ReceiverWrapper, adapter_of, fail

__all__ = ["SERVICES", "main"]

RATE = 20.0
"""Events a second that each service publishes to itself."""
WELL = 3.0
"""Seconds for which a service is well whose fault comes later."""

SLOW = 1.0
"""Seconds after which a handler is slow."""
TYPE = "com.example.alerts.counted.v1"
MISTYPED = "com.example.alerts.cuonted.v1"

Service = Callable[[str, str, int], Coroutine[None, None, None]]
"""Given its name, the URL of its broker, and the port of its health and metrics."""
Handle = Callable[[dict[str, int]], Coroutine[None, None, None]]


def _bus(
    name: str,
    broker: str | FaultyBroker | Leaving,
    port: int,
    groups: Sequence[str] = (),
    outbox: str | None = None,
) -> Bus:
    """A Bus that is seen on that port."""
    topics = {name: {"groups": list(groups)}} if groups else {}
    bus = Bus(broker, source=name, slow_after=SLOW, topics=topics, outbox=outbox)
    metrics = PrometheusMetrics()
    bus.observe(metrics)
    bus.add(HealthServer(f"127.0.0.1:{port}", metrics=metrics))
    return bus


async def _publish(bus: Bus, topic: str, rate: float = RATE, type: str = TYPE) -> None:
    """That many events a second, until this process is ended."""
    number = 0
    while True:
        number += 1
        try:
            await bus.publish(topic, {"number": number}, type=type, key=f"k{number % 4}")
        except (PublishOutcomeUnknown, Unavailable):
            pass  # what the service is there for
        await asyncio.sleep(1 / rate)


async def _quick(_: dict[str, int]) -> None:
    await asyncio.sleep(0.001)


async def _serve(
    bus: Bus, name: str, handle: Handle, middleware: Sequence[Layer] = (), rate: float = RATE, type: str = TYPE
) -> None:
    """Handle what it publishes to itself."""
    bus.subscription(name, group=name, middleware=middleware).on(handle, type=TYPE)
    async with bus:
        await _publish(bus, name, rate, type)


async def healthy(name: str, url: str, port: int) -> None:
    """Everything is well: nothing may fire. It publishes through an outbox."""
    with TemporaryDirectory(prefix="anybroker-alerts-") as folder:
        path = f"{folder}/{name}.db"
        bus = _bus(name, url, port, outbox=f"sqlite:///{path}")
        bus.subscription(name, group=name).on(_quick, type=TYPE)
        await _write(bus, name, path)


async def _write(bus: Bus, topic: str, path: str) -> None:
    """Publish through the outbox, until this process is ended."""
    async with bus:
        database = sqlite3.connect(path)
        number = 0
        while True:
            number += 1
            with database:
                await bus.publish(topic, {"number": number}, type=TYPE, key=f"k{number % 4}", within=database)
            await asyncio.sleep(1 / RATE)


async def failing(name: str, url: str, port: int) -> None:
    """Its handler fails every event."""

    async def handle(event: dict[str, int]) -> None:
        raise ValueError("the handler of this service fails every event")

    await _serve(_bus(name, url, port), name, handle, [dead_letter(), retry(attempts=2, first=0.01)])


async def mistyped(name: str, url: str, port: int) -> None:
    """What it publishes has a type that its handler does not take: two letters are the wrong way round."""
    await _serve(_bus(name, url, port), name, _quick, type=MISTYPED)


async def slow(name: str, url: str, port: int) -> None:
    """Its handler takes three times as long as it may."""

    async def handle(event: dict[str, int]) -> None:
        await asyncio.sleep(3 * SLOW)

    await _serve(_bus(name, url, port), name, handle, rate=1)


async def behind(name: str, url: str, port: int) -> None:
    """Its handler takes less than it may, and still too long for what is published."""

    async def handle(event: dict[str, int]) -> None:
        await asyncio.sleep(SLOW / 2)

    await _serve(_bus(name, url, port), name, handle)


async def deserted(name: str, url: str, port: int) -> None:
    """Nothing consumes what it publishes; it only watches the group."""
    bus = _bus(name, url, port, groups=[name])
    bus.watch(name, group=name)
    async with bus:
        await _publish(bus, name)


async def stuck(name: str, url: str, port: int) -> None:
    """Its handler of the fifth event never ends, and that of the other keys does."""

    async def handle(event: dict[str, int]) -> None:
        if event["number"] == 5:
            await asyncio.Event().wait()

    await _serve(_bus(name, url, port), name, handle)


async def interrupted(name: str, url: str, port: int) -> None:
    """What its handler depends on is down."""

    async def handle(event: dict[str, int]) -> None:
        raise ConnectionError("it is down")

    await _serve(_bus(name, url, port), name, handle, [circuit(failures=3, name="dependency")])


async def blocked(name: str, url: str, port: int) -> None:
    """Its handler waits for something for ever, and the event loop with it."""

    async def handle(event: dict[str, int]) -> None:
        if event["number"] == RATE * WELL:
            time.sleep(1_000_000)  # noqa: ASYNC251 - the fault

    await _serve(_bus(name, url, port), name, handle)


async def unsure(name: str, url: str, port: int) -> None:
    """Its broker does not say of every tenth event whether it is stored."""
    broker = FaultyBroker(url, fail("publish", PublishOutcomeUnknown("a deliberate fault"), every=10))
    await _serve(_bus(name, broker, port), name, _quick)


async def jammed(name: str, url: str, port: int) -> None:
    """Its outbox fills, because the broker accepts nothing of it."""
    broker = FaultyBroker(url, fail("publish", Unavailable("a deliberate fault")))
    with TemporaryDirectory(prefix="anybroker-alerts-") as folder:
        path = f"{folder}/{name}.db"
        await _write(_bus(name, broker, port, groups=[name], outbox=f"sqlite:///{path}"), name, path)


class Leaving:
    """A broker that is gone from a moment on: receivers die, and none can be opened."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.gone = False

    def make_adapter(self, context: AdapterContext) -> Adapter:
        """What a Bus calls."""
        return _LeavingAdapter(adapter_of(self._url, context), self)

    def check(self) -> None:
        """Unavailable once it is gone."""
        if self.gone:
            raise Unavailable("the broker of this service is gone")


class _LeavingAdapter(AdapterWrapper):
    def __init__(self, inner: Adapter, broker: Leaving) -> None:
        super().__init__(inner)
        self._broker = broker

    def wrap_receiver(self, receiver: Receiver, subscription: SubscriptionSpec) -> Receiver:
        """Dies with the broker, and is not made again."""
        self._broker.check()
        return _LeavingReceiver(receiver, self._broker)


class _LeavingReceiver(ReceiverWrapper):
    def __init__(self, inner: Receiver, broker: Leaving) -> None:
        super().__init__(inner)
        self._broker = broker

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """As the wrapped one, until the broker is gone."""
        self._broker.check()
        return await self.inner.receive(limit, lanes=lanes, timeout=min(timeout, 0.5))


async def cut(name: str, url: str, port: int) -> None:
    """Its broker goes away: where nobody can kill it, after some seconds, and for what this service consumes."""
    if not url.startswith("sqlite:"):
        await _serve(_bus(name, url, port), name, _quick)
    broker = Leaving(url)
    bus = _bus(name, broker, port)
    bus.subscription(name, group=name).on(_quick, type=TYPE)
    async with bus:
        await asyncio.sleep(WELL)
        broker.gone = True
        await asyncio.Event().wait()


SERVICES: dict[str, Service] = {
    service.__name__: service
    for service in (
        healthy,
        failing,
        mistyped,
        slow,
        behind,
        deserted,
        stuck,
        interrupted,
        blocked,
        unsure,
        jammed,
        cut,
    )
}


def main(name: str, url: str, port: str) -> None:
    """Run one until it is ended."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(SERVICES[name](name, url, int(port)))


if __name__ == "__main__":
    main(*sys.argv[1:])
