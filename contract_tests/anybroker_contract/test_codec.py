"""codecs: data in a format of one's own passes every broker, beside JSON on another topic."""

from __future__ import annotations

import zlib
from typing import Any

from pydantic import BaseModel

from anybroker import DecodeError, Event, event_type
from anybroker.codec import Decode, validator

from ._kit import Kit
from ._waiting import eventually

PACKED = "application/vnd.anybroker.packed"


class Packed:
    """Compressed JSON: bytes of every value, and none that a text begins with."""

    name = "packed"
    content_types = (PACKED,)

    def encode(self, payload: object, topic: str, type: str, /) -> tuple[bytes, str, str | None]:
        assert isinstance(payload, BaseModel)
        body = bytes(range(256)) + zlib.compress(payload.model_dump_json().encode())
        return body, f"{PACKED}; level=6", f"https://schemas.example/{type}"

    def decoder(self, annotation: object, topic: str, /) -> Decode:
        validate = validator(annotation)

        def decode(event: Event) -> object:
            try:
                return validate(Note.model_validate_json(zlib.decompress((event.body or b"")[256:])))
            except zlib.error as exc:
                raise DecodeError(f"the data is not packed: {exc}") from None

        return decode


@event_type("com.example.contract.noted.v1", key="name")
class Note(BaseModel):
    """The payload."""

    name: str
    number: int


async def test_a_topics_codec_beside_json_on_another(kit: Kit) -> None:
    """Binary data of a codec arrive byte for byte, with their content type and schema; what it cannot decode is dead-
    lettered as it came."""
    packed, plain = kit.topic(), kit.topic()
    bus = kit.bus(codecs=[Packed()], topics={packed: {"codec": "packed"}})
    seen: list[tuple[str, Any, Event]] = []

    @bus.subscribe(packed, group="g")
    async def take_packed(note: Note, event: Event) -> None:
        seen.append(("packed", note, event))

    @bus.subscribe(plain, group="g")
    async def take_plain(note: Note, event: Event) -> None:
        seen.append(("plain", note, event))

    notes = [Note(name=f"k-{number % 3}", number=number) for number in range(9)]
    async with bus:
        for note in notes:
            await bus.publish(packed, note)
            await bus.publish(plain, note)
        await bus.publish(packed, b"\x00\xff", type="com.example.contract.noted.v1", datacontenttype=PACKED)
        stats = bus.subscription(packed, group="g").stats

        async def done() -> bool:
            return len(seen) >= 2 * len(notes) and stats.dead_lettered > 0

        await eventually(done, kit.patience, "not everything was handled or dead-lettered")
        (letter,) = await bus.dead_letters(packed, "g").list(1)
    for topic in ("packed", "plain"):
        arrived = [note for where, note, _ in seen if where == topic]
        assert sorted(arrived, key=lambda note: note.number) == notes
        assert {event.key for where, _, event in seen if where == topic} == {"k-0", "k-1", "k-2"}
    for where, note, event in seen:
        if where == "packed":
            body, content_type, schema = Packed().encode(note, packed, event.type)
            assert (event.body, event.datacontenttype, event.dataschema) == (body, content_type, schema)
        else:
            assert (event.datacontenttype, event.dataschema) == ("application/json", None)
    assert isinstance(letter.event, Event)
    assert (letter.event.body, letter.event.datacontenttype) == (b"\x00\xff", PACKED)
    assert letter.reason is not None
    assert letter.reason.startswith("undecodable: the data is not packed")
