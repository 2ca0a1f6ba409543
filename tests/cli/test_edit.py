"""``anybroker dlq edit``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def dlq(anybroker: Any, shop: Any) -> Any:
    """``anybroker dlq ACTION orders billing … --url …``, on a queue with two letters."""
    shop.fill({"cents": -5, "refuse": "negative"}, {"cents": 1, "refuse": "no"}, key="k")

    def command(action: str, *arguments: object) -> Any:
        return anybroker("dlq", action, "orders", "billing", *arguments, "--url", shop.url, "--patience", "0.2")

    return command


def test_a_field_is_corrected_and_the_event_handled(
    shop: Any, dlq: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBROKER_AUDIT", str(folder / "audit.jsonl"))
    would = dlq("edit", "o-0", "--set", "data.cents=5", "--dry-run")
    assert would.out.startswith("would be replayed with these data: o-0\n")
    assert len(dlq("list", "--json").json) == 2
    ended = dlq("edit", "o-0", "--set", "data.cents=5", "--as", "anna")
    assert (ended.code, ended.out, ended.err) == (0, "edited and replayed: 1\n", "")
    assert shop.work() == [{"cents": 5, "refuse": "negative"}]
    assert [item["id"] for item in dlq("list", "--json").json] == ["o-1"]
    begins, ended_line = map(json.loads, (folder / "audit.jsonl").read_text().splitlines())
    assert (begins["who"], begins["action"], ended_line["ids"]) == ("anna", "edit", ["o-0"])


def test_data_from_a_file_and_what_fails_again(shop: Any, dlq: Any, folder: Path) -> None:
    (folder / "new.json").write_text('{"refuse": "again"}')
    assert dlq("edit", "o-0", "--data", f"@{folder}/new.json", "--json").json == {"edited": ["o-0"], "missing": []}
    shop.fill()
    letter = next(item for item in dlq("show", "--json").json if item["id"] == "o-0")
    assert (letter["data"], letter["replays"], letter["attributes"]["partitionkey"]) == ({"refuse": "again"}, 1, "k")
    assert " from " in letter["edited"]
    assert dlq("edit", "o-0", "--data", '{"refuse":"again"}', "--set", "data.a=1").code == 2
    assert "is not JSON" in dlq("edit", "o-0", "--data", "{oops").err
    assert "cannot be read" in dlq("edit", "o-0", "--data", "@missing.json").err
    ended = dlq("edit", "o-9", "--data", "1")
    assert (ended.code, ended.err) == (1, "anybroker: not among the first 10000 dead letters: o-9\n")


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_in_an_editor(shop: Any, dlq: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert "EDITOR: is not set" in dlq("edit", "o-0").err
    monkeypatch.setenv("EDITOR", "true")
    assert dlq("edit", "o-0").out == "unchanged: nothing is sent\n"
    monkeypatch.setenv("EDITOR", "false")
    assert "EDITOR: false ended with 1" in dlq("edit", "o-0").err
    script = folder / "editor.py"
    script.write_text(
        "import pathlib, sys\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().replace('-5', '8'))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    assert dlq("edit", "o-0").out == "edited and replayed: 1\n"
    assert shop.work() == [{"cents": 8, "refuse": "negative"}]
