"""``anybroker describe``: what the Bus of a program is, without starting it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

SERVICE = """
from pydantic import BaseModel
from anybroker import Bus, event_type
from anybroker.middleware import idempotent, publish_middleware, retry

@event_type("order.placed.v1", key="customer")
class Placed(BaseModel):
    customer: str

@publish_middleware
async def stamp(outgoing, call_next):
    return await call_next(outgoing)

bus = Bus("nats://user:hunter2@nowhere.example:1", source="shop", publish_middleware=[stamp],
          topics={"orders": {"key": "subject", "groups": ["search"]}})
bus.topic("orders", Placed)

@bus.subscribe("orders", group="billing")
@retry(3)
@idempotent()
async def charge(order: Placed) -> None: ...

@bus.subscribe("logs", group="store", ordered=False)
async def keep(line: dict) -> None: ...

empty = Bus("memory://")

@empty.subscribe("orders", group="billing")
@idempotent()
@retry()
async def wrong(order: Placed) -> None: ...
"""


@pytest.fixture(autouse=True)
def service(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "described", raising=False)
    (folder / "described.py").write_text(SERVICE)


def test_tables(anybroker: Any) -> None:
    ended = anybroker("describe", "described:bus")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "source shop, broker nats, provision create\n"
        "publish middleware: stamp\n"
        "\n"
        "topic   ordered  key      codec  groups           published here\n"
        "logs    yes               json   store\n"
        "orders  yes      subject  json   billing, search  Placed (key customer)\n"
        "\n"
        "subscription    handler  event types      payload                middleware\n"
        "orders/billing  charge   order.placed.v1  Placed (key customer)  trace, dead_letter, retry, idempotent\n"
        "logs/store      keep     (the rest)       dict                   trace, dead_letter, retry\n"
    )


def test_json(anybroker: Any) -> None:
    ended = anybroker("describe", "described:bus", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert "hunter2" not in ended.out
    assert [topic["name"] for topic in ended.json["topics"]] == ["logs", "orders"]
    assert [each["group"] for each in ended.json["subscriptions"]] == ["billing", "store"]
    (handler,) = ended.json["subscriptions"][0]["handlers"]
    assert handler["middleware"] == ["trace", "dead_letter", "retry", "idempotent"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_what_would_not_start_is_2(anybroker: Any, arguments: tuple[str, ...]) -> None:
    ended = anybroker("describe", "described:empty", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("anybroker: handler wrong: its decorators stand in the order @idempotent, @retry.")
