"""Pausing while what a handler depends on is down, instead of failing each event through all its attempts."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias
from weakref import WeakSet

from ..adapter import Inbound
from ..delivery import Delivery
from ..engine.waiting import Place, Waiting
from ..errors import ConfigError, EventError, Reject, Retry, cause_of, text_of
from ..printable import logger
from .layer import Chain, Handler, Layer

__all__ = ["Circuit", "circuit"]

_log = logger("anybroker.handler")

_GROWTH = 2.0
"""How much longer each wait for a probe is than the one before."""

On: TypeAlias = type[Exception] | Iterable[type[Exception]] | Callable[[Exception], bool]
CircuitState: TypeAlias = Literal["closed", "open", "half-open"]


class Circuit:
    """A circuit that several handlers share, because they depend on the same thing::

        payments = Circuit("payments-api", failures=5, within=10, on=httpx.HTTPError)

        @bus.subscribe("orders", group="billing")
        @circuit(payments)
        async def charge(order: OrderPlaced) -> None: ...

    The settings are those of :class:`circuit`. It belongs to the event loop in which the Buses run that use it, and
    lives as long as the object: what it knows outlasts a close and start of a Bus.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        within: float = 10.0,
        share: float = 0.5,
        probe: float = 5.0,
        longest_probe: float = 60.0,
        on: On = Exception,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError("Circuit(name)", f"{name!r} is not a name", 'Write: Circuit("payments-api").')
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise ConfigError("circuit(failures=)", f"{failures!r} is not a number of starts", "Use 1 or more.")
        for setting, value in (("within", within), ("probe", probe), ("longest_probe", longest_probe)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"circuit({setting}=)", f"{value!r} is not a number of seconds over 0")
        if not 0 <= share <= 1:
            raise ConfigError("circuit(share=)", f"{share!r} is not a share", "Use a number from 0 to 1.")
        self.name = name
        self._limit = failures
        self._within = within
        self._share = share
        self._probe_after = probe
        self._longest = max(probe, longest_probe)
        self._counts = _counting(on)
        self._members: WeakSet[_Member] = WeakSet()
        self._closed = True
        self._half_open = False
        self._ended = 0
        """Starts that ended while it was closed."""
        self._failures: deque[tuple[float, int]] = deque(maxlen=failures)
        """The last ones: when, and how many starts had ended by then."""
        self._why = ""
        self._since = 0.0
        self._wait = probe
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._probe: Inbound | None = None
        self._probe_is_old = False
        self._fresh: OrderedDict[Inbound, Place] = OrderedDict()
        self._tried: OrderedDict[Inbound, Place] = OrderedDict()
        """Those that have failed as probes: the others are tried first."""

    @property
    def state(self) -> CircuitState:
        """``closed``: handlers start. ``open``: none does. ``half-open``: one does, as a probe."""
        if self._closed:
            return "closed"
        return "half-open" if self._half_open else "open"

    @property
    def is_open(self) -> bool:
        """Whether it is open or half-open."""
        return not self._closed

    def __repr__(self) -> str:
        return f"<Circuit {self.name!r}, {self.state}>"

    # ------------------------------------------------------------------------------------------------------- handlers

    def _bound(self, member: _Member) -> None:
        """A handler uses it from now on."""
        for before in [each for each in self._members if each.is_as(member)]:  # of an earlier start of the Bus
            self._members.discard(before)
        self._members.add(member)
        if self._closed:
            return
        self._tell()
        if not self._half_open and self._loop is not asyncio.get_running_loop():  # the other loop's timer is gone
            self._arm(max(self._until - _now(), 0.0))

    def _admits(self, delivery: Delivery) -> bool:
        """While it is not closed: whether this one starts, as the probe. Else it has to wait."""
        if self._probe is delivery.inbound:
            return True
        if not self._half_open or self._probe is not None or self._fresh or self._tried:
            return False
        self._probe, self._probe_is_old = delivery.inbound, False
        self._tell()
        return True

    def _failed(self, error: Exception) -> None:
        """A start failed while it was closed."""
        now = _now()
        self._ended += 1
        failures = self._failures
        failures.append((now, self._ended))
        if len(failures) < self._limit:
            return
        first, ended = failures[0]
        if now - first > self._within or self._limit < self._share * (self._ended - ended + 1):
            return
        self._closed = False
        self._since, self._wait, self._why = now, self._probe_after, f"{type(error).__name__}: {text_of(error)}"
        failures.clear()
        self._arm(self._wait)
        for stats in {id(member.chain.stats): member.chain.stats for member in self._members}.values():
            stats.circuits_opened += 1
        _log.error(
            "the circuit %r opens, and its handlers pause (%s): %d starts failed within %.1f s, the last with %s; it "
            "is tried again in %.1f s",
            self.name,
            ", ".join(sorted(member.name for member in self._members)),
            self._limit,
            now - first,
            self._why,
            self._wait,
        )
        self._tell()

    def _probe_failed(self, error: Exception) -> None:
        self._probe = None
        self._half_open = False
        self._why = f"{type(error).__name__}: {text_of(error)}"
        self._wait = min(self._wait * _GROWTH, self._longest)
        self._arm(self._wait)
        _log.info(
            "the circuit %r stays open, for %.1f s by now: the probe failed with %s; it is tried again in %.1f s",
            self.name,
            _now() - self._since,
            self._why,
            self._wait,
        )
        self._tell()

    def _probe_succeeded(self) -> None:
        self._probe = None
        self._closed = True
        self._half_open = False
        self._ended = 0
        _log.info("the circuit %r closes, after %.1f s", self.name, _now() - self._since)
        self._tell()
        waiting = [*self._fresh.values(), *self._tried.values()]
        self._fresh.clear()
        self._tried.clear()
        for place in waiting:
            place.call()

    def _probe_says_nothing(self) -> None:
        """It ended without a word about what is down: the next one is tried."""
        self._probe = None
        self._try_next()

    # ---------------------------------------------------------------------------------------------------- the waiting

    def _join(self, place: Place, tried: bool) -> None:
        if self._closed:  # in between
            place.call()
            return
        (self._tried if tried else self._fresh)[place.inbound] = place
        if self._half_open:
            self._try_next()

    def _left(self, inbound: Inbound) -> None:
        if self._fresh.pop(inbound, None) is None and self._tried.pop(inbound, None) is None:
            if self._probe is not inbound:
                return
            self._probe = None
        if self._half_open:
            self._try_next()

    def _arm(self, wait: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop = loop = asyncio.get_running_loop()
        self._until = _now() + wait
        self._timer = loop.call_later(wait, self._may_probe)

    def _may_probe(self) -> None:
        self._timer = None
        self._half_open = True
        _log.info("the circuit %r is half-open after %.1f s: one event is tried", self.name, self._wait)
        self._try_next()

    def _try_next(self) -> None:
        """While it is half-open: call a probe, if none runs and one waits."""
        if self._probe is None and (self._fresh or self._tried):
            self._probe_is_old = not self._fresh
            self._probe, place = (self._fresh or self._tried).popitem(last=False)
            self._tell()
            place.call()
        else:
            self._tell()

    def _tell(self) -> None:
        """Its handlers' subscriptions fetch nothing, but for an event to try where only those are here that failed."""
        fresh = bool(self._fresh) or (self._probe is not None and not self._probe_is_old)
        hold_back = not self._closed and (not self._half_open or fresh)
        problem = None if self._closed else f"the circuit {self.name!r} is open: {self._why}"
        for member in self._members:
            member.tell(hold_back, problem)


class circuit(Layer):  # noqa: N801 - used as a decorator
    """Pause the handler while what it depends on is down: ``@circuit(failures=5, within=10, probe=5)``, or
    ``@circuit(payments)`` with a :class:`Circuit` that several handlers share.

    :param failures: the circuit opens when so many starts have failed, and …
    :param within: … no more seconds lie between the first of them and the last, and …
    :param share: … they are at least this share of all starts that ended since the first of them. So a busy handler
        that fails now and then does not open it. 0 counts the failures alone.
    :param probe: seconds until one event is tried. If it fails, the wait doubles, up to …
    :param longest_probe: … so many seconds.
    :param on: the exceptions that count (default: every Exception): classes, or a function of the exception. What a
        handler gives as cause of a :class:`~anybroker.errors.Retry` is what is looked at.
        :class:`~anybroker.errors.Reject`, and what cannot be decoded or validated, never count.
    :param name: what it is called in logs and metrics; by default as its handler.

    While it is open, no start of the handler begins and nothing is acknowledged. Events that are here wait, with their
    leases kept and, on an ordered subscription, their keys closed: given back to the broker they would go from member
    to member, and lose their order where the broker keeps none. They use up no attempt, and neither does a probe that
    fails. When the circuits of all handlers of a subscription are open, it fetches nothing more, but for what a call of
    the broker brings that waits already; other handlers go on, until ``max_ahead`` events wait. ``close`` does not
    wait, and gives the events back.

    After ``probe`` seconds one event is tried, of all handlers that share the circuit: one that has not failed as a
    probe, else the one for which that is the longest ago. What does not count as a failure closes the circuit, and
    those that waited go on. A probe that was rejected, or put off by another middleware, says nothing: the next is
    tried.

    ``subscription.problem`` and ``bus.problems`` name an open circuit; the Bus stays ready, as another member could do
    no better. Each process has its own circuits. In a batch handler each event of a failed batch counts.
    """

    kind = "circuit"
    after = ("retry", "concurrency", "rate_limit")
    waits_after = False

    def __init__(
        self,
        shared: Circuit | None = None,
        /,
        *,
        failures: int = 5,
        within: float = 10.0,
        share: float = 0.5,
        probe: float = 5.0,
        longest_probe: float = 60.0,
        on: On = Exception,
        name: str = "",
    ) -> None:
        if shared is not None and not isinstance(shared, Circuit):
            raise ConfigError("circuit(shared)", f"{shared!r} is not a Circuit", 'Write: Circuit("payments-api").')
        settings = (failures, within, share, probe, longest_probe, on, name)
        if shared is not None and settings != (5, 10.0, 0.5, 5.0, 60.0, Exception, ""):
            raise ConfigError(
                f"circuit({shared.name!r}, …)", "has settings beside a shared Circuit", "Give them to the Circuit."
            )
        self.shared = shared

        def make(default: str) -> Circuit:
            return Circuit(
                name or default,
                failures=failures,
                within=within,
                share=share,
                probe=probe,
                longest_probe=longest_probe,
                on=on,
            )

        self._make = make
        make("checked")

    def bind(self, call_next: Handler, chain: Chain) -> Handler:
        """The composed handler."""
        shared = self._make(chain.handler.name) if self.shared is None else self.shared
        member = _Member(chain)
        chain.circuits[shared.name] = lambda: shared.is_open
        shared._bound(member)
        counts, admits, reason = shared._counts, shared._admits, f"the circuit {shared.name!r} is open"

        async def run(delivery: Delivery) -> None:
            if shared._closed:
                try:
                    await call_next(delivery)
                except Exception as exc:
                    if shared._closed and (failure := counts(exc)) is not None:
                        shared._failed(failure)
                    raise
                shared._ended += 1
                return
            if not admits(delivery):
                raise Waiting(_Turn(shared, member, False), reason)
            await probe(delivery)

        async def probe(delivery: Delivery) -> None:
            said = False
            try:
                await call_next(delivery)
                if not delivery.is_suppressed:
                    said = True
                    shared._probe_succeeded()
            except Exception as exc:
                if (failure := counts(exc)) is not None:
                    said = True
                    shared._probe_failed(failure)
                    raise Waiting(_Turn(shared, member, True), reason) from exc
                if not isinstance(exc, Retry | Reject | EventError):
                    said = True
                    shared._probe_succeeded()
                raise
            finally:
                if not said:
                    shared._probe_says_nothing()

        return run


class _Member:
    """One handler that uses a circuit, while its subscription runs."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.name = f"{chain.topic}/{chain.group}, handler {chain.handler.name}"
        self._told: tuple[bool, str | None] = (False, None)

    def is_as(self, other: _Member) -> bool:
        """Whether both are the same handler."""
        return self.name == other.name and self.chain.stats is other.chain.stats

    def tell(self, hold_back: bool, problem: str | None) -> None:
        """What its subscription has to know."""
        if self._told == (hold_back, problem):
            return
        self._told = hold_back, problem
        self.chain.hold_back("circuit", hold_back)
        self.chain.problem(problem, kind="circuit")


class _Turn:
    """The engine's Line, for one wait of one event."""

    __slots__ = ("_member", "_tried", "owner")

    def __init__(self, owner: Circuit, member: _Member, tried: bool) -> None:
        self.owner = owner
        self._member = member
        self._tried = tried

    def join(self, place: Place) -> None:
        """Line.join."""
        self.owner._join(place, self._tried)

    def left(self, inbound: Inbound) -> None:
        """Line.left."""
        self.owner._left(inbound)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _counting(on: On) -> Callable[[Exception], Exception | None]:
    """A function that returns what counts as the failure, or None."""
    classes: tuple[type[Exception], ...] | None = None
    asks: Callable[[Exception], object] | None = None
    if isinstance(on, type):
        classes = (on,)
    elif callable(on):
        asks = on
    else:
        classes = tuple(on)
    for item in classes or ():
        if not (isinstance(item, type) and issubclass(item, Exception)):
            raise ConfigError(
                "circuit(on=)", f"{item!r} is not an exception class", "Give classes, or a function of the exception."
            )

    def counts(error: Exception) -> Exception | None:
        failure: BaseException | None = error
        if isinstance(error, Retry):
            if not error.counted:
                return None
            failure = cause_of(error) or error
        if not isinstance(failure, Exception) or isinstance(failure, Reject | EventError):
            return None
        if asks is None:
            return failure if isinstance(failure, classes or ()) else None
        try:
            return failure if asks(failure) else None
        except Exception:  # noqa: BLE001 - a function of the user's
            _log.exception("circuit(on=): the function failed, and the failure of the handler counts")
            return failure

    return counts
