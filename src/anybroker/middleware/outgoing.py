"""Middleware of the publish side: ``@publish_middleware async def stamp(outgoing, call_next): …``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..adapter import Receipt
from ..cloudevents.event import Event
from ..errors import ConfigError
from ..handlers.annotations import signature

if TYPE_CHECKING:
    from ..engine.spans import Publication

__all__ = ["Outgoing", "PublishHandler", "PublishMiddleware", "publish_middleware"]


class Outgoing:
    """An event on its way out: replace ``event`` or add to ``headers`` before ``call_next``."""

    __slots__ = ("deadline", "event", "headers", "not_before", "publication", "release", "topic", "within")

    def __init__(
        self,
        topic: str,
        event: Event[Any],
        headers: dict[str, str],
        not_before: float | None = None,
        deadline: float | None = None,
        within: object = None,
    ) -> None:
        self.topic = topic
        self.event = event
        self.headers = headers
        """Transport headers: they travel beside the event. What is added is held to the rules of ``publish``."""
        self.not_before = not_before
        self.deadline = deadline
        self.within = within
        """The transaction that it becomes a part of, instead of being sent now."""
        self.release: Callable[[], None] = _nothing
        self.publication: Publication | None = None


PublishHandler = Callable[[Outgoing], Awaitable[Receipt]]
PublishMiddleware = Callable[[PublishHandler], PublishHandler]


def _nothing() -> None:
    """Nobody waits for this one."""


def publish_middleware(function: Callable[[Outgoing, PublishHandler], Awaitable[Receipt]], /) -> PublishMiddleware:
    """Make a publish middleware of ``async def name(outgoing, call_next)``; it returns ``await call_next(outgoing)``.

    For ``Bus(publish_middleware=[…])``. Events of one key stay in the order in which publish was called: the next one
    enters when this one was handed to the broker's sender.

    Raises ConfigError if the function is not ``async def`` or does not take two arguments.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function) or len(signature(function).parameters) != 2:
        raise ConfigError(
            f"@publish_middleware {name}",
            "is not 'async def' with two parameters",
            "Write: async def name(outgoing, call_next): return await call_next(outgoing).",
        )

    def compose(call_next: PublishHandler) -> PublishHandler:
        async def run(outgoing: Outgoing) -> Receipt:
            result: Any = await function(outgoing, call_next)
            if inspect.iscoroutine(result):  # it forgot to await call_next: nothing would be sent
                result = await result
            if not isinstance(result, Receipt):
                raise TypeError(
                    f"publish middleware {name} returned {type(result).__name__} where a Receipt is needed: "
                    "return await call_next(outgoing). The event may have been sent"
                )
            return result

        return run

    compose.__name__ = name
    return compose
