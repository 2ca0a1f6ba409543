"""What a Bus logs of its own accord: everything that went wrong with an event, with the facts to find it by."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os.path import dirname, join
from typing import Any, Final

from ..adapter import Foreign
from ..cloudevents.event import Event
from ..delivery import Delivery
from ..engine.facts import about, about_delivery, named, short
from ..engine.observing import Observer
from ..errors import EventError, ExcInfo, UnhandledError, cause_of, exc_info_of, text_of
from ..printable import brief, logger
from .flood import Flood, HeldBack

__all__ = ["LogObserver"]

_log = logger("anybroker.handler")
_broker_log = logger("anybroker.broker")

_LONGEST_ERROR: Final = 500
"""Most characters of an exception's text in a line. A traceback has all of it."""
_MOST_TYPES: Final = 100
"""How many unknown types of one subscription are named in a line of their own."""
_OTHER_TYPES: Final = "other types"
_MOST_TAKEN: Final = 10
"""How many of the types that handlers take are named in a line."""
_OWN: Final = join(dirname(dirname(__file__)), "")
"""Where the library's own code is."""
_MORE: Final = {
    "dead letter": "dead letters",
    "lease": "leases were lost",
    "retry": "failed starts, which are made again",
    "slow": "slow handlers",
    "stuck": "tries of events that can be neither finished nor dead-lettered",
    "unhandled": "events of a type that no handler takes",
}
"""By kind, what a summary counts."""


class LogObserver(Observer):
    """The first observer of every Bus. It is told of failures only, so that an event that succeeds costs nothing."""

    def __init__(
        self, dead_letters_of: Callable[[str, str], str], types_of: Callable[[str, str], Sequence[str]]
    ) -> None:
        """Of a topic and group: ``dead_letters_of``, its dead-letter topic; ``types_of``, what its handlers take."""
        self._dead_letters_of = dead_letters_of
        self._types_of = types_of
        self._flood = Flood(_tell)
        self._types: dict[tuple[str, str], set[str]] = {}

    def retried(self, delivery: Delivery, error: BaseException, wait: float) -> None:
        """WARNING."""
        if not self._lets(_log, logging.WARNING, "retry", delivery, error):
            return
        most = getattr(delivery, "starts_allowed", None)
        _log.warning(
            "%s/%s: the handler %s failed at attempt %d%s and starts again in %.1f s, with %s: %s",
            delivery.topic,
            delivery.group,
            delivery.handler,
            delivery.attempt,
            "" if most is None else f" of {most}",
            wait,
            named(delivery.event),
            _said(error),
            extra=about_delivery(delivery),
        )

    def dead_lettered(self, delivery: Delivery, error: BaseException) -> None:
        """ERROR, with the traceback."""
        if not self._lets(_log, logging.ERROR, "dead letter", delivery, error):
            return
        attempts = delivery.attempt
        _log.error(
            "%s/%s: dead-lettered to %s after %d attempt%s%s: %s: %s",
            delivery.topic,
            delivery.group,
            self._dead_letters_of(delivery.topic, delivery.group),
            attempts,
            "" if attempts == 1 else "s",
            f" of the handler {delivery.handler}" if delivery.handler and attempts else "",
            named(delivery.event),
            _said(error),
            exc_info=_traced(error),
            extra=about_delivery(delivery),
        )

    def stuck(self, delivery: Delivery, error: BaseException, wait: float) -> None:
        """ERROR, with the traceback."""
        if not self._lets(_log, logging.ERROR, "stuck", delivery, error):
            return
        _log.error(
            "%s/%s: %s can be neither finished nor dead-lettered, next try in %.1f s: %s",
            delivery.topic,
            delivery.group,
            named(delivery.event),
            wait,
            _said(error),
            exc_info=_traced(error),
            extra=about_delivery(delivery),
        )

    def unhandled(self, delivery: Delivery) -> None:
        """WARNING, once a type; then its count."""
        if isinstance(delivery.verdict, UnhandledError) or not _is_on(_log, logging.WARNING):
            return  # its dead letter is logged
        topic, group = delivery.topic, delivery.group
        type_ = short(delivery.event.type)
        types = self._types.setdefault((topic, group), set())
        if type_ in types:
            self._flood.hold("unhandled", topic, group, type_)
        elif len(types) < _MOST_TYPES:
            types.add(type_)
            _log.warning(
                "%s/%s: no handler takes events of type %r, only %s: they are acknowledged and skipped. This is said "
                "once, and then how many there were",
                topic,
                group,
                type_,
                _listed(self._types_of(topic, group)),
                extra=about_delivery(delivery),
            )
        else:
            self._flood.hold("unhandled", topic, group, _OTHER_TYPES)

    def slow(self, delivery: Delivery, seconds: float) -> None:
        """WARNING."""
        if not self._lets(_log, logging.WARNING, "slow", delivery, None):
            return
        _log.warning(
            "%s/%s: the handler %s has been running for %.1f s, attempt %d, with %s",
            delivery.topic,
            delivery.group,
            delivery.handler,
            seconds,
            delivery.attempt,
            named(delivery.event),
            extra=about_delivery(delivery),
        )

    def lease_lost(self, topic: str, group: str, event: Event[Any] | Foreign) -> None:
        """WARNING."""
        if not _is_on(_broker_log, logging.WARNING) or not self._flood.lets("lease", topic, group, _kind(event)):
            return
        _broker_log.warning(
            "%s/%s: the lease of %s was lost: another member may have it, and what its handler does here is not "
            "settled",
            topic,
            group,
            named(event),
            extra=about(topic, group, event),
        )

    def closed(self) -> None:
        """Nothing is held back any longer."""
        self._flood.flush()

    def _lets(
        self, log: logging.Logger, level: int, kind: str, delivery: Delivery, error: BaseException | None
    ) -> bool:
        if not _is_on(log, level):
            return False
        name = delivery.handler or _kind(delivery.event) if error is None else type(error).__name__
        return self._flood.lets(kind, delivery.topic, delivery.group, name)


def _is_on(log: logging.Logger, level: int) -> bool:
    return log.isEnabledFor(level)


def _tell(held: HeldBack) -> None:
    log = _broker_log if held.kind == "lease" else _log
    say = log.error if held.kind in ("dead letter", "stuck") else log.warning
    say(
        "%s/%s: %d more %s, in %.1f s: %s",
        held.topic,
        held.group,
        held.lines,
        _MORE[held.kind],
        held.seconds,
        ", ".join(f"{name} ({count})" for name, count in held.names.items()),
        extra={**about(held.topic, held.group), "lines": held.lines},
    )


def _listed(types: Sequence[str]) -> str:
    names = ", ".join(repr(short(each)) for each in types[:_MOST_TAKEN])
    return names if len(types) <= _MOST_TAKEN else f"{names} and {len(types) - _MOST_TAKEN} more"


def _kind(event: Event[Any] | Foreign) -> str:
    return "not a CloudEvent" if isinstance(event, Foreign) else short(event.type)


def _said(error: BaseException) -> str:
    text = brief(text_of(error), _LONGEST_ERROR)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _traced(error: BaseException) -> ExcInfo | None:
    """It with its traceback, which begins outside the library if it leaves the library at all. None where that does not
    help: what is wrong with an event has none, and its causes may show data."""
    kind, value, inside = exc_info_of(error)
    if isinstance(error, EventError) or (inside is None and cause_of(error) is None):
        return None
    outside = inside
    while outside is not None and outside.tb_frame.f_code.co_filename.startswith(_OWN):
        outside = outside.tb_next
    return kind, value, outside or inside
