"""cluster: with too few of its servers a broker stores nothing; errors say so, and publishing resumes by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

import pytest

from anybroker.errors import BrokerError, PublishOutcomeUnknown, Unavailable

from ._kit import Kit, counted
from .harness import Clustered
from .marks import needs_harness, requires

KEYS = 32
DEADLINE = 8.0
AGAIN = 5.0
"""Seconds after a majority of the servers is there, and could choose a leader, by which every key is published to."""


@pytest.mark.timeout(110)
@needs_harness("cluster")
@requires("durable")
async def test_too_few_servers(kit: Kit, cluster: Clustered, caplog: pytest.LogCaptureFixture) -> None:
    """Two of three servers are stopped. Every publish ends by its deadline with an error that names the cause, and the
    log says each thing once, not at every try. When the second server is back and a leader can be chosen, publishing
    works again within 5 s, and every event with a receipt is handled."""
    topic = kit.topic()
    bus = kit.bus(target=cluster.url, publish_deadline=DEADLINE)
    log = kit.subscribe(bus, topic)
    nodes = cluster.servers.nodes
    async with bus:
        before = [counted(number, key=f"k{number}") for number in range(KEYS)]
        await bus.publish_many(topic, before)
        await log.wait_done(event.id for event in before)
        for node in nodes[:2]:
            await asyncio.to_thread(node.end)

        with caplog.at_level(logging.WARNING):
            caplog.clear()
            begun = time.monotonic()
            refused = [counted(KEYS + number, key=f"k{number}") for number in range(KEYS)]
            results = await bus.publish_many(topic, refused)
            took = time.monotonic() - begun
            said = Counter((record.name, str(record.msg)) for record in caplog.records)
        errors = [result for result in results if isinstance(result, BrokerError)]
        assert len(errors) == KEYS
        assert took < DEADLINE + 1.0
        assert [type(error) for error in errors if not isinstance(error, PublishOutcomeUnknown | Unavailable)] == []
        assert [str(error) for error in errors if not any(cause in str(error) for cause in cluster.too_few)] == []
        assert {what: count for what, count in said.items() if count > 1} == {}

        await asyncio.to_thread(nodes[1].start)
        begun = time.monotonic()
        waiting = {event.id: event for event in refused}
        while waiting:  # as a program does that was told to publish them again
            again = list(waiting.values())
            for event, result in zip(again, await bus.publish_many(topic, again), strict=True):
                if not isinstance(result, BrokerError):
                    del waiting[event.id]
            assert time.monotonic() - begun < AGAIN + cluster.election, (
                f"{len(waiting)} keys are still not published to"
            )
        await log.wait_done(event.id for event in refused)
