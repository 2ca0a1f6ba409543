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
    """Of those, with an unknown outcome."""
    retried: int = 0
    """Sent again by the library, under the same id."""
    duplicates: int = 0
    """Confirmed, and not stored: the broker says that it has an event of that id. So it is where the program publishes
    one again; of an event that nobody has published before, somebody else has taken the place."""
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
    postponed: int = 0
    """Put off without counting an attempt: another owner has the event, or the idempotency store is down."""
    released: int = 0
    """Given back to the broker with a delay."""
    returned: int = 0
    """Given back without having been started."""
    dead_lettered: int = 0
    dead_letters_cut: int = 0
    """Of those, with no room for all that stands beside them: the broker's size limit."""
    suppressed: int = 0
    """Copies that the idempotency store knew as done."""
    unhandled: int = 0
    """Of a type that no handler takes."""
    foreign: int = 0
    """No CloudEvent."""
    not_believed: int = 0
    """Counts of starts, and moments to wait for, that the library never writes: another program has. Taken for none."""
    skipped_finished: int = 0
    """Delivered again although the note said finished, and not handled again."""
    stale_settlements: int = 0
    """Settled too late: another member has them."""
    failed_settlements: int = 0
    leases_lost: int = 0
    lanes_given_back: int = 0
    """Let go so that another member has its share."""
    reconnects: int = 0
    stalled: int = 0
    """Times a lane, or the whole subscription, had ``max_ahead`` events behind one that fails, and fetched no more."""
    stuck: int = 0
    """Times a delivery could be neither finished nor dead-lettered, and was kept for later."""

    def as_dict(self) -> dict[str, int]:
        """Name to number."""
        return asdict(self)
