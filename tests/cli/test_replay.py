"""``anybroker replay``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anybroker import Bus, Event

HANDLER = """
from anybroker import Event
from anybroker.middleware import retry

@retry(attempts=1)
def rebuild(order: dict, event: Event) -> None:
    if "refuse" in order:
        raise ValueError(order["refuse"])
    with open("rebuilt", "a") as file:
        print(event.id, file=file)

fine = 1
"""


@pytest.fixture
def replay(anybroker: Any, shop: Any) -> Any:
    """``anybroker replay orders … --url …``."""

    def command(*arguments: object) -> Any:
        return anybroker("replay", "orders", *arguments, "--url", shop.url)

    return command


def test_a_dry_run_counts_and_a_group_gets_what_was_counted(shop: Any, replay: Any) -> None:
    shop.fill(*({"n": number} for number in range(5)), key="k")
    ended = replay("--group", "billing", "--dry-run")
    assert (ended.code, ended.out, ended.err) == (
        0,
        "5 of 5 events of orders would be replayed into group billing\n",
        "",
    )
    assert shop.work() == []
    ended = replay("--group", "billing")
    assert (ended.code, ended.out) == (0, "replayed 5 of 5 events of orders into group billing\n")
    assert shop.work() == [{"n": number} for number in range(5)]


def test_filters_and_bounds(shop: Any, replay: Any) -> None:
    shop.fill({"n": 0}, {"n": 1}, {"n": 2})
    counted = replay("--dry-run", "--json", "--type", "order.v1", "--type", "other").json
    assert (counted["read"], counted["matched"], counted["complete"]) == (3, 3, True)
    assert replay("--dry-run", "--json", "--key", "nobody").json["matched"] == 0
    assert replay("--dry-run", "--json", "--from", "2999-01-01").json["read"] == 0
    assert replay("--dry-run", "--json", "--from", "2000-01-01", "--to", "2999-01-01T00:00Z").json["read"] == 3
    assert replay("--dry-run", "--json", "--from", "orders@2", "--to", "orders@3").json["read"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "replay(group=, handler=, into=): none of them is given"),
        (("--dry-run", "--from", "yesterday"), "--from: 'yesterday' is neither one moment nor positions"),
        (("--dry-run", "--to", "orders@1", "--to", "2026-01-01"), "--to: 'orders@1' and '2026-01-01' is neither"),
        (("--dry-run", "--from", "parcels/9@1"), "'orders' has no lane 'parcels/9'"),
        (("--group", "nobody"), "no group 'nobody' on topic 'orders'"),
        (("--into", "orders"), "is the topic itself"),
        (("--into", "elsewhere"), "there is no topic 'elsewhere'"),
        (("--handler", "audit"), "--handler: 'audit' names no function"),
        (("--handler", "no_such_module:rebuild"), "--handler: there is no module 'no_such_module'"),
        (("--group", "billing", "--resume", "no/such/folder"), "no/such/folder cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(shop: Any, replay: Any, arguments: tuple[str, ...], said: str) -> None:
    shop.fill({"n": 0})
    ended = replay(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1


def test_a_handler_is_run_here(shop: Any, replay: Any, folder: Path) -> None:
    (folder / "audit_a.py").write_text(HANDLER)
    shop.fill({"n": 0}, {"n": 1, "refuse": "no"}, {"n": 2})
    ended = replay("--handler", "audit_a:rebuild")
    assert ended.code == 1
    assert ended.out == "replayed 2 of 3 events of orders into handler rebuild\nfailed: 1\n"
    assert "orders@2 (o-1): ValueError: no" in ended.err
    assert (folder / "rebuilt").read_text().split() == ["o-0", "o-2"]
    assert "has no function 'rebuilt'. Did you mean 'rebuild'?" in replay("--handler", "audit_a:rebuilt").err
    assert replay("--handler", "audit_a:fine").code == 2


def test_a_stop_at_a_failure_goes_on_there(shop: Any, replay: Any, folder: Path) -> None:
    (folder / "audit_b.py").write_text(HANDLER)
    shop.fill({"n": 0}, {"n": 1, "refuse": "no"}, {"n": 2})
    options = ("--handler", "audit_b:rebuild", "--resume", "cursor", "--stop-on-failure")
    ended = replay(*options)
    assert ended.code == 1
    assert "stopped before the event that failed; the same command goes on with it (--resume cursor)" in ended.err
    assert (folder / "rebuilt").read_text().split() == ["o-0"]
    assert replay(*options[:-1]).out == "replayed 2 of 3 events of orders into handler rebuild\nfailed: 1\n"
    assert (folder / "rebuilt").read_text().split() == ["o-0", "o-2"]


def fill(url: str, count: int) -> None:
    """Publish so many events, then make a group that has none of them."""

    async def publish() -> None:
        async with Bus(url, source="shop", consume=False) as bus:
            await bus.declare("orders", groups="billing")
            events = (Event.create({"n": number}, type="order.v1", source="shop") for number in range(count))
            await bus.publish_many("orders", events)
            await bus.declare("orders", groups="audit")

    asyncio.run(publish())


def waiting(url: str, group: str) -> int:
    async def ask() -> int:
        async with Bus(url, source="shop", consume=False) as bus:
            return (await bus.backlog("orders", group)).lag

    return asyncio.run(ask())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_replay_that_was_killed_goes_on(folder: Path, how: signal.Signals) -> None:
    """Nothing is left out; and since this broker tells copies apart, nothing is there twice."""
    url = f"sqlite:///{folder}/shop.db"
    fill(url, 600)
    command = [sys.executable, "-m", "anybroker.cli", "replay", "orders", "--group", "audit", "--resume", "cursor"]
    environment = {**os.environ, "ANYBROKER_URL": url}
    running = subprocess.Popen([*command, "--rate", "400"], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert running.poll() is None, running.communicate()
            cursor = folder / "cursor"
            if cursor.exists() and 100 <= json.loads(cursor.read_text())["counts"]["replayed"] < 600:
                break
            time.sleep(0.01)
        running.send_signal(how)
        _, err = running.communicate(timeout=20)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == (-how if how == signal.SIGKILL else 130), err
    assert 100 <= waiting(url, "audit") < 600
    ended = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True)
    done = json.loads(ended.stdout)
    assert (done["replayed"], done["failed"], done["complete"]) == (600, 0, True)
    assert done["duplicates"] <= 100
    assert waiting(url, "audit") == 600
    assert waiting(url, "billing") == 600
