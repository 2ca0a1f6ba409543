"""Payloads: what is refused, and how the error names the part to blame."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, field_serializer

from anybroker.errors import EncodeError
from anybroker.event import Event, event_type


class Inner(BaseModel):
    price: float = 1.0


class Outer(BaseModel):
    name: str | None = None
    inner: Inner = Inner()
    anything: Any = None


class Constants(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    price: float


class Strings(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    price: float


class Opaque:
    pass


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    things: list[Opaque]


class Failing(BaseModel):
    x: int

    @field_serializer("x")
    def write(self, value: int) -> int:
        raise RuntimeError("no")


@dataclass
class Node:
    children: list[Any] = field(default_factory=list)


def body(data: object, content_type: str | None = None) -> bytes | None:
    return Event.create(data, source="s", type="t", datacontenttype=content_type).body


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (math.nan, "data is nan"),
        ([1.0, -math.inf], "data[1] is -inf"),
        ({"a": {"b": (math.nan,)}}, "data['a']['b'][0] is nan"),
        (Node([math.inf]), "data.children[0] is inf"),
        (Inner(price=math.nan), "data['price'] is nan"),
        (Outer(inner=Inner(price=math.inf)), "data['inner']['price'] is inf"),
        (Outer(anything=[math.nan]), "data['anything'][0] is nan"),
        (Constants(price=math.nan), "data['price'] is nan"),
        ([Inner(price=math.nan)], "data[0].price is nan"),
    ],
)
def test_nan_is_refused_with_its_path(data: object, path: str) -> None:
    with pytest.raises(EncodeError, match=re.escape(f"{path}, which JSON does not have")):
        body(data)


def test_null_and_the_word_nan_pass() -> None:
    assert body(Outer()) == b'{"name":null,"inner":{"price":1.0},"anything":null}'
    assert body(Outer(name="NaN Infinity null")) is not None
    assert body({"a": "NaN"}) == b'{"a":"NaN"}'
    assert body(Strings(price=math.nan)) == b'{"price":"NaN"}'  # the model's own decision


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (Opaque(), "data is a {module}.Opaque that cannot be written as JSON"),
        ({"a": [1, Opaque()]}, "data['a'][1] is a {module}.Opaque"),
        (Node([Node([Opaque()])]), "data.children[0].children[0] is a {module}.Opaque"),
        (Holder(things=[Opaque()]), "data.things[0] is a {module}.Opaque"),
        ({"a": b"\xff"}, "data['a'] is a builtins.bytes"),
        ({"a": "\ud800"}, "data['a'] is a builtins.str"),
        (Failing(x=1), "data is a {module}.Failing"),
    ],
)
def test_what_cannot_be_written_is_named(data: object, text: str) -> None:
    with pytest.raises(EncodeError) as caught:
        body(data)
    assert text.format(module=__name__) in str(caught.value)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_a_cycle_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(EncodeError, match="Circular"):
        body(cycle)


def test_the_value_is_not_in_the_text() -> None:
    with pytest.raises(EncodeError) as caught:
        body({"secret": "hunter2\ud800"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(EncodeError) as caught:
        body("hunter2ä", "text/plain; charset=us-ascii")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        ({"a": 1}, "text/plain", "a dict can only be written as JSON, but the type is 'text/plain'. Pass bytes"),
        (None, "application/xml", "a NoneType can only be written as JSON"),
        ("ä", "text/plain; charset=us-ascii", "cannot be written in ascii"),
        ("x", "text/plain; charset=nonsense", "character set of 'text/plain; charset=nonsense' is unknown"),
        ("x", "text/plain; charset=rot13", "is unknown"),
    ],
)
def test_content_types_that_do_not_fit(data: object, content_type: str, text: str) -> None:
    with pytest.raises(EncodeError, match=re.escape(text)):
        body(data, content_type)


def test_a_model_with_forward_references() -> None:
    class Later(BaseModel):
        x: "Missing"  # noqa: UP037 - the reference has to be unresolved at first

    class Missing(BaseModel):
        y: float

    Later.model_rebuild(_types_namespace={"Missing": Missing})
    assert body(Later(x=Missing(y=1.5))) == b'{"x":{"y":1.5}}'
    with pytest.raises(EncodeError, match="nan"):
        body(Later(x=Missing(y=math.nan)))


def test_a_declaration_after_the_first_use_counts() -> None:
    class Late(BaseModel):
        who: str = "w"

    assert Event.create(Late(), source="s", type="t").key is None
    event_type("late", key="who")(Late)
    event = Event.create(Late(), source="s")
    assert (event.type, event.key) == ("late", "w")
