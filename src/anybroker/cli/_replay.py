"""``anybroker replay``."""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..config.settings import nearest
from ..errors import ConfigError
from ..history import Replayed, ReplayProgress
from ..history.bounds import Bound
from ._connect import outside
from ._output import say, write, write_json
from ._run import load

__all__ = ["replay"]

_POSITION = re.compile(r"(.+)@([0-9]{1,18})")
_SHOWN = 20
"""Most failures that are written one by one."""


def replay(options: argparse.Namespace) -> int:
    """Replay a part of what a topic keeps."""
    bounds = _bound("--from", options.since), _bound("--to", options.until)
    handler = None if options.handler is None else _function(options.handler)
    try:
        done = asyncio.run(_replay(options, bounds, handler))
    except asyncio.CancelledError:  # SIGTERM
        raise KeyboardInterrupt from None
    if options.json:
        write_json(asdict(done))
    else:
        _show(options, done)
    return 0 if done.complete and not done.failed else 1


async def _replay(
    options: argparse.Namespace,
    bounds: tuple[Bound, Bound],
    handler: Callable[..., object] | None,
) -> Replayed:
    task = asyncio.current_task()
    assert task is not None
    if threading.current_thread() is threading.main_thread():  # signals come nowhere else
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with outside(options, "counted" if options.dry_run else "replayed") as (bus, progress):

        def show(now: ReplayProgress) -> None:
            progress.count = now.matched if options.dry_run else now.replayed
            progress.reach(now.passed, now.total)

        return await bus.replay(
            options.topic,
            from_=bounds[0],
            to=bounds[1],
            group=options.group,
            handler=handler,
            into=options.into,
            type=options.type,
            key=options.key,
            rate=options.rate,
            resume=options.resume,
            dry_run=options.dry_run,
            stop_on_failure=options.stop_on_failure,
            progress=show,
        )


def _show(options: argparse.Namespace, done: Replayed) -> None:
    target = f" into {done.target}" if done.target else ""
    if options.dry_run:
        write(f"{done.matched} of {done.read} events of {done.topic} would be replayed{target}")
        return
    write(f"replayed {done.replayed} of {done.read} events of {done.topic}{target}")
    if done.duplicates:
        write(f"{done.duplicates} of them were there already, from before an interruption")
    for failure in done.failures[:_SHOWN]:
        say(f"anybroker: {failure.place} ({failure.id}): {failure.error}")
    if len(done.failures) > _SHOWN:
        say(f"anybroker: and {len(done.failures) - _SHOWN} more failures (--json shows them)")
    if done.failed:
        write(f"failed: {done.failed}")
    if not done.complete:
        resume = f"; the same command goes on with it (--resume {options.resume})" if options.resume else ""
        say(f"anybroker: stopped before the event that failed{resume}")


def _bound(name: str, given: Sequence[str]) -> Bound:
    """A moment, or positions by lane."""
    positions = [_POSITION.fullmatch(text) for text in given]
    if positions and all(positions):
        return {found[1]: int(found[2]) for found in positions if found is not None}
    if not given:
        return None
    try:
        (text,) = given
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            name,
            f"{' and '.join(map(repr, given))} is neither one moment nor positions",
            "Write 2026-11-01, 2026-11-01T08:30:00+01:00, or a place such as orders/3@1204, once for each lane.",
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _function(target: str) -> Callable[..., object]:
    """What ``module:name`` names. Raises ConfigError."""
    module, name = load(target, "--handler", "function", "shop.audit:rebuild")
    found: Any = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError("--handler", f"{module.__name__} has no function {name!r}", nearest(name, functions))
    function: Callable[..., object] = found
    return function
