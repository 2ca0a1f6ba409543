"""The event_type decorator: what it accepts, what is inherited, what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from anybroker.errors import ConfigError
from anybroker.event import Event, declared_key, declared_type, event_type

T = TypeVar("T")


class Customer(BaseModel):
    id: str


@event_type("base.v1", key="customer.id")
class Base(BaseModel):
    customer: Customer | None = None


def key_of(cls: type, payload: object) -> object:
    found = declared_key(cls)
    assert found is not None
    return found(payload)


def test_type_and_key_of_a_model() -> None:
    assert declared_type(Base) == "base.v1"
    assert key_of(Base, Base(customer=Customer(id="c"))) == "c"
    assert key_of(Base, Base()) is None
    assert declared_type(Customer) is None
    assert declared_key(Customer) is None


def test_a_subclass_inherits_the_key_but_not_the_type() -> None:
    class Silent(Base):
        pass

    @event_type("special.v1")
    class Special(Base):
        pass

    @event_type("other.v1", key=lambda payload: "fixed")
    class Other(Base):
        pass

    assert declared_type(Silent) is None
    assert declared_type(Special) == "special.v1"
    assert declared_type(Base) == "base.v1"
    assert key_of(Special, Special(customer=Customer(id="c"))) == "c"
    assert key_of(Other, Other()) == "fixed"
    assert Event.create(Other(), source="s").key == "fixed"


def test_a_parametrised_generic_is_its_generic() -> None:
    @event_type("page.v1", key="name")
    class Page(BaseModel, Generic[T]):
        name: str
        item: T

    assert declared_type(Page[int]) == "page.v1"
    event = Event.create(Page[int](name="n", item=1), source="s")
    assert (event.type, event.key) == ("page.v1", "n")


def test_a_dataclass() -> None:
    @event_type("point.v1", key="label")
    @dataclass(slots=True)
    class Point:
        label: str

    assert Event.create(Point("l"), source="s").key == "l"


def test_a_typed_dict() -> None:
    @event_type("row.v1", key="who")
    class Row(TypedDict):
        who: str

    assert declared_type(Row) == "row.v1"
    assert key_of(Row, {"who": "w"}) == "w"


def test_a_plain_class_and_a_property() -> None:
    @event_type("plain.v1", key="who.name")
    class Plain:
        who: Any = {"name": "n"}  # noqa: RUF012 - the test wants a mapping on the way

    assert key_of(Plain, Plain()) == "n"

    @event_type("model.v1", key="label")
    class WithProperty(BaseModel):
        x: int

        @property
        def label(self) -> str:
            return f"x{self.x}"

    assert Event.create(WithProperty(x=1), source="s").key == "x1"


@pytest.mark.parametrize("name", ["", 5, None, "a\nb"])
def test_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"event_type\(name\): attribute 'type'"):
        event_type(name)


@pytest.mark.parametrize("path", ["", "a..b", "1a", "a b", "a.", "a-b"])
def test_a_bad_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="is not a field path"):
        event_type("t", key=path)(Customer)


def test_a_missing_field_is_refused_with_the_fields_there_are() -> None:
    with pytest.raises(ConfigError, match=r"Customer has no field 'idd'.*id"):
        event_type("t", key="idd")(Customer)


def test_only_classes_are_declared() -> None:
    with pytest.raises(ConfigError, match="decorates a function"):
        event_type("t")(lambda: None)  # type: ignore[type-var]
