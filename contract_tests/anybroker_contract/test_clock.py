"""clock: a publisher whose clock is wrong gets an error, if the broker checks the time."""

from __future__ import annotations

import pytest

from anybroker import Bus
from anybroker.errors import Rejected

from ._kit import Kit
from .marks import needs_harness

_TRIES = 100
"""A broker may compare whole milliseconds, and take what reaches it within one."""


async def _until_refused(kit: Kit, bus: Bus, topic: str) -> None:
    for number in range(_TRIES):
        await kit.publish(bus, topic, 1, first=number)


@needs_harness("distrust")
async def test_a_clock_that_the_broker_does_not_believe_is_named(kit: Kit) -> None:
    """An event that the broker refuses because of its time is ``Rejected``, and the error says that the clock is wrong,
    and on which machine. The Bus's other topics still accept events."""
    topic, other = kit.topic(), kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, other)
    await kit.harness.distrust(topic)
    async with bus:
        with pytest.raises(Rejected) as refused:
            await _until_refused(kit, bus, topic)
        assert "clock of this machine" in str(refused.value)
        published = await kit.publish(bus, other, 3)
        await log.wait_done(id_ for _, id_ in published)
