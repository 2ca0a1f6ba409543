"""Noticing that a topic is gone, was made again, or was given more partitions, and that no broker answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from anybroker.errors import BrokerError, ConfigError, Unavailable
from anybroker.kit.wording import said
from anybroker.printable import logger

from .cluster import Cluster
from .failures import CLIENT_ERRORS
from .topic_info import TopicInfo

__all__ = ["TopicWatch"]

_log = logger("anybroker.kafka")


class TopicWatch:
    """Looks at the topics of one member.

    aiokafka waits without a word for a topic that is gone, and reads one that was made again at the old one's offsets.
    """

    def __init__(self, cluster: Cluster, group: str, fit: Callable[[], Awaitable[None]] | None) -> None:
        """``fit``: gives the inlet as many partitions as the topic has, where the adapter may."""
        self._cluster = cluster
        self._group = group
        self._fit = fit
        self._missed = 0
        self.hindrance: str | None = None
        """That no broker answered the last look, which asks again for some seconds."""
        self.topics: Collection[str] = ()
        """To look at."""
        self.known: Mapping[str, TopicInfo] = {}
        """As they were when the lanes were assigned."""

    async def look(self) -> BrokerError | None:
        """Why this member has to be replaced by another one, which says what is missing and starts where the new topic
        begins."""
        try:
            now = await self._cluster.topics(self.topics)
            self.hindrance = None
            gone = [name for name in self.topics if name not in now]
            self._missed = self._missed + 1 if gone else 0  # one broker may be late with its metadata
            if self._missed > 1:
                return Unavailable(f"Kafka has no topic {', '.join(map(repr, gone))} any more")
            again = [name for name, topic in now.items() if topic.replaces(self.known.get(name))]
            if again:
                return Unavailable(f"the topic {', '.join(map(repr, again))} was deleted and made again")
            if self._fit is not None and len({topic.partitions for topic in now.values()}) > 1:
                await self._fit()
        except CLIENT_ERRORS as exc:
            self.hindrance = f"Kafka does not answer: {said(exc)}"
        except (BrokerError, ConfigError) as exc:
            _log.warning("the inlet of %r cannot be given as many partitions as its topic has: %s", self._group, exc)
        return None
