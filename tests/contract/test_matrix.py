"""The capability matrix is made of what the adapters declare, and a page that differs is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from anybroker.capabilities import Acknowledgement, Capabilities, Support
from anybroker_contract.matrix import END, START, main, matrix

ACME = Capabilities(
    adapter="acme",
    acknowledgement=Acknowledgement.CUMULATIVE,
    durable=Support.NATIVE,
    processes=Support.NATIVE,
    release=Support.EMULATED,
    delay=Support.NATIVE,
    max_delay=900,
    max_event_bytes=1024 * 1024,
)


def test_every_capability_is_a_row() -> None:
    lines = matrix([ACME]).splitlines()
    assert lines[0] == "|  | acme |"
    assert lines[2] == "| acknowledgement | cumulative |"
    assert {"| `durable` | ✓ |", "| `release` | ✓ (emulated) |", "| `seek` | – |"} <= set(lines)
    assert lines[-2:] == ["| largest event | 1 MiB |", "| longest delay | 900 s |"]
    assert len(lines) == 3 + len(ACME.table()) + 2


def test_write_then_check(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n", encoding="utf-8")
    assert main(["--adapter", "memory", "--check", str(page)]) == 1
    assert main(["--adapter", "memory", "--write", str(page)]) == 0
    assert main(["--adapter", "memory", "--check", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{START}\n|  | memory |")
    assert text.endswith(f"{END}\nafter\n")


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("nothing", encoding="utf-8")
    assert main(["--adapter", "memory", "--write", str(page)]) == 2
    assert page.read_text(encoding="utf-8") == "nothing"


def test_it_is_a_command() -> None:
    command = [sys.executable, "-m", "anybroker_contract.matrix", "--adapter", "memory"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=True)
    assert ran.stdout.startswith("|  | memory |")
