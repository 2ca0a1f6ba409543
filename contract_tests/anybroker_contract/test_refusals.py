"""capabilities: asking for what is absent fails at the start, with the adapter, the setting and the remedy named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from anybroker import Bus
from anybroker.errors import AnybrokerError, CapabilityError
from anybroker.middleware import retry

from ._kit import TYPE, Kit
from .marks import refuses


async def refused(kit: Kit, bus: Bus, capability: str) -> CapabilityError:
    """The error of a start that asks for an absent capability."""
    with pytest.raises(CapabilityError) as caught:
        await bus.start()
    error = caught.value
    assert (error.capability, error.adapter) == (capability, kit.capabilities.adapter)
    assert error.remedy
    assert kit.capabilities.adapter in str(error)
    return error


@refuses("retains")
async def test_earliest_is_refused(kit: Kit) -> None:
    """``start="earliest"`` fails at the start if topics keep nothing."""
    bus = kit.bus()
    kit.subscribe(bus, kit.topic(), start="earliest")
    assert "earliest" in (await refused(kit, bus, "retains")).setting


@refuses("start_at_time")
async def test_a_start_at_a_moment_is_refused(kit: Kit) -> None:
    """``start=datetime`` fails at the start if the broker cannot find that time."""
    bus = kit.bus()
    kit.subscribe(bus, kit.topic(), start=datetime(2026, 1, 1, tzinfo=UTC))
    assert "start=" in (await refused(kit, bus, "start_at_time")).setting


@refuses("release")
async def test_release_is_refused(kit: Kit) -> None:
    """``retry(mode="release")`` fails at the start if the broker cannot redeliver later."""
    topic = kit.topic()
    bus = kit.bus(topics={topic: {"ordered": False}})
    kit.subscribe(bus, topic, middleware=[retry(attempts=3, mode="release")])
    assert "release" in (await refused(kit, bus, "release")).setting


@refuses("ordering")
async def test_an_ordered_subscription_is_refused(kit: Kit) -> None:
    """``ordered=True`` fails at the start if the broker keeps no order."""
    bus = kit.bus()
    kit.subscribe(bus, kit.topic(), ordered=True)
    assert "ordered" in (await refused(kit, bus, "ordering")).setting


@refuses("seek")
async def test_seek_is_refused(kit: Kit) -> None:
    """``bus.seek`` is a CapabilityError if consumed events are gone."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(CapabilityError, match="seek"):
            await bus.seek(topic, "g", "earliest")


@refuses("backlog")
async def test_backlog_is_refused(kit: Kit) -> None:
    """``bus.backlog`` is a CapabilityError if the broker cannot count."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(CapabilityError, match="backlog"):
            await bus.backlog(topic, "g")


@refuses("verify")
async def test_verify_is_refused(kit: Kit) -> None:
    """``provision="verify"`` fails at the start if existing topics cannot be compared."""
    bus = kit.bus(provision="verify")
    kit.subscribe(bus, kit.topic())
    await refused(kit, bus, "verify")


@refuses("inlet")
async def test_a_replay_is_refused(kit: Kit) -> None:
    """``dead_letters.replay`` is a CapabilityError if an event cannot be sent to a single group."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(CapabilityError, match="inlet"):
            await bus.dead_letters(topic, "g").replay()


@refuses("null_body_with_key")
async def test_an_event_without_data_under_a_key_is_refused(kit: Kit) -> None:
    """If the broker cannot carry a key without a body, the publish is a typed error that says what to do."""
    topic = kit.topic()
    async with kit.bus(consume=False, topics={topic: {"groups": ["g"]}}) as bus:
        with pytest.raises(AnybrokerError, match=r"(?i)structured"):
            await bus.publish(topic, type=TYPE, key="k")
