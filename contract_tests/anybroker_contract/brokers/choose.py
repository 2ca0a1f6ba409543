"""Which source each broker comes from, and starting all of them side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from .api import Broker, Unavailable
from .context import Context
from .errors import BrokerFailed, Missing
from .given import GivenBroker
from .kinds import KINDS, Kind
from .native import NativeBroker

if TYPE_CHECKING:
    from .container import Docker

__all__ = ["start_brokers"]

Say = Callable[[str, str], None]


def start_brokers(
    names: Iterable[str],
    *,
    say: Say = lambda _name, _text: None,
    environ: Mapping[str, str] | None = None,
) -> dict[str, Broker | Unavailable]:
    """Start the named brokers in parallel; return when each one answers or is known to be unavailable.

    For each, the first of: the URL in ``ANYBROKER_TEST_<NAME>_URL``, a container, native processes. ``say(name,
    text)`` is progress for a person, called from several threads. An unknown name is a ``ValueError``. When this
    call is interrupted (Ctrl-C), what it had started is stopped before the exception propagates. The brokers end when
    this process ends, however it ends; ``Broker.stop`` ends them earlier.
    """
    wanted = list(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in KINDS]:
        raise ValueError(f"unknown broker {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if not wanted:
        return {}
    from .container import Docker

    environ = dict(os.environ if environ is None else environ)
    cancelled = threading.Event()
    docker = Docker()
    running: dict[str, Future[Broker | Unavailable]] = {}
    with ThreadPoolExecutor(len(wanted), "anybroker-start") as pool:
        for name in wanted:
            context = Context(name, lambda text, name=name: say(name, text), environ, cancelled)  # type: ignore[misc]
            running[name] = pool.submit(start_one, context, KINDS[name], docker)
        try:
            return {name: future.result() for name, future in running.items()}
        except BaseException:
            cancelled.set()
            for future in running.values():
                if future.exception() is None and isinstance(broker := future.result(), Broker):
                    broker.stop()
            raise


def start_one(context: Context, kind: Kind, docker: Docker) -> Broker | Unavailable:
    """Try one broker's sources in their order."""
    url = context.setting("URL")
    if url is not None:
        # A named broker is used, or the run fails: no other source silently takes its place.
        try:
            return GivenBroker.found(context, url)
        except Missing as missing:
            return Unavailable(context.name, missing.reason, missing.remedy)
    before: list[str] = []
    remedies: list[str] = []
    logs: list[str] = []
    sources: list[Callable[[str], Broker]] = [
        lambda why: docker.launch(context, kind.image, why),
        lambda why: _native(context, kind, why),
    ]
    for source in sources:
        context.check()
        try:
            return source("; ".join(before))
        except Missing as missing:
            before.append(missing.reason)
            remedies.append(missing.remedy)
        except BrokerFailed as failure:
            before.append(str(failure).splitlines()[0])
            logs.append(str(failure))
        context.say(before[-1])
    return Unavailable(context.name, "; ".join(before), next(filter(None, reversed(remedies)), ""), "\n".join(logs))


def _native(context: Context, kind: Kind, why: str) -> Broker:
    install, detail = kind.find(context)
    context.say(f"starting {detail}")
    return NativeBroker.launch(context, install, f"{detail}, native ({why})" if why else f"{detail}, native")
