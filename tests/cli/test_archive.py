"""``anybroker dlq export`` and ``anybroker dlq import``."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--patience", "0.2")


def test_what_was_exported_can_be_imported(
    shop: Any, anybroker: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.fill(*({"refuse": f"no {n}", "n": n} for n in range(4)), key="k", headers={"x-origin": "web"})

    def dlq(action: str, *arguments: object) -> Any:
        return anybroker("dlq", action, "orders", "billing", *arguments, "--url", shop.url, *QUICK)

    before = dlq("list", "--json").json
    file = folder / "letters.jsonl"
    ended = dlq("export", file)
    assert (ended.code, ended.out, ended.err) == (0, "", "exported: 4\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dlq("list", "--json").json == before
    assert dlq("export", file).err.startswith(f"anybroker: FILE: {file} cannot be made: File exists.")
    one = dlq("export", "-", "--where", "data.n=2")
    assert one.out == file.read_text().splitlines(keepends=True)[2]
    assert dlq("discard", "--all").out == "discarded: 4\n"
    arguments = ("import", "orders", "billing", file, "--url", shop.url)
    assert anybroker("dlq", *arguments, "--dry-run").out == "would be imported: 4\n"
    assert dlq("list", "--json").json == []
    assert anybroker("dlq", *arguments, "--rate", 100).out == "imported: 4\n"
    assert dlq("list", "--json").json == before
    assert dlq("replay", "--all").out == "replayed: 4\n"
    assert [order["n"] for order in shop.work()] == [0, 1, 2, 3]
    monkeypatch.setattr("sys.stdin", io.StringIO(one.out))
    assert anybroker("dlq", "import", "orders", "stock", "-", "--url", shop.url, "--json").json == {"imported": 1}
    (letter,) = anybroker("dlq", "list", "orders", "stock", "--json", "--url", shop.url).json
    assert (letter["id"], letter["group"], letter["reason"]) == ("o-2", "stock", "no 2")


def test_a_file_that_was_not_exported_changes_nothing(shop: Any, anybroker: Any, folder: Path) -> None:
    shop.fill({"refuse": "no"})
    (folder / "bad.jsonl").write_text('\n{"format": "other"}\n')
    ended = anybroker("dlq", "import", "orders", "billing", "bad.jsonl", "--url", shop.url)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("anybroker: line 2: is not an exported dead letter")
    assert anybroker("dlq", "import", "orders", "billing", "none.jsonl", "--url", shop.url).code == 2
    assert anybroker("dlq", "export", "orders", "nobody", "out.jsonl", "--url", shop.url).code == 2
    assert not (folder / "out.jsonl").exists()
