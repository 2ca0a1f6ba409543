"""What a Bus and its subscriptions have counted since they started."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["PublishStats", "SubscriptionStats"]


@dataclass(slots=True)
class PublishStats:
    """Counted by the publisher."""

    published: int = 0
    """Confirmed by the broker."""
    failed: int = 0
    """Ended with an error."""
    unknown: int = 0
    """How many of the failed ones have an unknown outcome."""
    retried: int = 0
    """Sent again by the library, under the same id."""
    duplicates: int = 0
    """Confirmed but not stored, because the broker reports that it has an event of that id. Normal if the program
    publishes an event again; otherwise somebody else has taken the event's place."""
    without_group: int = 0
    """Published to a topic that has no group known to this Bus."""

    def as_dict(self) -> dict[str, int]:
        """Name to number."""
        return asdict(self)


@dataclass(slots=True)
class SubscriptionStats:
    """Counted by one subscription."""

    received: int = 0
    started: int = 0
    """Handler starts."""
    acked: int = 0
    retried: int = 0
    """Starts that failed and are to be made again."""
    retries_slowed: int = 0
    """How many of those wait longer, because ``retry_budget`` is used up."""
    postponed: int = 0
    """Put off without counting an attempt: another owner has the event, the idempotency store is down, or the event
    waits for its turn in ``circuit``, ``rate_limit`` or ``concurrency``."""
    circuits_opened: int = 0
    """How often a circuit of its handlers opened."""
    released: int = 0
    """Given back to the broker with a delay."""
    returned: int = 0
    """Given back without having been started."""
    dead_lettered: int = 0
    dead_letters_cut: int = 0
    """How many of those had headers cut or left out because of the broker's size limit."""
    hooks_failed: int = 0
    """How often ``on_dead_letter`` failed for a dead letter, or was not called for one."""
    parked: int = 0
    """How many of those were set aside behind an earlier dead letter of their key (``dead_letter(then="park")``)."""
    suppressed: int = 0
    """Copies of events that the idempotency store had marked done."""
    unhandled: int = 0
    """Of a type that no handler takes."""
    expired: int = 0
    """Skipped by ``deadline(expired="skip")``."""
    foreign: int = 0
    """Messages that are not CloudEvents."""
    not_believed: int = 0
    """Ignored counts of starts and times to wait for that the library never writes, so that another program must
    have."""
    skipped_finished: int = 0
    """Delivered again although the note says that they are finished, and not handled again."""
    stale_settlements: int = 0
    """Settled too late: another member has the event."""
    failed_settlements: int = 0
    leases_lost: int = 0
    lanes_given_back: int = 0
    """Lanes given back so that another member gets its share."""
    reconnects: int = 0
    stalled: int = 0
    """How often a lane, or the subscription, stopped fetching with ``max_ahead`` events behind a failing one."""
    stuck: int = 0
    """How often a delivery could be neither finished nor dead-lettered, and was kept for later."""

    def as_dict(self) -> dict[str, int]:
        """Name to number."""
        return asdict(self)
