"""One start of a handler: in a context of its own, and with a cancellation that does not outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, current_delivery

if TYPE_CHECKING:
    Handle = Callable[[Delivery], Awaitable[None]]

__all__ = [
    "cancelled_from_outside",
    "contained",
    "start",
    "take_back_cancellation",
]


def _begin(handle: Handle, delivery: Delivery) -> tuple[Any, Any] | None:
    """Up to the first wait: what goes on from there, and what is waited for; None: it has returned already."""
    current_delivery.set(delivery)
    try:
        steps: Any = handle(delivery)
    except StopIteration as exc:  # to whoever looks on from outside, the end of a coroutine
        raise RuntimeError("the handler raised StopIteration") from exc
    if steps.__class__ is not CoroutineType:
        steps = steps.__await__()
    try:
        return steps, steps.send(None)
    except StopIteration:
        return None


@coroutine
def start(context: Context, handle: Handle, delivery: Delivery) -> Generator[Any, Any, None]:
    """``await handle(delivery)``, in this context, with ``current_delivery`` set in it.

    As a task of its own would, without the cost of one (2.6 µs): each step of the handler runs in the context, which
    nothing else uses. Cancellation and the loop's wake-ups go to the handler as they come.
    """
    run = context.run
    begun = run(_begin, handle, delivery)
    if begun is None:
        return
    steps, waiting = begun
    while True:
        thrown: BaseException | None = None
        sent: Any = None
        try:
            sent = yield waiting
        except GeneratorExit:  # the worker itself is thrown away
            run(steps.close)
            raise
        except BaseException as exc:  # noqa: BLE001 - it is the handler's, as in any other await
            thrown = exc
        try:
            waiting = run(steps.send, sent) if thrown is None else run(steps.throw, thrown)
        except StopIteration:
            return
        finally:
            thrown = None  # no reference from this frame to the exception, which refers to this frame


def cancelled_from_outside(exc: BaseException, giving_up: Callable[[], bool]) -> bool:
    """Whether what came out of a handler ends the worker: the engine has cancelled it, or throws it away.

    Every other exception is the handler's own, and a failed start: also a ``CancelledError``, which it may have asked
    for itself, and also ``SystemExit``.
    """
    return isinstance(exc, GeneratorExit) or (isinstance(exc, asyncio.CancelledError) and giving_up())


def contained(call: Handle, giving_up: Callable[[], bool]) -> Handle:
    """The innermost handler where something is awaited after it: a cancellation of its own task which it asked for, and
    did not wait for or swallowed, ends with it, and does not hit what comes next (marking it done, a middleware)."""

    async def run(delivery: Delivery) -> None:
        try:
            await call(delivery)
        except asyncio.CancelledError:
            raise  # a time-out's, the engine's, or its own: the one outside that knows decides
        except BaseException:
            await take_back_cancellation(giving_up)
            raise
        await take_back_cancellation(giving_up)

    return run


async def take_back_cancellation(giving_up: Callable[[], bool]) -> None:
    """What the handler that has just ended asked for, or a time-out that it missed by a moment, must not hit what is
    awaited next. The engine's own cancellation is passed on."""
    task = asyncio.current_task()
    if task is None or not task.cancelling() or giving_up():
        return
    while task.cancelling():
        task.uncancel()
    try:
        await asyncio.sleep(0)  # before Python 3.13 a cancellation that was not delivered yet comes all the same
    except asyncio.CancelledError:
        if giving_up():
            raise
