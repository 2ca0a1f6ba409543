"""Small servers and commands in the place of brokers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from anybroker_contract.brokers.native import Install, Plan, Step
from anybroker_contract.brokers.ports import free_port
from anybroker_contract.brokers.tcp import connect, line

SERVER = Path(__file__).with_name("fake_server.py")


def greeted(port: int) -> None:
    with connect("127.0.0.1", port) as connection:
        assert line(connection) == "up"


def fake(*, before: tuple[Step, ...] = ()) -> Install:
    def install(folder: Path) -> Plan:
        port = free_port()
        return Plan(
            url=f"fake://127.0.0.1:{port}",
            argv=(sys.executable, str(SERVER), str(port), str(folder)),
            env=dict(os.environ),
            ready=lambda: greeted(port),
            before=before,
        )

    return install


def command(*argv: str) -> Install:
    def install(folder: Path) -> Plan:
        def refused() -> None:
            raise ConnectionRefusedError

        return Plan(url="fake://", argv=argv, env=dict(os.environ), ready=refused)

    return install
