"""Typed topics: what ``bus.topic`` takes, and the payloads that are refused when they are published."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional, Union, get_type_hints

import pytest

from anybroker import Bus, ConfigError, event_type
from anybroker.from_thread import FromThread
from anybroker.topic import PublishOptions, Topic, payload_classes


@event_type("com.example.placed.v1")
@dataclass
class Placed:
    order: str


@event_type("com.example.cancelled.v1")
@dataclass
class Cancelled:
    order: str


class Refunded: ...


@pytest.mark.parametrize(
    ("payload", "classes"),
    [
        (Placed, (Placed,)),
        (Placed | Cancelled, (Placed, Cancelled)),
        (Union[Placed, Cancelled], (Placed, Cancelled)),  # noqa: UP007 - the older way to write it
        (Optional[Placed], (Placed, type(None))),  # noqa: UP045 - the older way to write it
        (dict[str, int], (dict,)),
        (Annotated[Placed | list[int], "whatever"], (Placed, list)),
    ],
)
def test_the_classes_of_a_payload_type(payload: Any, classes: tuple[type, ...]) -> None:
    assert payload_classes(payload) == classes


@pytest.mark.parametrize("payload", [Literal["a"], 3, "Placed", Placed | Literal["a"]])
def test_what_cannot_be_told_by_its_class_is_refused(payload: Any, bus: Bus) -> None:
    with pytest.raises(ConfigError, match=r"topic\(payload=\): .* is not a class"):
        bus.topic("orders", payload)


def test_only_declared_payloads_are_published(bus: Bus, run: Any) -> None:
    orders = bus.topic("orders", Placed | Cancelled)
    wrong: Any = Refunded()

    async def main() -> None:
        async with bus:
            assert (await orders.publish(Cancelled("o-1"), key="o-1")).topic == "orders"
            with pytest.raises(TypeError, match=r"topic 'orders' takes Placed \| Cancelled, not Refunded"):
                await orders.publish(wrong)
            with pytest.raises(TypeError, match="not Refunded"):
                await orders.publish_many([Placed("o-2"), wrong])
            assert len(await orders.publish_many([Placed("o-2"), Cancelled("o-2")], deadline=5.0)) == 2

    run(main())
    assert bus.stats.published == 3


def test_a_topic_without_a_payload_type_takes_everything(bus: Bus, run: Any) -> None:
    async def main() -> None:
        async with bus:
            receipt = await bus.topic("orders").publish({"order": "o-1"}, type="com.example.seen.v1")
            assert receipt.topic == "orders"

    run(main())


def test_the_options_of_publish_are_its_keyword_arguments() -> None:
    def keywords(function: Any) -> dict[str, Any]:
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters.values()
        return {each.name: hints[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}

    assert get_type_hints(PublishOptions) == keywords(Bus.publish)
    for publish_many in (Topic.publish_many, FromThread.publish_many):
        assert keywords(publish_many) == keywords(Bus.publish_many)
