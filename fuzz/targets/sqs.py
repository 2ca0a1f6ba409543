"""SQS and SNS: messages as boto3 gives them."""

from __future__ import annotations

from typing import Any

from anybroker.adapter import Foreign, Inbound, Lane, Outbound
from anybroker.cloudevents import Event
from anybroker.errors import Rejected
from anybroker_sqs.foreign import SqsForeign
from anybroker_sqs.wire import Wire

from .. import seeds
from ..messages import split
from ..registry import target
from ..using import use_any

_WIRE = Wire()
_LANE = Lane("orders", 1)


def _read(body: str, attributes: Any, group: str | None) -> Inbound:
    system = {"ApproximateReceiveCount": "3"} | ({} if group is None else {"MessageGroupId": group})
    message = {"Body": body, "MessageAttributes": attributes, "Attributes": system, "MessageId": "1"}
    return _WIRE.read(message, _LANE, "orders__g")


def _attribute(kind: int, value: bytes) -> dict[str, Any]:
    if kind % 3 == 2:
        return {"DataType": "Binary", "BinaryValue": value}
    return {"DataType": ("String", "Number.int")[kind % 3], "StringValue": value.decode("utf-8", "replace")}


@target("sqs-message", seeds.sqs_messages)
def message(data: bytes) -> object:
    """A message: the first header is its message group, the first byte of each other value the attribute's type"""
    fields, body = split(data)
    group = fields.pop(0)[1] if fields else None
    attributes = {name.decode("ascii", "replace"): _attribute(*_kind(value or b"s")) for name, value in fields[:10]}
    text = (body or b"").decode("utf-8", "replace")
    inbound = _read(text, attributes, None if group is None else group.decode("utf-8", "replace"))
    event = inbound.event
    assert all(isinstance(value, str) for value in inbound.headers.values())
    if isinstance(event, Event) or event.reason is not None:
        use_any(event)
    try:
        written = _WIRE.write(Outbound(event, "dead", headers={"anybroker-dead-reason": "r"}, hop="dead|g"))
    except Rejected as exc:  # too many attributes of a foreign message
        return inbound, str(exc)
    again = _read(written.body, written.attributes, inbound.key)
    assert again.headers["anybroker-dead-reason"] == "r"
    if isinstance(event, Foreign):
        assert isinstance(again.event, Foreign)
        assert (again.event.body, sorted(again.event.headers)) == (event.body, sorted(event.headers)), "another one"
        if isinstance(event, SqsForeign):
            assert isinstance(again.event, SqsForeign)
            assert (again.event.text, again.event.attributes) == (event.text, event.attributes)
    else:
        assert again.event == event
    return inbound


def _kind(value: bytes) -> tuple[int, bytes]:
    return b"snb".find(value[:1]) if value[:1] in (b"s", b"n", b"b") else value[0], value[1:]
