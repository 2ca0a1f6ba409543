"""Retrying: the core owns it, so that it means the same on every broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NoReturn

from ..delivery import Delivery
from ..engine.backoff import Backoff, Delays
from ..engine.starting import cancelled_from_outside
from ..errors import AttemptsExhausted, ConfigError, EventError, HandlerExit, Reject, Retry
from .layer import Chain, Handler, Layer
from .matching import Exceptions, Matching, listed
from .retry_after import retry_after as asked_by_server
from .schedule import Level, Schedule

__all__ = ["AttemptsExhausted", "Uncounted", "retry"]

_BACKOFF = (0.1, 3.0, 30.0)
"""The defaults of ``first``, ``factor`` and ``cap``."""
_ATTEMPTS = 5
_EVERY = (Exception,)


class _Again(Retry):
    """What retry raises to the engine: the wait is decided, and whether the event leaves meanwhile."""

    def __init__(self, after: float, release: bool, by_copy: bool, reason: str) -> None:
        super().__init__(after, reason)
        self.release = release
        self.by_copy = by_copy
        """Whether it has to leave as a copy, because the broker's own release would lose something."""


class retry(Layer):  # noqa: N801 - used as a decorator
    """Start the handler again when it failed: up to ``attempts`` starts in all, with full jitter between them.

    :param attempts: handler starts in this group, the first included. 1 or more. Default: 5; with a list of ``delays``
        one more than it has; with ``for_`` and no list as many as there is time for.
    :param mode: ``hold`` waits in place: the key and the lease are held, other keys go on (the default for ordered
        subscriptions, and where ``then`` is given). ``release`` gives the event back to the broker with the delay: the
        slot is free, and the event's order is given up (the default for unordered ones, where the broker can). A wait
        of over 12 hours is made in place where the release is a copy.
    :param first: seconds, the upper bound of the first wait; each further bound is ``factor`` times the last.
    :param cap: seconds, the longest bound.
    :param delays: seconds, instead of these: one number, or a list with a wait for each further start. With more
        ``attempts`` the last one is repeated; with fewer the rest is not used. No jitter.
    :param for_: seconds. No further start is made if its wait would end more than this after the event's first failed
        start in this group. That moment goes with a released event, which is a copy on every broker then. It begins
        anew if the event goes back to the broker in another way: after a crash, a restart or a rebalance.
    :param on: retry these exceptions only (default: every Exception). A class, a function of an exception
        (``lambda exc: exc.status >= 500``), or several of both.
    :param give_up_on: never retry these; wins over ``on`` and ``per``.
    :param per: other policies for some exceptions: ``{TimeoutError: retry(attempts=10, delays=1)}``. The first that
        matches decides, whatever ``on`` says. The number of starts is that of the event, whatever the others failed
        with.
    :param then: what follows when these starts are used up: ``retry(3, then=retry(delays=[60, 300]))`` holds the event
        for two short waits, and then releases it twice, with long ones. There, each of ``attempts`` and of ``delays``
        is one further start; ``delivery.attempt`` goes on counting. ``for_`` bounds all of them together.
    :param retry_after: whether to wait as long as HTTP's ``Retry-After`` says, where the exception or its cause has a
        response (``exc.response.headers``) or ``exc.headers``. Seconds or a date; a value that is neither is ignored.
    :param longest_after: seconds of such a wait at most.
    :param gives_up_order: confirms ``mode="release"`` on an ordered subscription, here and in ``then`` and ``per``.

    What cannot be decoded or validated is never retried, and neither is :class:`~anybroker.errors.Reject`. Waits end
    at once on shutdown, when the lane is revoked or the lease lost, without using up an attempt; neither does a start
    that the end of the drain time cuts off. Whatever else a handler raises is a failed start, ``SystemExit`` and its
    own cancellation included. A function of ``on``, ``give_up_on`` or ``per`` that raises does not match; that is
    logged once.
    """

    kind = "retry"
    after = ("dead_letter", "retry_budget", "deadline")
    waits_after = False

    def __init__(
        self,
        attempts: int | None = None,
        *,
        mode: Literal["hold", "release"] | None = None,
        first: float = _BACKOFF[0],
        factor: float = _BACKOFF[1],
        cap: float = _BACKOFF[2],
        delays: float | Iterable[float] | None = None,
        for_: float | None = None,
        on: Exceptions = _EVERY,
        give_up_on: Exceptions = (),
        per: Mapping[Exceptions, retry] | None = None,
        then: retry | None = None,
        retry_after: bool = True,
        longest_after: float = 300.0,
        gives_up_order: bool = False,
    ) -> None:
        if attempts is not None and (isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1):
            raise ConfigError(
                "retry(attempts=)", f"{attempts!r} is not a number of starts", "Use 1 (no retry) or more."
            )
        if mode not in (None, "hold", "release"):
            raise ConfigError("retry(mode=)", f"{mode!r} is not a mode", "Use 'hold' or 'release'.")
        for name, value in (("first", first), ("cap", cap), ("longest_after", longest_after)):
            _check_seconds(name, value)
        if not factor >= 1:
            raise ConfigError("retry(factor=)", f"{factor!r} makes waits shorter", "Use 1 or more.")
        if factor == float("inf"):
            raise ConfigError("retry(factor=)", "inf is not a factor", "Use a number of 1 or more, such as 3.")
        if for_ is not None:
            _check_seconds("for_", for_)
        if delays is not None and (first, factor, cap) != _BACKOFF:
            raise ConfigError("retry(delays=)", "is given with first, factor or cap", "Use delays, or the others.")
        self.attempts = attempts
        self.mode = mode
        self.for_ = for_
        self.then = then
        self.gives_up_order = gives_up_order
        self._between: Backoff | Delays = Backoff(first=first, cap=cap, factor=factor)
        self._listed: int | None = None
        if delays is not None:
            self._between = listing = _delays(delays)
            self._listed = len(listing) if isinstance(delays, Iterable) else None
        self._chooses = bool(give_up_on != () or on is not _EVERY or per)
        self._on = Matching("retry(on=)", listed(on))
        self._give_up_on = Matching("retry(give_up_on=)", listed(give_up_on))
        self._per = [
            (Matching("retry(per=)", listed(which)), _inner("per", each)) for which, each in (per or {}).items()
        ]
        self._longest_after = longest_after if retry_after else None
        if then is not None and _inner("then", then).for_ is not None:
            raise ConfigError("retry(then=)", "has for_ of its own", "Give for_ to the outer retry: it bounds both.")

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        giving_up = chain.giving_up
        base = self._policy(chain, self.gives_up_order)
        per = [(matches, policy._policy(chain, self.gives_up_order)) for matches, policy in self._per]
        on, give_up_on = self._on, self._give_up_on

        def policy_for(exc: Exception) -> _Policy | None:
            if isinstance(exc, (Reject, EventError)) or give_up_on(exc):
                return None
            for matches, policy in per:
                if matches(exc):
                    return policy
            return base if on(exc) else None

        async def run(delivery: Delivery) -> None:
            try:
                await call_next(delivery)
            except Retry as exc:
                if not exc.counted:
                    raise
                base.retry_asked(delivery, exc)
            except Exception as exc:
                policy = policy_for(exc)
                if policy is None or (again := policy.again(delivery, exc)) is None:
                    raise
                raise again from exc
            except BaseException as exc:
                if cancelled_from_outside(exc, giving_up):
                    raise
                if (again := base.again(delivery, exc)) is None:
                    raise HandlerExit("the handler", exc) from exc
                raise again from exc

        return run

    def _policy(self, chain: Chain, confirmed: bool) -> _Policy:
        levels: list[Level] = []
        level: retry | None = self
        while level is not None:
            confirmed = confirmed or level.gives_up_order
            waits = level._waits(bool(levels), self.for_ is not None)
            levels.append(Level(waits, level._between, level._released(chain, confirmed)))
            level = level.then
        return _Policy(Schedule(levels, self.for_), self._longest_after)

    def _waits(self, follows: bool, bounded: bool) -> int | None:
        """How many waits it has. ``follows``: another level comes before it; ``bounded``: by ``for_``."""
        if self.attempts is not None:
            return self.attempts if follows else self.attempts - 1
        if self._listed is not None:
            return self._listed
        if bounded and self.then is None:
            return None
        return _ATTEMPTS if follows else _ATTEMPTS - 1

    def _released(self, chain: Chain, confirmed: bool) -> bool:
        capabilities = chain.capabilities
        if self.mode is None:
            return self.then is None and not chain.ordered and capabilities.supports("release")
        if self.mode == "hold":
            return False
        if chain.ordered and not confirmed:
            raise ConfigError(
                f"retry(mode='release') on handler {chain.handler.name}",
                f"the subscription {chain.topic}/{chain.group} is ordered, and a released event loses its place",
                "Use mode='hold', subscribe with ordered=False, or confirm with gives_up_order=True.",
            )
        capabilities.require("release", setting="retry(mode='release')", remedy="Use mode='hold'.")
        return True


