"""Making topics and groups, finding them, and counting what waits.

A topic is an SNS topic, a group an SQS queue subscribed to it; both are FIFO where events are ordered, which their
names say: ``orders.fifo``. A group's subscription is made last, so no event reaches an incomplete group.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from anybroker.adapter import Backlog, GroupSpec, TopicSpec, Topology
from anybroker.errors import ConfigError, MissingGroup, Rejected
from anybroker.printable import logger

from .failures import CLIENT_ERRORS, is_denied, is_missing
from .link import Link
from .names import DEAD_LETTERS, names_of, queue_name, redrive_name, topic_name
from .settings import MOST_BYTES, TOPIC_BYTES, SqsSettings

__all__ = ["Destination", "Places"]

_log = logger("anybroker.sqs")

_LEAST_RETENTION, _MOST_RETENTION = 60, 1_209_600
"""Seconds for which SQS can keep a message."""
_HANDED_OVER = 1_000
"""Receives after which SQS moves a message to the redrive queue: SQS's maximum, far above our attempts."""
_COUNTS = tuple(f"ApproximateNumberOfMessages{kind}" for kind in ("", "Delayed", "NotVisible"))


@dataclass(frozen=True)
class Destination:
    """Where events are sent: a topic, or a group's queue."""

    address: str
    """The topic's ARN, or the queue's URL."""
    is_topic: bool
    fifo: bool
    limit: int = MOST_BYTES
    """Bytes that AWS takes there in one message, and in one batch."""


