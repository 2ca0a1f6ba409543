"""A primary that dies, and a standby that takes its place."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from anybroker.idempotency import DONE, Claim, StoreUnavailable
from anybroker_contract.brokers.ports import free_port
from anybroker_postgres import PostgresStore

Run = Callable[[Coroutine[Any, Any, None]], None]
LEASE, RETAIN = 20.0, 3_600.0


class Standby:
    """A hot standby of the test's server, on this machine."""

    def __init__(self, programs: Path, folder: Path, port: int, environ: dict[str, str]) -> None:
        self.programs = programs
        self.folder = folder
        self.port = port
        self.options: dict[str, Any] = {"env": environ, "cwd": "/", "stdout": subprocess.DEVNULL}
        if os.geteuid() == 0:  # whom PostgreSQL refuses
            self.options["user"] = pwd.getpwnam("postgres").pw_uid
            os.chown(folder, self.options["user"], -1)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, primary: int) -> None:
        data = str(self.folder / "data")
        source = ("-h", "127.0.0.1", "-p", str(primary), "-U", "postgres")
        self.run("pg_basebackup", *source, "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
        self.process = subprocess.Popen(
            [
                *(self.programs / "postgres", "-D", data, f"--port={self.port}", "--unix_socket_directories="),
                "--max_connections=200",  # not less than the primary's, or it refuses to start
            ],
            stderr=subprocess.DEVNULL,
            **self.options,
        )

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run([self.programs / program, *arguments], check=True, timeout=60, **self.options)

    def promote(self) -> None:
        self.run("pg_ctl", "promote", "-D", str(self.folder / "data"), "-w")

    def sql(self, statement: str) -> Any:
        try:
            with psycopg.connect(
                f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True
            ) as connection:
                row = connection.execute(statement.encode()).fetchone()
        except psycopg.OperationalError:
            return None
        return row and row[0]

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def standby(server: Any) -> Iterator[Standby]:
    """Not started."""
    if server.broker.source != "native":
        pytest.skip("the server is not a process of this machine: it cannot have a standby here")
    found = shutil.which("postgres") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres")))
    folder = Path(tempfile.mkdtemp(prefix="anybroker-standby-"))  # the server's user has no way into pytest's folders
    this = Standby(Path(found).resolve().parent, folder, free_port(), {"PATH": os.environ["PATH"], "LC_ALL": "C"})
    try:
        yield this
    finally:
        this.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_store_follows_a_fail_over(server: Any, run: Run, standby: Standby, until: Any) -> None:
    """Named first, the standby is not taken for the primary; when the primary dies nothing can be claimed; when the
    standby is promoted, what was done is done, and claims have higher numbers."""
    primary = urlsplit(server.url).port

    async def main() -> None:
        await asyncio.to_thread(standby.start, primary)
        await until(lambda: standby.sql("SELECT pg_is_in_recovery()"))
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary}"
        store = PostgresStore(f"postgresql://postgres@{hosts}/postgres", schema=server.schema, timeout=3.0)
        await store.open()
        try:
            done, held = await asyncio.gather(
                *(store.claim(("g", "h", "s", name), "a", LEASE, RETAIN) for name in ("done", "held"))
            )
            assert isinstance(done, Claim)
            assert isinstance(held, Claim)
            assert await store.done(done)
            (written,) = server.sql("SELECT pg_current_wal_lsn()")[0]
            await until(lambda: standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'"))
            await asyncio.to_thread(server.broker.kill)
            try:
                with pytest.raises(StoreUnavailable):
                    await store.claim(("g", "h", "s", "later"), "a", LEASE, RETAIN)
                await asyncio.to_thread(standby.promote)
                async with asyncio.timeout(20):
                    while True:
                        try:
                            again = await store.claim(done.key, "b", LEASE, RETAIN)
                            break
                        except StoreUnavailable:
                            await asyncio.sleep(0.05)
                assert again is DONE
                assert await store.done(held) is True
                later = await store.claim(("g", "h", "s", "later"), "a", LEASE, RETAIN)
                assert isinstance(later, Claim)
                assert later.fence > max(done.fence, held.fence)
            finally:
                await asyncio.to_thread(server.broker.start)
        finally:
            await store.close()

    run(main())


def test_a_standby_alone_is_read_only(server: Any, run: Run, standby: Standby, until: Any) -> None:
    async def main() -> None:
        await asyncio.to_thread(standby.start, urlsplit(server.url).port)
        await until(lambda: standby.sql("SELECT pg_is_in_recovery()"))
        store = PostgresStore(f"postgresql://postgres@127.0.0.1:{standby.port}/postgres", schema=server.schema)
        with pytest.raises(StoreUnavailable, match="read-only"):
            await store.open()

    run(main())
