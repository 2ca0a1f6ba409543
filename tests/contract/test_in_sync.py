"""When servers of a cluster have all events again: what the run waits for, and what NATS is asked."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anybroker_contract.faults.run import Run, Size
from anybroker_contract.faults.tracker import Stalled
from anybroker_contract.harness import Clustered
from anybroker_contract.harnesses.nats import NatsHarness
from anybroker_contract.raw.nats import NatsClient


def a_run(tmp_path: Path, cluster: Clustered) -> Run:
    capabilities = NatsHarness().capabilities()
    run = Run(NatsHarness(), capabilities, tmp_path, Size(), 7, print)
    run.cluster = cluster
    return run


def test_a_server_that_does_not_catch_up_ends_the_run(tmp_path: Path) -> None:
    """By the time that the harness gives it, and although its client swallows what cancels it."""
    asked: list[str] = []

    async def in_sync(topic: str) -> bool:
        asked.append(topic)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        return False

    cluster = Clustered("nats://a,b,c", SimpleNamespace(), in_sync, (), catch_up=0.3)  # type: ignore[arg-type]
    run = a_run(tmp_path, cluster)

    async def check() -> None:
        async with asyncio.timeout(5):
            await run.in_sync()

    with pytest.raises(Stalled, match=r"not within 0\.3 s"):
        asyncio.run(check())
    assert set(asked) == {run.topic}


CURRENT = {"name": "anybroker-2", "current": True, "active": 5}
BEHIND = {"name": "anybroker-3", "current": False, "active": 1_858_792_089, "lag": 27_712}
GONE = {"name": "anybroker-3", "current": True, "offline": True, "active": 0}


def group(*replicas: dict[str, Any], leader: str = "anybroker-1") -> dict[str, Any]:
    return {"cluster": {"leader": leader, "replicas": replicas}}


ALL = group(CURRENT, CURRENT)


@pytest.mark.parametrize(
    ("stream", "consumers", "count"),
    [
        (ALL, {"consumers": [ALL, ALL]}, 3),
        (group(CURRENT, BEHIND), {"consumers": [ALL]}, 2),
        (ALL, {"consumers": [ALL, group(CURRENT, GONE)]}, 2),
        (ALL, {"consumers": [ALL, group(leader="")]}, 0),
        (ALL, {"consumers": [ALL], "missing": ["g@1"]}, 0),
        (ALL, {"error": {"code": 503, "description": "no leader"}}, 0),
    ],
    ids=["all", "a stream that is behind", "a server that is gone", "no leader", "a leader that is silent", "an error"],
)
def test_what_nats_says_of_replicas(stream: dict[str, Any], consumers: dict[str, Any], count: int) -> None:
    answers = {"$JS.API.STREAM.INFO.a_b": stream, "$JS.API.CONSUMER.LIST.a_b": consumers}

    async def request(subject: str, body: bytes, timeout: float) -> Any:
        return SimpleNamespace(data=json.dumps(answers[subject]).encode())

    client = NatsClient("nats://a")
    client._client = SimpleNamespace(request=request)
    assert asyncio.run(client.replicas_in_sync("a.b")) == count