class Places:
    """The topics and queues in AWS. Public methods run their requests in threads, except :meth:`keep`."""

    def __init__(self, link: Link, settings: SqsSettings) -> None:
        self._link = link
        self._direct = settings.direct
        self._max_bytes = settings.max_message_bytes
        self._made: dict[tuple[str, str], tuple[str, TopicSpec, GroupSpec]] = {}
        """The subscription of each group that this Bus may make, and what was declared of it."""
        self._gone: set[str] = set()
        """Topics whose deletion was logged."""

    async def declare(self, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Make all of it, or check that it exists: ConfigError for what is missing or of another kind."""
        declare = self._make_topic if mode == "create" else self._check_topic
        calls = (self._link.call(f"declaring the topic {topic.name!r}", declare, topic) for topic in topology.topics)
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if error is not None:
                raise error

    async def destination(self, topic: str, group: str | None) -> Destination:
        """Where an event for the topic, or for one group of it, goes. Rejected where that does not exist."""
        return await self._link.call(f"looking for the topic {topic!r}", self._find, topic, group)

    async def queue(self, topic: str, group: str, fifo: bool) -> str:
        """The URL of a group's queue. ConfigError where it does not exist, or is of the other kind."""
        return await self._link.call(f"joining the group {group!r} of {topic!r}", self._need, topic, group, fifo)

    async def backlog(self, topic: str, group: str) -> Backlog:
        """What waits for the group, by SQS's counts, which are approximate on AWS."""

        def count() -> Backlog:
            url = self._look(topic, group, True) or self._need(topic, group, False)
            names: Any = _COUNTS
            counts: Any = self._link.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            visible, delayed, hidden = (int(counts.get(name, 0)) for name in _COUNTS)
            return Backlog(visible + delayed, hidden, exact=False)

        return await self._link.call(f"counting what waits for {group!r} of {topic!r}", count)

    def keep(self, topic: str, group: str) -> None:
        """Subscribe the queue of a group again if its subscription was deleted, which happens when another program
        deletes the topic and makes it again: SNS still takes events then. Blocks; raises nothing."""
        made = self._made.get((topic, group))
        if made is None:
            return
        subscription, spec, group_spec = made
        try:
            try:
                self._link.sns.get_subscription_attributes(SubscriptionArn=subscription)
            except CLIENT_ERRORS as exc:
                if not is_missing(exc):
                    raise
            else:
                return
            if self._look(topic, None, spec.ordered) is not None:
                self._make_group(spec, group_spec, False)
                self._gone.discard(topic)
                _log.warning(
                    "%s/%s: the queue was no longer subscribed to its SNS topic, and is again. Events published "
                    "meanwhile have not reached it",
                    topic,
                    group,
                )
            elif topic not in self._gone:
                self._gone.add(topic)
                _log.warning("%s/%s: the SNS topic %r was deleted", topic, group, topic_name(topic, spec.ordered))
        except (ConfigError, *CLIENT_ERRORS) as exc:
            _log.warning("%s/%s: checking the queue's subscription failed: %s", topic, group, exc)

    async def groups(self) -> dict[str, list[str]]:
        """Topics and groups, from the names of all queues. Needs the permission sqs:ListQueues."""

        def names() -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            # Without a page size SQS returns the first thousand only, and does not say that there are more.
            for page in self._link.sqs.get_paginator("list_queues").paginate(PaginationConfig={"PageSize": 1_000}):
                for url in page.get("QueueUrls", ()):
                    if (named := names_of(url.rpartition("/")[2])) is not None:
                        found.setdefault(named[0], []).append(named[1])
            return found

        return await self._link.call("listing queues", names)

    # -------------------------------------------------------------------------------------------------- looking

    def _topic_arn(self, topic: str, fifo: bool) -> str:
        return self._link.arn("sns", topic_name(topic, fifo))

    def _look(self, topic: str, group: str | None, fifo: bool) -> str | None:
        """The topic's ARN, or the URL of a group's queue; None where it does not exist."""
        arn = self._topic_arn(topic, fifo)
        try:
            if group is not None:
                return self._link.sqs.get_queue_url(QueueName=queue_name(topic, group, fifo))["QueueUrl"]
            self._link.sns.get_topic_attributes(TopicArn=arn)
        except CLIENT_ERRORS as exc:
            if not is_missing(exc):
                raise
            return None
        return arn

    def _look_for_kind(self, topic: str, group: str | None, fifo: bool) -> str | None:
        """The same; ConfigError where it exists as the other kind."""
        address = self._look(topic, group, fifo)
        if address is None and self._look(topic, group, not fifo) is not None:
            raise ConfigError(
                f"topics.{topic}",
                f"{'it' if group is None else f'its group {group!r}'} is asked for with ordered={fifo}, and exists "
                f"with ordered={not fifo}",
                "AWS cannot change the kind. Use the same everywhere, or another name.",
            )
        return address

    def _need(self, topic: str, group: str | None, fifo: bool) -> str:
        """The same; MissingGroup where it does not exist."""
        address = self._look_for_kind(topic, group, fifo)
        if address is None:
            name = topic_name(topic, fifo) if group is None else queue_name(topic, group, fifo)
            where = "SNS has no topic" if group is None else f"the group {group!r} does not exist: SQS has no queue"
            raise MissingGroup(f"topics.{topic}", f"{where} {name!r}", 'Declare it (provision="create").')
        return address

    def _find(self, topic: str, group: str | None) -> Destination:
        group = self._direct.get(topic) if group is None else group
        for fifo in (True, False):
            address = self._look(topic, group, fifo)
            if address is not None:
                return Destination(address, group is None, fifo, self._limit(address, group is None))
        what = f"topic {topic!r}" if group is None else f"queue of the group {group!r} of topic {topic!r}"
        raise Rejected(f"AWS at {self._link.where} has no {what}. Declare it first")

    def _limit(self, address: str, is_topic: bool) -> int:
        """How many bytes it takes, as AWS says; AWS's default where these credentials may not ask."""
        default = TOPIC_BYTES if is_topic else MOST_BYTES
        try:
            if is_topic:
                found: Any = self._link.sns.get_topic_attributes(TopicArn=address)
            else:
                found = self._link.sqs.get_queue_attributes(QueueUrl=address, AttributeNames=["MaximumMessageSize"])
        except CLIENT_ERRORS as exc:
            if not is_denied(exc):
                raise
            return default
        return int(found.get("Attributes", {}).get("MaximumMessageSize", default))

    def _check_topic(self, topic: TopicSpec) -> None:
        direct = self._only_group(topic)
        if direct is None:
            self._need(topic.name, None, topic.ordered)
        for group in topic.groups:
            self._need(topic.name, group.name, group.ordered)
            if direct is None and not self._is_subscribed(topic, group):
                raise ConfigError(
                    f"topics.{topic.name}",
                    f"the queue of the group {group.name!r} is not subscribed to the topic",
                    'Declare it (provision="create").',
                )

    def _is_subscribed(self, topic: TopicSpec, group: GroupSpec) -> bool:
        queue = self._link.arn("sqs", queue_name(topic.name, group.name, group.ordered))
        pages = self._link.sns.get_paginator("list_subscriptions_by_topic")
        found = pages.paginate(TopicArn=self._topic_arn(topic.name, topic.ordered))
        return any(each.get("Endpoint") == queue for page in found for each in page["Subscriptions"])

    def _only_group(self, topic: TopicSpec) -> str | None:
        """The group of a topic without SNS; None for other topics."""
        only = self._direct.get(topic.name)
        other = [group.name for group in topic.groups if group.name != only]
        if only is not None and other:
            raise ConfigError(
                "direct",
                f"says that {topic.name!r} has only the group {only!r}, but {other[0]!r} is asked for",
                "Leave the topic out of it, in every program: then it has any number of groups.",
            )
        return only

    # --------------------------------------------------------------------------------------------------- making

    def _make_topic(self, topic: TopicSpec) -> None:
        direct = self._only_group(topic)
        if direct is None and self._look_for_kind(topic.name, None, topic.ordered) is None:
            attributes = {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"} if topic.ordered else {}
            most = self._max_bytes or TOPIC_BYTES
            if any(group.name == DEAD_LETTERS for group in topic.groups):
                most = MOST_BYTES  # dead letters come from queues that may take that much
            if most > TOPIC_BYTES:
                attributes["MaximumMessageSize"] = str(most)
            self._link.sns.create_topic(Name=topic_name(topic.name, topic.ordered), Attributes=attributes)
        for group in topic.groups if direct is None else (GroupSpec(direct, topic.ordered),):
            self._make_group(topic, group, direct is not None)

    def _make_group(self, topic: TopicSpec, group: GroupSpec, direct: bool) -> None:
        fifo, name = group.ordered, queue_name(topic.name, group.name, group.ordered)
        redrive = {"deadLetterTargetArn": self._link.arn("sqs", redrive_name(topic.name, fifo))}
        source = self._topic_arn(topic.name, topic.ordered)
        if self._look_for_kind(topic.name, group.name, fifo) is None:
            for kind in {fifo, fifo if direct else topic.ordered}:  # the queue's own kind, and the topic's for SNS
                self._make_queue(redrive_name(topic.name, kind), kind, source, float("inf"))
            self._make_queue(
                name, fifo, source, topic.retention, RedrivePolicy={**redrive, "maxReceiveCount": _HANDED_OVER}
            )
        if not direct and (subscription := self._subscribe(topic, name)) is not None:
            self._made[topic.name, group.name] = (subscription, topic, group)

    def _subscribe(self, topic: TopicSpec, queue: str) -> str | None:
        """Subscribe the queue to the topic; returns the subscription's ARN. An existing one stays as it is; None: it
        has other attributes."""
        redrive = {"deadLetterTargetArn": self._link.arn("sqs", redrive_name(topic.name, topic.ordered))}
        try:
            made = self._link.sns.subscribe(
                TopicArn=self._topic_arn(topic.name, topic.ordered),
                Protocol="sqs",
                Endpoint=self._link.arn("sqs", queue),
                Attributes={"RawMessageDelivery": "true", "RedrivePolicy": json.dumps(redrive)},
            )
            return made.get("SubscriptionArn")
        except ClientError as exc:  # another program gave it another redrive queue, or turned raw delivery off
            if "already exists with different attributes" not in str(exc):
                raise
            return None

    def _make_queue(self, name: str, fifo: bool, source: str, retention: float | None, **policies: object) -> None:
        """Make a queue, to which ``source``, a topic, may send. An existing one with these attributes is not an
        error."""
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": self._link.arn("sqs", name),
            "Condition": {"ArnEquals": {"aws:SourceArn": source}},
        }
        policies["Policy"] = {"Version": "2012-10-17", "Statement": [statement]}
        attributes: Any = {policy: json.dumps(text) for policy, text in policies.items()}
        if retention is not None:
            attributes["MessageRetentionPeriod"] = str(int(min(max(retention, _LEAST_RETENTION), _MOST_RETENTION)))
        if fifo:  # with high throughput: each message group by itself
            attributes |= {"FifoQueue": "true", "DeduplicationScope": "messageGroup"}
            attributes["FifoThroughputLimit"] = "perMessageGroupId"
        self._link.sqs.create_queue(QueueName=name, Attributes=attributes)
