"""The memory for names and values that other programs choose is bounded in bytes, whatever they send."""

from __future__ import annotations

import gc
import json
import logging
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from anybroker.cloudevents import HeaderBinding, TransportNames, parse_json
from anybroker.cloudevents.attributes import write_extension
from anybroker.errors import InvalidEvent
from anybroker.event import Event

MIB = 1024 * 1024
ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
USUAL = [(f"ce_{name}", value.encode()) for name, value in ATTRIBUTES.items()]


def held_after(act: Callable[[], object]) -> int:
    """How many bytes are held after this that were not held before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def each(act: Callable[[Any], object], given: Iterable[Any]) -> Callable[[], None]:
    """Do it with each, and keep none."""

    def run() -> None:
        for one in given:
            try:
                act(one)
            except InvalidEvent:
                pass

    return run


def bindings() -> list[Any]:
    return [
        pytest.param(lambda: HeaderBinding(bytes, prefix="ce_"), id="bytes"),
        pytest.param(lambda: HeaderBinding(str, prefix="ce-", also_read=("ce_",), percent=True), id="percent"),
        pytest.param(
            lambda: HeaderBinding(bytes, prefix="ce_", content_type="property", null_body=False), id="property"
        ),
        pytest.param(lambda: HeaderBinding(str, prefix="ce_", content_type="attribute"), id="attribute"),
    ]


def long_names(prefix: str) -> Iterable[str]:
    return (prefix + f"{number:04}" + "x" * MIB for number in range(16))


def new_names(prefix: str) -> Iterable[str]:
    return (f"{prefix}{number:08}".ljust(64, "x") for number in range(4_000))


def spelled(name: str) -> Iterable[str]:
    """The same name in 64 mixtures of cases."""
    for mask in range(64):
        yield "".join(c.upper() if at < 6 and mask >> at & 1 else c for at, c in enumerate(name))


@pytest.mark.parametrize("make", bindings())
@pytest.mark.parametrize("prefix", ["x-", "ce_"])
@pytest.mark.parametrize("names", [long_names, new_names])
def test_names_of_headers(make: Callable[[], Any], prefix: str, names: Callable[[str], Iterable[str]]) -> None:
    binding = make()

    def read(name: str) -> None:
        binding.parse([*USUAL, (name, b"1")], None)
        binding.parse_usual([*USUAL, (name, b"1")], None)

    assert held_after(each(read, names(prefix))) < 2 * MIB
    assert binding.parse(USUAL, None).type == "t"


@pytest.mark.parametrize("make", bindings())
def test_values_under_every_spelling_of_a_name(make: Callable[[], Any]) -> None:
    """A name has as many spellings as letters allow, and the values of all of them are those of one attribute."""
    binding = make()

    def read(header: str) -> None:
        for number in range(150):
            binding.parse([*USUAL, (header, f"text/{number}".ljust(200, "x").encode())], b"1")

    given = [*spelled("ce_datacontenttype"), *spelled("content-type")]
    assert held_after(each(read, given)) < 2 * MIB


@pytest.mark.parametrize("attribute", ["source", "type", "dataschema", "datacontenttype", "content-type"])
@pytest.mark.parametrize("length", [200, MIB])
def test_values(attribute: str, length: int) -> None:
    binding = HeaderBinding(bytes, prefix="ce_")
    header = attribute if attribute == "content-type" else f"ce_{attribute}"

    def read(number: int) -> None:
        others = [(name, value) for name, value in USUAL if name != header]
        binding.parse([*others, (header, f"a/{number}".ljust(length, "x").encode())], b"1")

    assert held_after(each(read, range(16 if length == MIB else 4_000))) < 2 * MIB


@pytest.mark.parametrize("names", [long_names, new_names])
def test_names_of_transport_headers(names: Callable[[str], Iterable[str]]) -> None:
    known = TransportNames(("ce_",))
    assert held_after(each(known.__getitem__, names("X-"))) < MIB
    assert known["X-Tenant"] == "x-tenant"


@pytest.mark.parametrize("names", [long_names, new_names])
def test_names_of_attributes_of_a_document(names: Callable[[str], Iterable[str]]) -> None:
    def read(name: str) -> None:
        parse_json(json.dumps({**ATTRIBUTES, name: "1"}).encode())

    assert held_after(each(read, names("a"))) < MIB


@pytest.mark.parametrize("make", bindings())
@pytest.mark.parametrize("names", [long_names, new_names])
def test_names_that_are_written(make: Callable[[], Any], names: Callable[[str], Iterable[str]]) -> None:
    """A dead letter has the attributes that its event came with."""
    binding = make()

    def write(name: str) -> None:
        assert len(binding.binary_headers(Event({**ATTRIBUTES, name: "1"}))) == 5

    assert held_after(each(write, names("a"))) < MIB


@pytest.mark.parametrize("attribute", ["source", "type", "dataschema"])
def test_values_that_are_written(attribute: str) -> None:
    binding = HeaderBinding(bytes, prefix="ce_")

    def write(number: int) -> None:
        binding.binary_headers(Event({**ATTRIBUTES, attribute: f"urn:{number:08}".ljust(200, "x")}))

    assert held_after(each(write, range(4_000))) < 2 * MIB


def test_a_long_name_is_told_once_and_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "anybroker.cloudevents"):
        for name in ("longname" * 200, "longname" * 200):
            write_extension(name, "1")
        assert held_after(each(lambda name: write_extension(name, "1"), (f"z{n}" + "y" * MIB for n in range(8)))) < MIB
    assert sum("longname" in record.getMessage() for record in caplog.records) == 1
    assert max(len(record.getMessage()) for record in caplog.records) < 400


def test_an_error_about_a_long_name_is_short() -> None:
    binding = HeaderBinding(bytes, prefix="ce_")
    with pytest.raises(InvalidEvent) as raised:
        binding.parse([*USUAL, ("ce_" + "x" * MIB, b"\xff")], None)
    assert len(str(raised.value)) < 400
