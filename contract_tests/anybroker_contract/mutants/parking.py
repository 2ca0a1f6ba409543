"""Flaws of parked keys, in the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from anybroker.adapter import Inbound
from anybroker.deadletters import queue
from anybroker.middleware import parking

from .core import CoreFlaw

_right_row: Any = parking.Parking._row
_right_init: Any = parking.Parking.__init__


class RunsWhatIsParked(CoreFlaw):
    """The events of a parked key are handled."""

    module: ClassVar[Any] = parking.Parking
    replaced: ClassVar[Mapping[str, str]] = {"is_concerned": "never"}

    def never(self, *_: object) -> bool:
        """As it is without parking."""
        return False


class StartsWhateverIsReplayed(CoreFlaw):
    """A replayed event is handled, whatever waits before it."""

    module: ClassVar[Any] = parking.Parking
    replaced: ClassVar[Mapping[str, str]] = {"_row": "row"}

    def __init__(self) -> None:
        super().__init__()

        async def row(of: Any, delivery: Any) -> Any:
            """As if it were the first one."""
            right = await _right_row(of, delivery)
            if right is None or not delivery.inbound.inlet:
                return right
            return right._replace(first=delivery.parked_as.partition(" ")[2])

        self.row = row

    row: Any


class KnowsEventsByTheirIds(CoreFlaw):
    """An event is taken for another one that has its source and id."""

    module: ClassVar[Any] = parking
    replaced: ClassVar[Mapping[str, str]] = {"identity": "name"}

    def name(self, inbound: Inbound) -> str:
        """Without its contents."""
        event: Any = inbound.event
        return f"{event.source} {event.id}"


class TakesAllLanesForItsOwn(CoreFlaw):
    """A member believes that nobody else parks the keys that it gets."""

    module: ClassVar[Any] = parking.Parking
    replaced: ClassVar[Mapping[str, str]] = {"__init__": "begin"}

    def __init__(self) -> None:
        super().__init__()

        def begin(of: Any, *arguments: Any) -> None:
            """Whatever the adapter says of its lanes."""
            _right_init(of, *arguments)
            of._exclusive = True

        self.begin = begin

    begin: Any


class ForgetsWhatWasParkedBefore(CoreFlaw):
    """A member does not ask which keys are parked when it gets a lane."""

    module: ClassVar[Any] = parking.Parking
    replaced: ClassVar[Mapping[str, str]] = {"_row": "row"}

    def __init__(self) -> None:
        super().__init__()

        async def row(of: Any, delivery: Any) -> Any:
            """As if there were none."""
            if delivery.lane_state.parked_keys is None:
                delivery.lane_state.parked_keys = set()
            return await _right_row(of, delivery) if of.is_concerned(delivery) else None

        self.row = row

    row: Any


class ReplaysAnyOfThem(CoreFlaw):
    """Dead letters of a parked key are replayed in whichever order they are found, and any of them alone."""

    module: ClassVar[Any] = queue
    replaced: ClassVar[Mapping[str, str]] = {"in_order": "chosen"}

    def chosen(self, _what: str, _letters: Any, chosen: Any, _force: bool) -> Any:
        """As they are."""
        return chosen
