"""capabilities: what is declared as data agrees with what the adapter's objects can do."""

from __future__ import annotations

import pytest

from anybroker.adapter import (
    BalancesLanes,
    ExtendsLease,
    Inspects,
    ReadsHistory,
    Replays,
    ReportsBacklog,
    SubscriptionSpec,
)
from anybroker.errors import ConfigError
from anybroker.testing import adapter_of

from ._checkers import repeats
from ._kit import Kit, counted
from .marks import needs_harness, requires
from .test_settle import _Ears


async def test_optional_protocols_are_there_exactly_when_declared(kit: Kit) -> None:
    """``extend``, ``members``, ``backlog``, ``seek``, ``peek`` and ``read_history`` exist where the capability is
    declared, and nowhere else."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    capabilities = kit.capabilities
    async with kit.adapter() as adapter:
        assert adapter.capabilities.table() == capabilities.table()
        assert isinstance(adapter, ReportsBacklog) == bool(capabilities.backlog)
        assert isinstance(adapter, Replays) == bool(capabilities.seek)
        assert isinstance(adapter, Inspects) == bool(capabilities.inspect)
        assert isinstance(adapter, ReadsHistory) == bool(capabilities.history)
        receiver = await adapter.open_receiver(SubscriptionSpec(topic, "g", True, 4, "new", 10), _Ears())
        try:
            assert isinstance(receiver, ExtendsLease) == bool(capabilities.lease_extension)
            assert isinstance(receiver, BalancesLanes) == bool(capabilities.balance)
        finally:
            await receiver.stop()
            await receiver.close()


async def test_the_adapter_says_its_name_and_opens_its_client(kit: Kit) -> None:
    """``capabilities.adapter`` names it in every error; ``bus.adapter.native`` is the client's own object."""
    async with kit.bus(consume=False) as bus:
        assert bus.adapter.capabilities.adapter == kit.capabilities.adapter != ""
        assert bus.adapter.native is not None


@requires("backlog")
async def test_backlog_counts_what_waits_and_what_is_out(kit: Kit) -> None:
    """``bus.backlog`` counts what waits for a group: everything before a consumer starts, nothing afterwards."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g", "other"]}}) as publisher:
        published = await kit.publish(publisher, topic, 12, keys=3)
        assert (await publisher.backlog(topic, "g")).lag == 12
        bus = kit.bus()
        log = kit.subscribe(bus, topic)
        async with bus:
            await log.wait_done(id_ for _, id_ in published)
            await kit.drained(bus, topic)
        assert (await publisher.backlog(topic, "other")).lag == 12


@requires("deduplication")
async def test_the_broker_drops_a_copy_under_the_same_id(kit: Kit) -> None:
    """An event published twice under one id is delivered once; another id, or another source, is another event."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    event = counted(0, key="k")
    async with bus:
        await bus.publish(topic, event)
        await bus.publish(topic, event)
        await bus.publish(topic, event.replace(source="elsewhere"))
        await bus.publish(topic, counted(1, key="k"))
        await log.wait_done(["w-0", "w-1"])
        await log.quiet()
    assert sorted(log.started) == ["w-0", "w-0", "w-1"]
    assert {handling.event.source for handling in log.of("w-0")} == {"contract", "elsewhere"}
    assert set(repeats(log.handlings)) == {"w-0"}


@needs_harness("url")
@requires("processes")
async def test_an_unknown_option_in_the_url_is_refused(kit: Kit) -> None:
    """An option that the adapter does not know is a ConfigError at once, which names it."""
    joint = "&" if "?" in kit.url else "?"
    with pytest.raises(ConfigError, match="no_such_option"):
        adapter_of(f"{kit.url}{joint}no_such_option=1", kit.context())


@requires("verify")
async def test_declaring_again_changes_nothing(kit: Kit) -> None:
    """A topic and its group that are declared again, even several times at once, keep their settings and their
    events."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    async with kit.bus(consume=False) as publisher:
        published = await kit.publish(publisher, topic, 8, keys=2)
        for _ in range(3):
            await kit.declared(topic, "g", "later")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_done(id_ for _, id_ in published)
    assert repeats(log.handlings) == {}
