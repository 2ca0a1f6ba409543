"""Which dead letters are meant, by what they have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from ..errors import ConfigError
from .letter import DeadLetter
from .where import Where

__all__ = ["LetterFilter"]

_FINGERPRINT: Final = re.compile(r"r-[0-9a-f]{10}")
_AGO: Final = re.compile(r"([0-9]{1,9}(?:[.][0-9]{1,3})?)\s*([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, kw_only=True)
class LetterFilter:
    """Dead letters that fit everything that is given. Raises ConfigError for what cannot be understood.

    Times are moments with a zone; or texts: RFC 3339 (without a zone: UTC), or how long ago, such as ``90s``, ``15m``,
    ``2h``, ``7d``. A letter that does not say when it died is in no interval.
    """

    reason: str | None = None
    """The fingerprint of a reason (``r-`` and 10 hexadecimal digits), or a part of the reason's text, in any case."""
    type: str | None = None
    """The event's type; empty for what is not a CloudEvent."""
    key: str | None = None
    """The ordering key."""
    handler: str | None = None
    since: str | datetime | None = None
    """It died at this moment or later."""
    until: str | datetime | None = None
    """It died before this moment."""
    where: str | tuple[str, ...] = ()
    """Comparisons of fields, all of which must hold: ``data.cents>100``, ``subject=o-7``, ``data.items[0].sku~A-``,
    ``headers.x-tenant=north``; a path alone stands for what has the field."""
    _since: datetime | None = field(init=False, repr=False, compare=False)
    _until: datetime | None = field(init=False, repr=False, compare=False)
    _where: tuple[Where, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = (self.where,) if isinstance(self.where, str) else tuple(self.where)
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "_where", tuple(map(Where, where)))
        object.__setattr__(self, "_since", _moment("since", self.since))
        object.__setattr__(self, "_until", _moment("until", self.until))

    @property
    def given(self) -> dict[str, str | list[str]]:
        """What it asks for, by name, as text; empty if everything fits. Times are moments."""
        said: dict[str, str | list[str]] = {}
        for name in ("reason", "type", "key", "handler"):
            if (value := getattr(self, name)) is not None:
                said[name] = value
        for name, moment in (("since", self._since), ("until", self._until)):
            if moment is not None:
                said[name] = _written(moment)
        if self._where:
            said["where"] = [each.text for each in self._where]
        return said

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the letter fits."""
        if self.type is not None and letter.type != self.type:
            return False
        if self.key is not None and letter.key != self.key:
            return False
        if self.handler is not None and letter.handler != self.handler:
            return False
        return self._fits_time(letter) and self._fits_reason(letter) and all(e.matches(letter) for e in self._where)

    def _fits_time(self, letter: DeadLetter) -> bool:
        if self._since is None and self._until is None:
            return True
        died = _read(letter.died)
        if died is None:
            return False
        return (self._since is None or died >= self._since) and (self._until is None or died < self._until)

    def _fits_reason(self, letter: DeadLetter) -> bool:
        wanted = self.reason
        if wanted is None:
            return True
        if _FINGERPRINT.fullmatch(wanted) is not None:
            return letter.reason_fingerprint == wanted
        return wanted.casefold() in letter.reason.casefold()


def _read(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _moment(setting: str, given: str | datetime | None) -> datetime | None:
    if given is None:
        return None
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise ConfigError(setting, f"{given} has no zone", "Give it one: datetime.now(UTC).")
        return given
    moment = None
    try:
        ago = _AGO.fullmatch(given.strip())
        moment = _read(given) if ago is None else datetime.now(UTC) - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
    except (AttributeError, OverflowError):
        pass
    if moment is None:
        raise ConfigError(
            setting,
            f"{str(given)[:60]!r} is neither a time nor how long ago",
            "Write 2026-11-30T12:00:00Z, 2026-11-30, or 90s, 15m, 2h, 7d.",
        )
    return moment


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
