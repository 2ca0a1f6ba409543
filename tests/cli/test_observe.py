"""``anybroker observe``: it prints the files of the package byte for byte, and serves what a watching process sees."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import anybroker.cli

FILES = Path(anybroker.__file__).parent / "observe" / "files"


@pytest.mark.parametrize(("command", "file"), [("rules", "rules.yml"), ("dashboard", "dashboard.json")])
def test_it_prints_the_file(anybroker: Any, command: str, file: str) -> None:
    ended = anybroker("observe", command)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (FILES / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["rules.yml", "dashboard.json"])
def test_a_terminal_of_any_encoding_can_show_it(file: str) -> None:
    assert (FILES / file).read_bytes().isascii()


def test_a_process_that_only_watches_serves_the_lag_of_groups_without_a_member(shop: Any) -> None:
    """Nothing consumes: what waits is counted by the name and the labels that the members would give it."""
    shop.fill({"number": 1}, {"refuse": "no"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "anybroker.cli", "observe", "serve", "orders/billing", "orders/audit"]
    options = ["--url", shop.url, "--address", address]
    watching = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        wanted = re.compile(r'^anybroker_lag_events\{.*group_name="billing".*\} 0\.0$', re.MULTILINE)
        end = time.monotonic() + 20
        while not wanted.search(text := _fetched(f"http://{address}/metrics")):
            assert time.monotonic() < end, text
            assert watching.poll() is None, watching.communicate()[1]
            time.sleep(0.1)
        assert re.search(r'^anybroker_dead_letters_depth\{.*group_name="billing".*\} 1\.0$', text, re.MULTILINE)
        assert not re.search(r'^anybroker_lag_events\{.*group_name="audit"', text, re.MULTILINE), (
            "there is no such group"
        )
        watching.send_signal(signal.SIGTERM)
        _, said = watching.communicate(timeout=20)
    finally:
        watching.kill()
    assert watching.returncode == 0
    assert f"watching orders/billing, orders/audit; http://{address}/metrics" in said
    assert "audit" in said.split("/metrics")[1], "a group that is not there is said"


def _fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, urllib.error.URLError):
        return ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["orders"], "TOPIC/GROUP: 'orders' names no group"),
        (["orders/"], "TOPIC/GROUP: 'orders/' names no group"),
        (["orders/bill ing"], "bill ing"),
        (["orders/billing", "--address", "nowhere"], "nowhere"),
        (["orders/billing", "--url", "sqlite:///missing.db"], "there is no file missing.db"),
        ([], "TOPIC/GROUP"),
    ],
)
def test_wrong_usage_of_the_watching_process_is_2(anybroker: Any, shop: Any, arguments: list[str], said: str) -> None:
    shop.fill({"number": 1})
    url = [] if "--url" in arguments else ["--url", shop.url]
    ended = anybroker("observe", "serve", *arguments, *url)
    assert ended.code == 2
    assert said in ended.err
