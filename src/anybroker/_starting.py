"""One start of a handler: in a context of its own, and with a cancellation that does not outlive it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import coroutine
from typing import TYPE_CHECKING, Any

from .delivery import Delivery, current_delivery

if TYPE_CHECKING:
    Handle = Callable[[Delivery], Awaitable[None]]

__all__ = ["cancelled_from_outside", "contained", "start"]


def _call(handle: Handle, delivery: Delivery) -> Any:
    current_delivery.set(delivery)
    return handle(delivery).__await__()


@coroutine
def start(context: Context, handle: Handle, delivery: Delivery) -> Generator[Any, Any, None]:
    """``await handle(delivery)``, in this context, with ``current_delivery`` set in it.

    As a task of its own would, without the cost of one (2.6 µs): each step of the handler runs in the context, which
    nothing else uses. Cancellation and the loop's wake-ups go to the handler as they come.
    """
    run = context.run
    try:
        steps = run(_call, handle, delivery)
    except StopIteration as exc:  # the end of a coroutine to whoever looks on from outside
        raise RuntimeError("the handler raised StopIteration") from exc
    send = steps.send
    try:
        waiting = run(send, None)
    except StopIteration:
        return
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
            waiting = run(send, sent) if thrown is None else run(steps.throw, thrown)
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
    """The innermost handler, so that a cancellation of its own task which it asked for, and did not wait for or
    swallowed, ends with it: what comes after it (marking it done, a dead letter) is not cancelled in its place."""

    async def run(delivery: Delivery) -> None:
        task = asyncio.current_task()
        try:
            await call(delivery)
        except asyncio.CancelledError:
            raise  # a time-out's, the engine's, or its own: the one outside that knows decides
        except BaseException:
            if task is not None and task.cancelling():
                await _take_back(task, giving_up)
            raise
        if task is not None and task.cancelling():
            await _take_back(task, giving_up)

    return run


async def _take_back(task: asyncio.Task[Any], giving_up: Callable[[], bool]) -> None:
    if giving_up():
        return
    while task.cancelling():
        task.uncancel()
    try:
        await asyncio.sleep(0)  # before Python 3.13 a cancellation that was not delivered yet comes all the same
    except asyncio.CancelledError:
        if giving_up():
            raise
