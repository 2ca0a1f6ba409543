"""The swap program says the same on every broker; the contract suite runs it on the servers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ["Lille", "Gent", "Köln", "Graz"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What the program prints on a broker: told("sqlite:///file")."""

    def tell(url: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "examples.swap"],
            cwd=tmp_path_factory.mktemp("swap"),
            env={**os.environ, "PYTHONPATH": str(ROOT), "ANYBROKER_URL": url},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        assert done.stderr.count(" failed at attempt ") >= 2  # its handler fails on purpose, and that is logged
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return tell


def test_tells_every_event(told: Callable[[str], dict[str, Any]]) -> None:
    found = told("memory://")
    attempts = {id_: [start["attempt"] for start in starts] for id_, starts in found["starts"].items()}
    keys = ["None", "parcel-1", "parcel-2"]
    once = {f"{key}/{place}": [1] for key in keys for place in PLACES if f"{key}/{place}" != "parcel-2/Köln"}
    assert attempts == {**once, "parcel-1/Gent": [1, 2, 3], "parcel-2/Gent": [1, 2, 3]}
    assert found["order"] == {
        "no key": sorted(f"None/{place}" for place in PLACES),
        **{key: [f"{key}/{place}" for place in PLACES] for key in keys[1:]},
    }
    assert {id_: letter["attempts"] for id_, letter in found["dead letters"].items()} == {
        "parcel-2/Gent": 3,
        "parcel-2/Köln": 1,
    }
    assert found["dead letters"]["parcel-2/Gent"]["headers"] == {"x-belt": "1 ä"}
    assert "memory adapter has no 'start_at_time'" in found["refused"]


def test_tells_the_same_on_the_embedded_broker(told: Callable[[str], dict[str, Any]]) -> None:
    memory, embedded = told("memory://"), told("sqlite:///swap.db")
    assert embedded.pop("refused") is None
    del memory["refused"]
    assert embedded == memory


def test_names_no_broker() -> None:
    text = (ROOT / "examples/swap/__main__.py").read_text(encoding="utf-8").lower()
    assert [name for name in ("kafka", "rabbit", "amqp", "nats", "sqs", "sqlite", "memory") if name in text] == []
    assert len(text.splitlines()) <= 80
