"""What a sender knows about the streams of its topics: whether they exist, who leads them, why they do not confirm."""

from __future__ import annotations

from typing import Any, Final

from anybroker.errors import BrokerError, ConfigError, Rejected, Unavailable
from anybroker.printable import logger

from .failures import CLIENT_ERRORS, FORBIDDEN, ApiError, nats_errors, said
from .link import Link
from .names import stream_name

__all__ = ["Streams"]

_log = logger("anybroker.nats")

_ANSWER: Final = 0.5
"""Seconds that a stream has to answer: meanwhile nothing is handed over."""
_SILENT: Final = 2.0
"""Seconds for which a leader has heard nothing from another server that is down; they speak once a second."""
_NOT_FOUND: Final = 404


class _Stream:
    __slots__ = ("leader", "lost_up_to", "reason", "warned_of")

    def __init__(self, leader: str) -> None:
        self.leader = leader
        self.lost_up_to = 0
        """Confirmations up to this number were due from a server that no longer leads the stream."""
        self.reason = ""
        """Why nothing is confirmed, as far as the server says."""
        self.warned_of = ""
        """The reason that was logged; empty while all is well."""


class Streams:
    """By topic."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.known: dict[str, _Stream] = {}

    async def find(self, topic: str) -> BrokerError | None:
        """Look for the topic's stream. Returns why it takes no event, or None."""
        try:
            with nats_errors(f"looking for the stream of {topic!r} (does JetStream have a leader?)"):
                cluster = await self._cluster(topic)
        except ConfigError as exc:
            code = exc.__cause__.code if isinstance(exc.__cause__, ApiError) else 0
            if code == FORBIDDEN:  # the user may publish and not ask: the answer to the publish will tell
                self.known[topic] = _Stream("")
                return None
            if code == _NOT_FOUND:
                return Rejected(f"NATS has no stream for topic {topic!r}. Declare the topic first")
            error = Rejected(f"the stream of topic {topic!r} cannot be found: {exc}")
            error.__cause__ = exc
            return error
        except BrokerError as exc:
            return exc
        leader = str(cluster.get("leader") or "")
        if cluster.get("replicas") and not leader:
            return Unavailable(f"topic {topic!r} takes no event now: {_why_slow(cluster)}")
        self.known[topic] = _Stream(leader)
        return None

    async def check(self, topic: str, last: int) -> int:
        """Ask a stream that does not confirm. Returns the number up to which confirmations will never come, or 0.

        ``last``: the last number handed over. A new leader has received what was written before it led, or never will:
        nothing more will be said about that.
        """
        stream = self.known.setdefault(topic, _Stream(""))
        lost_up_to = 0
        try:
            cluster = await self._cluster(topic)
        except ApiError as exc:
            if exc.code != FORBIDDEN:
                stream.reason = f"its stream says: {exc}"
        except (BrokerError, *CLIENT_ERRORS) as exc:
            stream.reason = f"JetStream does not answer: {said(exc)}; does it have a leader?"
        else:
            leader = str(cluster.get("leader") or "")
            if leader and stream.leader and leader != stream.leader:
                stream.lost_up_to = last
                stream.reason = f"its stream has another leader now: {leader}"
            elif stream.lost_up_to:
                lost_up_to, stream.lost_up_to = stream.lost_up_to, 0
            else:
                stream.reason = _why_slow(cluster)
            stream.leader = leader or stream.leader
        return lost_up_to

    async def _cluster(self, topic: str) -> dict[str, Any]:
        """Which servers have the topic's stream, and which of them leads; empty where there is no cluster. Raises
        ApiError, and what nats-py raises."""
        info: dict[str, Any] = await self._link.api(f"STREAM.INFO.{stream_name(topic)}", timeout=_ANSWER)
        return info.get("cluster") or {}

    def reason(self, topic: str) -> str:
        """Why the topic's stream does not confirm; empty if nothing is known."""
        stream = self.known.get(topic)
        return "" if stream is None else stream.reason

    def warn(self, topic: str) -> None:
        """Log why the topic's stream does not confirm, unless the log has it already."""
        stream = self.known.get(topic)
        if stream is not None and stream.warned_of != stream.reason:
            stream.warned_of = stream.reason
            _log.warning("events for topic %r are not confirmed: %s", topic, stream.reason)

    def confirms_again(self, topic: str) -> None:
        """The stream has confirmed an event after a warning."""
        self.known[topic].warned_of = self.known[topic].reason = ""
        _log.info("events for topic %r are confirmed again", topic)


def _why_slow(cluster: dict[str, Any]) -> str:
    """About a stream that answers and does not confirm: the server says no more."""
    others = cluster.get("replicas") or ()
    if not cluster.get("leader") and others:  # the server that answered has listed itself, too
        size, up = len(others), sum(bool(each.get("current")) for each in others)
        too_few = ", too few to elect one" if 2 * up <= size else ""
        return f"its stream has no leader: {up} of {size} servers with it are up{too_few}"
    size, up = 1 + len(others), 1 + sum(not _is_down(each) for each in others)
    if 2 * up <= size:
        return f"{up} of {size} servers with its stream are up, too few to store it"
    return "its stream answers, and does not say why: can its server write, or is its disk full?"


def _is_down(replica: dict[str, Any]) -> bool:
    """Whether a leader hears nothing from this server: ``offline`` comes some 90 s later, ``current`` is wrong for
    10."""
    return bool(replica.get("offline")) or float(replica.get("active") or 0) > _SILENT * 1e9
