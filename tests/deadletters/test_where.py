"""Matching a field."""

from __future__ import annotations

import pytest
from tests.deadletters.conftest import letter_of

from anybroker import ConfigError, DeadLetter, Event
from anybroker.deadletters.where import Where

DATA = {
    "cents": 250,
    "paid": True,
    "none": None,
    "who": {"id": "c-7", "age": "40"},
    "items": [{"sku": "A-1"}],
    "f": 1.5,
}


@pytest.mark.parametrize(
    "text",
    [
        "data.cents>100",
        ".data.cents >= 250",
        "data.cents<1000",
        "data.cents<=250.0",
        "data.cents=250",
        "data.cents==250.0",
        "data.cents!=251",
        "data.f>1",
        "data.paid=true",
        "data.none=null",
        "data.none",
        "data.who.id=c-7",
        'data.who.id="c-7"',
        "data.who.id~c-",
        "data.who.age=40",
        "data.who.age>39",
        "data.items[0].sku~A",
        "data.items.0.sku=A-1",
        "data.missing!=1",
        'data.who={"id": "c-7", "age": "40"}',
        "type=order.v1",
        "type>order.v0",
        "subject!=x",
        "partitionkey=k-1",
        "headers.x-tenant=north",
        "headers.X-Tenant~nor",
        "data",
    ],
)
def test_what_holds(text: str) -> None:
    assert Where(text).matches(letter_of(DATA, headers={"x-tenant": "north"}))


@pytest.mark.parametrize(
    "text",
    [
        "data.cents>250",
        "data.cents>a",
        "data.cents=true",
        "data.paid=1",
        "data.paid>0",
        "data.cents~2",
        "data.missing",
        "data.missing=1",
        "data.missing~",
        "data.cents.more=1",
        "data.items[1].sku=A-1",
        "data.items.sku=A-1",
        "subject=x",
        "type.more=1",
        "headers.x-other",
        "data.none=0",
    ],
)
def test_what_does_not_hold(text: str) -> None:
    assert not Where(text).matches(letter_of(DATA, headers={"x-tenant": "north"}))


def test_data_that_cannot_be_read_and_what_is_not_an_event(foreign: DeadLetter) -> None:
    broken = letter_of(Event.create(b"{oops", source="s", type="t", datacontenttype="application/json"))
    for letter in (broken, foreign):
        assert not Where("data.cents>1").matches(letter)
        assert Where("data.cents!=1").matches(letter)
    assert not Where("type=t").matches(foreign)
    assert Where("type=t").matches(broken)


@pytest.mark.parametrize("text", ["", "data.", "1=1", "data.a > [1]", "a b", "data..a=1", "x" * 2000])
def test_what_is_not_a_comparison_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.cents>100") as caught:
        Where(text)
    assert caught.value.setting == "where"
    assert len(str(caught.value)) < 600
