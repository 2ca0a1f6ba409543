"""Several servers of one kind that are one cluster, as processes of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from .api import Unavailable
from .context import Context
from .errors import Missing
from .kinds import KINDS
from .native import Install, NativeBroker

__all__ = ["Cluster", "start_cluster"]


class Cluster:
    """Its servers are ``nodes``: kill, start, restart, freeze and thaw each by itself.

    A server alone may not answer until others are there: start several by :meth:`start`, which waits for all of them,
    or one by ``nodes[0].begin()``, which waits for nothing. Its methods block; call them from one thread at a time.
    """

    def __init__(self, name: str, nodes: Sequence[NativeBroker], detail: str) -> None:
        self.name = name
        self.nodes = nodes
        self.detail = detail

    @property
    def url(self) -> str:
        """Names every server; stays the same."""
        scheme, _, first = self.nodes[0].url.partition("://")
        return f"{scheme}://{','.join([first, *(node.url.partition('://')[2] for node in self.nodes[1:])])}"

    @classmethod
    def launch(cls, context: Context, installs: Sequence[Install], detail: str) -> Self:
        """Start them side by side; raises ``BrokerFailed`` or ``Cancelled``, and then nothing of them is left."""
        with ThreadPoolExecutor(len(installs), "anybroker-cluster") as pool:
            preparing = [pool.submit(NativeBroker.prepared, context, install, detail) for install in installs]
        try:
            cluster = cls(context.name, [prepared.result() for prepared in preparing], detail)
            cluster.start()
        except BaseException:
            for prepared in preparing:
                if prepared.exception() is None:
                    prepared.result().stop()
            raise
        return cluster

    def start(self, *numbers: int) -> None:
        """Start these servers (by default all), which do not run; return when each of them answers."""
        chosen = [self.nodes[number] for number in numbers] or self.nodes
        for node in chosen:
            node.begin()
        for node in chosen:
            node.wait()

    def stop(self) -> None:
        """End them all and remove their data. Idempotent."""
        for node in self.nodes:
            node.stop()

    def __repr__(self) -> str:
        return f"<Cluster {self.name} {self.url}>"


def start_cluster(
    kind: str,
    size: int = 3,
    *,
    say: Callable[[str], None] = lambda _text: None,
    environ: Mapping[str, str] | None = None,
) -> Cluster | Unavailable:
    """Start this many servers as one cluster; return when each of them answers, or why there is none.

    A kind without clusters is a ``ValueError``. They end when this process ends, however it ends; ``Cluster.stop``
    ends them earlier."""
    find = KINDS[kind].find_cluster
    if find is None:
        raise ValueError(
            f"there are no clusters of {kind}, only of {', '.join(k for k in KINDS if KINDS[k].find_cluster)}"
        )
    context = Context(kind, say, dict(os.environ if environ is None else environ), threading.Event())
    try:
        installs, detail = find(context, size)
    except Missing as missing:
        return Unavailable(kind, missing.reason, missing.remedy)
    say(f"starting {detail}")
    return Cluster.launch(context, installs, detail)
