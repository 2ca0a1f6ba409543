"""Topics and groups as SNS topics and SQS queues: what is made, what is refused, what is found."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from anybroker.adapter import Backlog, GroupSpec, TopicSpec, Topology
from anybroker.errors import ConfigError, Rejected, Unavailable
from anybroker_sqs import SqsSettings
from anybroker_sqs.topology import Destination, Places

TOPIC = TopicSpec("shop.orders", (GroupSpec("billing"),))
UNORDERED = TopicSpec("shop.orders", (GroupSpec("billing", ordered=False),), ordered=False)
FIFO = {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}


def places(aws: Any, **options: str) -> Places:
    return Places(aws, SqsSettings.model_validate(options))


def declare(found: Places, *topics: TopicSpec, mode: Any = "create") -> None:
    asyncio.run(found.declare(Topology(topics), mode))


def test_an_ordered_topic_is_fifo_with_a_queue_for_each_group(aws: Any) -> None:
    declare(places(aws), TOPIC)
    client = aws.client
    assert client.topics == {"shop_orders.fifo": {"FifoTopic": "true", "FifoThroughputScope": "MessageGroup"}}
    assert set(client.queues) == {"shop_orders__billing.fifo", "shop_orders__-redrive.fifo"}
    queue = client.queues["shop_orders__billing.fifo"]
    assert FIFO.items() <= queue.items()
    redrive = "arn:aws:sqs:us-east-1:1:shop_orders__-redrive.fifo"
    assert json.loads(queue["RedrivePolicy"]) == {"deadLetterTargetArn": redrive, "maxReceiveCount": 1000}
    (statement,) = json.loads(queue["Policy"])["Statement"]
    assert statement["Resource"] == "arn:aws:sqs:us-east-1:1:shop_orders__billing.fifo"
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": "arn:aws:sns:us-east-1:1:shop_orders.fifo"}}
    (subscription,) = client.subscriptions
    assert subscription["Endpoint"] == "arn:aws:sqs:us-east-1:1:shop_orders__billing.fifo"
    assert subscription["Attributes"]["RawMessageDelivery"] == "true"
    assert json.loads(subscription["Attributes"]["RedrivePolicy"]) == {"deadLetterTargetArn": redrive}
    assert [request for request, _ in client.requests][-1] == "subscribe", "the last step"


def test_an_unordered_topic_is_standard(aws: Any) -> None:
    declare(places(aws), UNORDERED)
    assert aws.client.topics == {"shop_orders": {}}
    assert set(aws.client.queues) == {"shop_orders__billing", "shop_orders__-redrive"}
    assert not FIFO.items() & aws.client.queues["shop_orders__billing"].items()


def test_declaring_again_changes_nothing_and_verify_is_content(aws: Any) -> None:
    found = places(aws)
    declare(found, TOPIC)
    made = len(aws.client.of("create_queue")), len(aws.client.of("create_topic")), len(aws.client.subscriptions)
    declare(found, TOPIC)
    declare(found, TOPIC, mode="verify")
    assert made == (
        len(aws.client.of("create_queue")),
        len(aws.client.of("create_topic")),
        len(aws.client.subscriptions),
    )


@pytest.mark.parametrize(
    ("retention", "seconds"), [(None, None), (1.0, "60"), (3600.5, "3600"), (float("inf"), "1209600")]
)
def test_retention(aws: Any, retention: float | None, seconds: str | None) -> None:
    declare(places(aws), TopicSpec("orders", (GroupSpec("g"),), retention=retention))
    assert aws.client.queues["orders__g.fifo"].get("MessageRetentionPeriod") == seconds


def test_a_higher_limit_is_set_on_the_topic(aws: Any) -> None:
    declare(places(aws, max_message_bytes="1048576"), TOPIC)
    assert aws.client.topics["shop_orders.fifo"]["MaximumMessageSize"] == "1048576"


@pytest.mark.parametrize("mode", ["create", "verify"])
@pytest.mark.parametrize(("there", "asked"), [(TOPIC, UNORDERED), (UNORDERED, TOPIC)])
def test_the_other_kind_is_refused(aws: Any, mode: Any, there: TopicSpec, asked: TopicSpec) -> None:
    declare(places(aws), there)
    with pytest.raises(ConfigError, match=f"ordered={asked.ordered}.*ordered={there.ordered}"):
        declare(places(aws), asked, mode=mode)


def test_an_unordered_group_of_an_ordered_topic_has_a_redrive_queue_of_each_kind(aws: Any) -> None:
    """SQS wants the queue's own kind, SNS the topic's."""
    declare(places(aws), TopicSpec("orders", (GroupSpec("billing", ordered=False),)))
    (subscription,) = aws.client.subscriptions
    arn = "arn:aws:sqs:us-east-1:1:orders__-redrive"
    assert json.loads(subscription["Attributes"]["RedrivePolicy"])["deadLetterTargetArn"] == f"{arn}.fifo"
    queue = aws.client.queues["orders__billing"]
    assert json.loads(queue["RedrivePolicy"])["deadLetterTargetArn"] == arn
    assert {"orders__-redrive", "orders__-redrive.fifo"} < set(aws.client.queues)


def test_a_subscription_that_somebody_has_changed_stays_so(aws: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(places(aws), TOPIC)

    def refuse(**_: Any) -> None:
        raise kit.refusal("InvalidParameter", "Subscribe", 400, said)

    monkeypatch.setattr(aws.client, "subscribe", refuse)
    said = "Invalid parameter: Attributes Reason: Subscription already exists with different attributes"
    declare(places(aws), TOPIC)
    said = "Invalid parameter: Endpoint"
    with pytest.raises(ConfigError):
        declare(places(aws), TOPIC)


def test_a_group_of_the_other_kind_is_refused(aws: Any) -> None:
    declare(places(aws), TOPIC)
    mixed = TopicSpec("shop.orders", (GroupSpec("billing", ordered=False),))
    with pytest.raises(ConfigError, match="its group 'billing'"):
        declare(places(aws), mixed)


def test_verify_names_what_is_missing_and_makes_nothing(aws: Any) -> None:
    found = places(aws)
    with pytest.raises(ConfigError, match=r"no topic 'shop_orders\.fifo'"):
        declare(found, TOPIC, mode="verify")
    assert (aws.client.topics, aws.client.queues) == ({}, {})
    declare(found, TopicSpec("shop.orders"))
    with pytest.raises(ConfigError, match="'billing' does not exist"):
        declare(found, TOPIC, mode="verify")
    declare(found, TOPIC)
    aws.client.subscriptions.clear()
    with pytest.raises(ConfigError, match="not subscribed"):
        declare(found, TOPIC, mode="verify")


def test_destinations(aws: Any) -> None:
    found = places(aws)
    declare(found, TOPIC, TopicSpec("plain", (GroupSpec("g", ordered=False),), ordered=False))

    async def look(topic: str, group: str | None = None) -> Destination:
        return await found.destination(topic, group)

    arn = "arn:aws:sns:us-east-1:1"
    assert asyncio.run(look("shop.orders")) == Destination(f"{arn}:shop_orders.fifo", True, True, 262_144)
    assert asyncio.run(look("shop.orders", "billing")) == Destination("shop_orders__billing.fifo", False, True)
    assert asyncio.run(look("plain")) == Destination(f"{arn}:plain", True, False, 262_144)
    assert asyncio.run(look("plain", "g")) == Destination("plain__g", False, False)
    for missing in (("other", None), ("plain", "other")):
        with pytest.raises(Rejected, match="other"):
            asyncio.run(look(*missing))


def test_a_direct_topic_has_no_sns(aws: Any) -> None:
    found = places(aws, direct="shop.orders:billing")
    declare(found, TOPIC)
    declare(found, TOPIC, mode="verify")
    assert (aws.client.topics, aws.client.subscriptions) == ({}, [])
    assert set(aws.client.queues) == {"shop_orders__billing.fifo", "shop_orders__-redrive.fifo"}
    expected = Destination("shop_orders__billing.fifo", False, True)
    assert asyncio.run(found.destination("shop.orders", None)) == expected
    with pytest.raises(ConfigError, match="'audit' is asked for") as caught:
        declare(found, TopicSpec("shop.orders", (GroupSpec("billing"), GroupSpec("audit"))))
    assert caught.value.setting == "direct"


def test_a_direct_topic_that_is_only_published_to_has_its_group(aws: Any) -> None:
    declare(places(aws, direct="orders:g"), TopicSpec("orders"))
    assert "orders__g.fifo" in aws.client.queues


def test_the_queue_of_a_group(aws: Any) -> None:
    found = places(aws)
    declare(found, TOPIC)
    assert asyncio.run(found.queue("shop.orders", "billing", True)) == "shop_orders__billing.fifo"
    with pytest.raises(ConfigError, match="ordered=False"):
        asyncio.run(found.queue("shop.orders", "billing", False))
    with pytest.raises(ConfigError, match="'audit' does not exist"):
        asyncio.run(found.queue("shop.orders", "audit", True))


def test_backlog_adds_what_is_delayed(aws: Any) -> None:
    found = places(aws)
    declare(found, UNORDERED)
    counts = {"": "3", "Delayed": "2", "NotVisible": "4"}
    aws.client.queues["shop_orders__billing"] = {
        f"ApproximateNumberOfMessages{kind}": count for kind, count in counts.items()
    }
    assert asyncio.run(found.backlog("shop.orders", "billing")) == Backlog(5, 4, exact=False)
    with pytest.raises(ConfigError, match="'audit'"):
        asyncio.run(found.backlog("shop.orders", "audit"))


@pytest.mark.parametrize(
    ("code", "status", "setting"),
    [
        ("AccessDenied", 403, "keys"),
        ("ExpiredToken", 403, "keys"),
        ("QueueNameExists", 400, "topics"),
        ("ServiceUnavailable", 503, None),
        ("Throttling", 400, None),
    ],
)
def test_what_aws_refuses_is_one_error(aws: Any, kit: Any, code: str, status: int, setting: str | None) -> None:
    aws.client.raises = kit.refusal(code, "CreateQueue", status)
    with pytest.raises(Unavailable if setting is None else ConfigError) as caught:
        declare(places(aws), TOPIC)
    assert getattr(caught.value, "setting", None) == setting
    assert caught.value.__cause__ is aws.client.raises


def test_the_limit_is_what_the_topic_or_the_queue_says(aws: Any) -> None:
    found = places(aws, direct="plain:only")
    declare(found, TOPIC, TopicSpec("large"), TopicSpec("plain", (GroupSpec("only"),)))
    aws.client.topics["large.fifo"]["MaximumMessageSize"] = "1048576"
    aws.client.queues["plain__only.fifo"]["MaximumMessageSize"] = "300000"

    def limit(topic: str, group: str | None = None) -> int:
        return asyncio.run(found.destination(topic, group)).limit

    assert limit("shop.orders") == 262_144, "of a topic that does not say"
    assert limit("shop.orders", "billing") == 1_048_576
    assert limit("large") == 1_048_576
    assert limit("plain") == 300_000


def test_who_may_not_ask_for_the_limit_of_a_queue_has_the_default(
    aws: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = places(aws)
    declare(found, TOPIC)

    def refuse(**_: Any) -> None:
        raise kit.refusal("AccessDenied", "GetQueueAttributes", 403)

    monkeypatch.setattr(aws.client, "get_queue_attributes", refuse)
    assert asyncio.run(found.destination("shop.orders", "billing")).limit == 1_048_576


def test_a_topic_for_dead_letters_takes_whatever_a_queue_has(aws: Any) -> None:
    declare(places(aws), TopicSpec("orders.billing.dlq", (GroupSpec("dlq"),)), TOPIC)
    assert aws.client.topics["orders_billing_dlq.fifo"]["MaximumMessageSize"] == "1048576"
    assert "MaximumMessageSize" not in aws.client.topics["shop_orders.fifo"]


def test_a_queue_that_lost_its_subscription_is_subscribed_again(aws: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = places(aws)
    declare(found, TOPIC)
    client = aws.client
    found.keep("shop.orders", "billing")
    assert len(client.subscriptions) == 1
    assert not caplog.records
    client.subscriptions.clear()  # others have deleted the topic, and made it again
    found.keep("shop.orders", "billing")
    assert len(client.subscriptions) == 1
    assert "shop.orders/billing: the queue was no longer subscribed" in caplog.text


def test_a_topic_that_is_gone_is_said_once_and_not_made(aws: Any, caplog: pytest.LogCaptureFixture) -> None:
    found = places(aws)
    declare(found, TOPIC)
    client = aws.client
    client.subscriptions.clear()
    client.topics.clear()
    found.keep("shop.orders", "billing")
    found.keep("shop.orders", "billing")
    assert client.topics == {}
    assert caplog.text.count("the SNS topic 'shop_orders.fifo' was deleted") == 1


def test_who_may_make_nothing_subscribes_nothing(aws: Any) -> None:
    declare(places(aws), TOPIC)
    found = places(aws)
    declare(found, TOPIC, mode="verify")
    aws.client.subscriptions.clear()
    found.keep("shop.orders", "billing")
    assert aws.client.subscriptions == []