class _Policy:
    """What follows a failure, on one subscription."""

    __slots__ = ("_longest_after", "_schedule")

    def __init__(self, schedule: Schedule, longest_after: float | None) -> None:
        """``longest_after``: None where no server is asked."""
        self._schedule = schedule
        self._longest_after = longest_after

    def again(self, delivery: Delivery, failure: BaseException) -> _Again | None:
        """Another start; None: there is none left."""
        found = self._next(delivery, failure, None)
        return found if isinstance(found, _Again) else None

    def retry_asked(self, delivery: Delivery, exc: Retry) -> NoReturn:
        """The handler asked for another start: raises it, or AttemptsExhausted."""
        found = self._next(delivery, exc, exc.after)
        if isinstance(found, _Again):
            raise found from exc
        raise AttemptsExhausted(self._schedule.starts, exc.reason, within=found) from exc

    def _next(self, delivery: Delivery, failure: BaseException, asked: float | None) -> _Again | float | None:
        schedule, longest = self._schedule, self._longest_after
        if schedule.starts is not None:
            delivery.starts_allowed = schedule.starts
        if asked is None and longest is not None and (asked := asked_by_server(failure)) is not None:
            asked = min(asked, longest)
        found = schedule.next(delivery, asked)
        if not isinstance(found, tuple):
            return found
        reason = failure.reason if isinstance(failure, Retry) else type(failure).__name__
        return _Again(*found, schedule.by_copy, reason)


class Uncounted(Retry):
    """Raised by a middleware: deliver again after this many seconds, and do not count this start as an attempt.

    For what is not the event's fault, such as a store that is down. It passes ``retry`` and ``dead_letter``, and keeps
    the event for as long as it is raised.
    """

    counted = False

    def __init__(self, after: float, reason: str) -> None:
        super().__init__(after, reason)


def _check_seconds(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"retry({name}=)", f"{value!r} is not a number of seconds", "Use 0 or more.")


def _delays(given: float | Iterable[float]) -> Delays:
    items = list(given) if isinstance(given, Iterable) else [given]
    for item in items:
        _check_seconds("delays", item)
    if not items:
        raise ConfigError("retry(delays=)", "is empty", "Give a number of seconds, or a list of them.")
    return Delays(items)


def _inner(name: str, inner: object) -> retry:
    """A policy within another: which exceptions are meant, the outer one says."""
    if not isinstance(inner, retry):
        raise ConfigError(f"retry({name}=)", f"{inner!r} is not a retry", "Give retry(…).")
    if inner._chooses:
        raise ConfigError(f"retry({name}=)", "has on, give_up_on or per of its own", "Give them to the outer retry.")
    return inner
