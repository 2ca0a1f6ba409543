"""How far consumers are, and the stored messages behind that, by sequence: nothing is pulled or acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .failures import ApiError
from .link import Link
from .names import stream_name

__all__ = ["Progress", "consumer_of", "messages", "next_message"]

_NOT_FOUND: Final = 404


class Progress(NamedTuple):
    """How far one consumer of a group is."""

    filters: Mapping[str, None]
    """The subjects that it takes; the last token may be ``*``."""
    settled: int
    """All up to this sequence is settled."""
    delivered: int
    in_flight: int
    deliveries: int
    """Since the last message that is settled with all before it; more than ``in_flight`` if one was acknowledged out of
    order, or delivered again."""

    @classmethod
    def read(cls, info: Mapping[str, Any]) -> Progress:
        floor, delivered, in_flight = info["ack_floor"], info["delivered"], int(info["num_ack_pending"])
        return cls(
            dict.fromkeys(info["config"].get("filter_subjects") or (info["config"]["filter_subject"],)),
            int((floor if in_flight else delivered)["stream_seq"]),
            int(delivered["stream_seq"]),
            in_flight,
            int(delivered["consumer_seq"]) - int(floor["consumer_seq"]),
        )


def consumer_of(subject: str, consumers: Iterable[Progress]) -> Progress | None:
    """The one of these that takes the subject."""
    any_token = f"{subject.rpartition('.')[0]}.*"
    return next((each for each in consumers if subject in each.filters or any_token in each.filters), None)


async def messages(
    link: Link, topic: str, subjects: Sequence[str], low: int, high: int
) -> AsyncIterator[Mapping[str, Any]]:
    """What is stored under these subjects from sequence ``low`` on, before ``high``, in order."""
    heads = {subject: await next_message(link, topic, subject, low, high) for subject in subjects}
    while waiting := [(message["seq"], subject) for subject, message in heads.items() if message is not None]:
        seq, subject = min(waiting)
        message = heads[subject]
        assert message is not None
        yield message
        heads[subject] = await next_message(link, topic, subject, seq + 1, high)


async def next_message(link: Link, topic: str, subject: str, seq: int, high: int) -> Mapping[str, Any] | None:
    """The first one of this subject from ``seq`` on, before ``high``."""
    if seq >= high:
        return None
    try:
        answer = await link.api(f"STREAM.MSG.GET.{stream_name(topic)}", {"seq": seq, "next_by_subj": subject})
    except ApiError as exc:
        if exc.code != _NOT_FOUND:
            raise
        return None
    message: Mapping[str, Any] = answer["message"]
    return message if message["seq"] < high else None
