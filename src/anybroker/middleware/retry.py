"""Retrying: the core owns it, so that it means the same on every broker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..delivery import Delivery
from ..engine.backoff import Backoff
from ..engine.starting import cancelled_from_outside
from ..errors import AttemptsExhausted, ConfigError, EventError, HandlerExit, Reject, Retry
from .layer import Chain, Handler, Layer

__all__ = ["AttemptsExhausted", "Uncounted", "retry"]

_Exceptions = type[Exception] | tuple[type[Exception], ...]


class _Again(Retry):
    """What retry raises to the engine: the wait is decided, and whether the event leaves meanwhile."""

    def __init__(self, after: float, release: bool, reason: str) -> None:
        super().__init__(after, reason)
        self.release = release


class retry(Layer):  # noqa: N801 - used as a decorator
    """Start the handler again when it failed: up to ``attempts`` starts in all, with full jitter between them.

    :param attempts: handler starts in this group, the first included. 1 or more.
    :param mode: ``hold`` waits in place: the key and the lease are held, other keys go on (the default for ordered
        subscriptions). ``release`` gives the event back to the broker with the delay: the slot is free, and the
        event's order is given up (the default for unordered ones, where the broker can). A wait of over 12 hours is
        made in place where the release is emulated.
    :param first: seconds, the upper bound of the first wait; each further bound is ``factor`` times the last.
    :param cap: seconds, the longest bound.
    :param on: retry these exceptions only (default: every Exception).
    :param give_up_on: never retry these; wins over ``on``.
    :param gives_up_order: confirms ``mode="release"`` on an ordered subscription.

    What cannot be decoded or validated is never retried, and neither is :class:`~anybroker.errors.Reject`. Waits end
    at once on shutdown, when the lane is revoked or the lease lost, without using up an attempt; neither does a start
    that the end of the drain time cuts off. Whatever else a handler raises is a failed start, ``SystemExit`` and its
    own cancellation included.
    """

    kind = "retry"
    after = "dead_letter"
    waits_after = False

    def __init__(
        self,
        attempts: int = 5,
        *,
        mode: Literal["hold", "release"] | None = None,
        first: float = 0.1,
        factor: float = 3.0,
        cap: float = 30.0,
        on: _Exceptions | Iterable[type[Exception]] = (Exception,),
        give_up_on: _Exceptions | Iterable[type[Exception]] = (),
        gives_up_order: bool = False,
    ) -> None:
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigError(
                "retry(attempts=)", f"{attempts!r} is not a number of starts", "Use 1 (no retry) or more."
            )
        if mode not in (None, "hold", "release"):
            raise ConfigError("retry(mode=)", f"{mode!r} is not a mode", "Use 'hold' or 'release'.")
        for name, value in (("first", first), ("cap", cap)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"retry({name}=)", f"{value!r} is not a number of seconds", "Use 0 or more.")
        if not factor >= 1:
            raise ConfigError("retry(factor=)", f"{factor!r} makes waits shorter", "Use 1 or more.")
        if factor == float("inf"):
            raise ConfigError("retry(factor=)", "inf is not a factor", "Use a number of 1 or more, such as 3.")
        self.attempts = attempts
        self.mode = mode
        self.on = _exceptions("on", on)
        self.give_up_on = _exceptions("give_up_on", give_up_on)
        self.gives_up_order = gives_up_order
        self._backoff = Backoff(first=first, cap=cap, factor=factor)

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        release = self._released(chain)
        attempts, on, backoff, giving_up = self.attempts, self.on, self._backoff, chain.giving_up
        give_up_on: tuple[type[Exception], ...] = (Reject, EventError, *self.give_up_on)

        async def run(delivery: Delivery) -> None:
            try:
                await call_next(delivery)
            except Retry as exc:
                if not exc.counted:
                    raise
                delivery.starts_allowed = attempts
                if delivery.attempt >= attempts:
                    raise AttemptsExhausted(attempts, exc.reason) from exc
                wait = backoff.wait(delivery.attempt) if exc.after is None else exc.after
                raise _Again(wait, release, exc.reason) from exc
            except give_up_on:
                raise
            except on as exc:
                delivery.starts_allowed = attempts
                if delivery.attempt >= attempts:
                    raise
                raise _Again(backoff.wait(delivery.attempt), release, type(exc).__name__) from exc
            except Exception:
                raise
            except BaseException as exc:
                if cancelled_from_outside(exc, giving_up):
                    raise
                delivery.starts_allowed = attempts
                if delivery.attempt >= attempts:
                    raise HandlerExit("the handler", exc) from exc
                raise _Again(backoff.wait(delivery.attempt), release, type(exc).__name__) from exc

        return run

    def _released(self, chain: Chain) -> bool:
        capabilities = chain.capabilities
        if self.mode is None:
            return not chain.ordered and capabilities.supports("release")
        if self.mode == "hold":
            return False
        if chain.ordered and not self.gives_up_order:
            raise ConfigError(
                f"retry(mode='release') on handler {chain.handler.name}",
                f"the subscription {chain.topic}/{chain.group} is ordered, and a released event loses its place",
                "Use mode='hold', subscribe with ordered=False, or confirm with gives_up_order=True.",
            )
        capabilities.require("release", setting="retry(mode='release')", remedy="Use mode='hold'.")
        return True


class Uncounted(Retry):
    """Raised by a middleware: deliver again after this many seconds, and do not count this start as an attempt.

    For what is not the event's fault, such as a store that is down. It passes ``retry`` and ``dead_letter``, and keeps
    the event for as long as it is raised.
    """

    counted = False

    def __init__(self, after: float, reason: str) -> None:
        super().__init__(after, reason)


def _exceptions(name: str, given: _Exceptions | Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    listed = (given,) if isinstance(given, type) else tuple(given)
    for item in listed:
        if not (isinstance(item, type) and issubclass(item, Exception)):
            raise ConfigError(
                f"retry({name}=)", f"{item!r} is not an exception class", "Give classes, such as ValueError."
            )
    return listed
