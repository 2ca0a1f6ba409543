"""Running an async test: in its own event loop, with nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

__all__ = ["run_test"]

_LEAVE = 1.0
"""Seconds that tasks have to end after the test has closed everything."""


class Kit(Protocol):
    """What the test works with."""

    patience: float
    """Seconds that closing may take."""

    async def close(self) -> None:
        """End what the test left open."""


def run_test(function: Callable[..., Awaitable[None]], arguments: Mapping[str, Any], kit: Kit, seconds: float) -> None:
    """Run the test; it fails after ``seconds``, or if a task or an unretrieved error is left behind."""
    problems: list[dict[str, Any]] = []
    with asyncio.Runner(debug=False) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        runner.run(_bounded(function, arguments, kit, seconds))
    if problems:
        first = problems[0]
        raise AssertionError(f"{len(problems)} errors in the loop, the first: {first['message']}") from first.get(
            "exception"
        )


async def _bounded(
    function: Callable[..., Awaitable[None]], arguments: Mapping[str, Any], kit: Kit, seconds: float
) -> None:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            await function(**arguments)
    except TimeoutError as exc:
        if limit.expired():
            raise AssertionError(f"the test did not end within {seconds:g} s") from exc
        raise
    finally:
        try:
            async with asyncio.timeout(kit.patience):
                await kit.close()
        except TimeoutError as exc:
            raise AssertionError(f"closing what the test had opened took more than {kit.patience:g} s") from exc
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_LEAVE)
    if left:
        raise AssertionError(f"tasks were left running: {', '.join(sorted(str(task) for task in left))}")
