"""Free ports that stay free."""

from __future__ import annotations

import socket
import subprocess
import sys

from anybroker_contract.brokers import ports
from anybroker_contract.brokers.ports import FIRST, LAST, free_port


def test_each_is_another_and_nothing_listens() -> None:
    got = [free_port() for _ in range(50)]
    assert len(set(got)) == 50
    for port in got:
        assert FIRST <= port < LAST
        socket.create_server(("127.0.0.1", port)).close()


def test_another_process_gets_others() -> None:
    mine = free_port()
    # Of the whole range it may choose only mine and one more.
    code = (
        "from anybroker_contract.brokers import ports;"
        f"ports.random.SystemRandom.sample = lambda *_: [{mine}, {mine + 1 if mine + 1 < LAST else FIRST}];"
        "print(ports.free_port())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # When somebody else has the second one there is none, which is right too; mine it is never.
    assert other.stdout.strip() != str(mine)
    assert other.stdout or "no free port" in other.stderr


def test_one_that_is_listened_on_is_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not ports._unused(server.getsockname()[1])
