"""A Prometheus of this run alone: on loopback, with its own folder."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from ..brokers.context import Context
from ..brokers.install import debian_program
from ..brokers.ports import free_port
from ..brokers.process import Keeper, tail
from ..brokers.tools import plain_environ
from ..brokers.waiting import until_ready

__all__ = ["Prometheus", "find"]

ANSWER_SECONDS = 10.0


def find(say: Callable[[str], None]) -> str:
    """The path of ``prometheus``: Debian's package is installed where that is allowed. Raises ``Missing``."""
    return debian_program(Context("prometheus", say, os.environ), "prometheus", "prometheus")


class Prometheus:
    """Scrapes some services and evaluates some rules; ends with the block, or with this process."""

    def __init__(self, program: str, rules: str, ports: Mapping[str, int], interval: float) -> None:
        """``ports``: of the services, by the name of their job. ``interval``: seconds between two scrapes."""
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._keeper = Keeper("anybroker-prometheus-")
        folder = self._keeper.folder
        every = f"{round(interval * 1000)}ms"
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        config = {  # JSON is YAML
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{at}"]}]} for job, at in ports.items()
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
        self._argv = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Self:
        try:
            self._keeper.run(
                self._argv, env=plain_environ(Context("prometheus", environ=os.environ), self._keeper.folder)
            )
            until_ready("prometheus", lambda: self._fetch("/-/ready"), died=self._death, log=self.log)
        except BaseException:
            self._keeper.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.end()

    def log(self) -> str:
        """The end of its log."""
        return tail(self._keeper.log)

    def alerts(self) -> list[dict[str, Any]]:
        """What is pending or firing now."""
        found: list[dict[str, Any]] = self._ask("/api/v1/alerts")["alerts"]
        return found

    def rules(self) -> list[str]:
        """The names of the rules that it evaluates."""
        groups = self._ask("/api/v1/rules")["groups"]
        return [rule["name"] for group in groups for rule in group["rules"]]

    def targets_up(self) -> set[str]:
        """The jobs that were scraped the last time they were tried."""
        targets = self._ask("/api/v1/targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    def query(self, expression: str) -> int:
        """How many series an expression gives now. ``ValueError`` where it is not one."""
        return len(self._ask("/api/v1/query", query=expression)["result"])

    def label_values(self, label: str, selector: str) -> int:
        """How many values a label has in the series of a selector."""
        path = f"/api/v1/label/{label}/values"
        values: list[str] = self._ask(path, **{"match[]": selector})  # type: ignore[assignment] # a list, here
        return len(values)

    def _ask(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = json.loads(self._fetch(path, parameters))
        data: dict[str, Any] = answer["data"]
        return data

    def _fetch(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self._url}{path}{query}", timeout=ANSWER_SECONDS) as answer:
                body: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            if error.code == 400:
                raise ValueError(said) from None
            raise
        return body

    def _death(self) -> str | None:
        return None if self._keeper.running() else f"ended with exit code {self._keeper.exit_code()}"
