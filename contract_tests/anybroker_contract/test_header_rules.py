"""header rules: what cannot travel is refused by ``publish``, alone, before anything is sent, alike on every broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import strategies as st

from anybroker import Delivery, Event, Receipt
from anybroker.adapter import GroupSpec, Outbound, TopicSpec, Topology
from anybroker.errors import BrokerError, ConfigError, PublishOutcomeUnknown
from anybroker.middleware import retry

from ._generated import generated
from ._kit import TYPE, Kit, counted, submit
from ._owned import OWNED

NOT_CARRIED: dict[str, Any] = {
    "no value": {"h": None},
    "bytes": {"h": b"x"},
    "a number": {"h": 5},
    "a lone surrogate": {"h": "\udcff"},
    "a line break": {"h": "a\r\nb: c"},
    "a number as name": {5: "h"},
    "bytes as name": {b"h": "h"},
    "an empty name": {"": "h"},
    "a name with a colon": {"a:b": "h"},
    "a name with a space": {"a b": "h"},
    "a name with a line break": {"a\n": "h"},
    "a name with a lone surrogate": {"\udcff": "h"},
    "a name that is not ASCII": {"größe": "h"},
    "a long name": {"x" * 256: "h"},
    "one name twice": {"Tenant": "a", "tenant": "b"},
    "no mapping": [("a", "b")],
}


class Unreadable(Mapping[str, str]):
    """Headers that no adapter can write."""

    def __getitem__(self, name: str) -> str:
        raise RuntimeError("these headers cannot be read")

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("these headers cannot be read")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("headers", NOT_CARRIED.values(), ids=NOT_CARRIED)
async def test_a_header_that_cannot_travel_is_refused_alone(kit: Kit, headers: Any) -> None:
    """One of 40 concurrent publishes has a header, or a header name, that is not text: that one is a ConfigError, the
    others are stored, and so is what is published afterwards."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        results = await asyncio.gather(
            *(bus.publish(topic, counted(number), headers=headers if number == 20 else None) for number in range(40)),
            return_exceptions=True,
        )
        refused = results.pop(20)
        assert isinstance(refused, ConfigError)
        assert "publish(headers=)" in str(refused)
        assert all(isinstance(result, Receipt) for result in results), [r for r in results if type(r) is not Receipt]
        await asyncio.gather(*(bus.publish(topic, counted(number)) for number in range(40, 50)))
        await log.wait_done(f"w-{number}" for number in range(50) if number != 20)
    assert "w-20" not in log.started


async def test_names_that_belong_to_the_event_or_to_a_broker_are_refused(kit: Kit) -> None:
    """A header name that belongs to the event, a broker or the library is a ConfigError that names it, on every broker;
    nothing of it arrives, and waiting events are unaffected."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with kit.bus(consume=False) as publisher:
        await publisher.publish(topic, counted(0, key="k"))
        for name in OWNED:
            with pytest.raises(ConfigError, match="belongs to") as error:
                await publisher.publish(topic, counted(1, key="k"), headers={name: "all"})
            assert repr(name) in str(error.value)
        await publisher.publish(topic, counted(2, key="k"))
    async with bus:
        await log.wait_done(["w-0", "w-2"])
    assert log.started == ["w-0", "w-2"]


async def test_names_of_headers_travel_in_lower_case(kit: Kit) -> None:
    """``Tenant-ID`` arrives as ``tenant-id``, on every broker."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await bus.publish(topic, counted(0), headers={"Tenant-ID": "Acme", "x-Region": "EU"})
        await log.wait_done(["w-0"])
    assert log.handlings[0].headers == {"tenant-id": "Acme", "x-region": "EU"}


async def test_headers_that_are_passed_on_carry_no_attempts(kit: Kit) -> None:
    """A handler that passes ``delivery.headers`` on at its third start publishes an event that begins at its first; the
    headers have what the publisher gave, and nothing of the library's."""
    first, second = kit.topic("a"), kit.topic("b")
    bus = kit.bus(topics={first: {"ordered": False}, second: {"ordered": False}})

    async def pass_on(delivery: Delivery) -> None:
        if delivery.attempt < 3:
            raise ValueError("not yet")
        await bus.publish(second, counted(1, writer="b"), headers=delivery.headers)

    source = kit.subscribe(bus, first, behave=pass_on, ordered=False, middleware=[retry(attempts=5, first=0.01)])
    log = kit.subscribe(bus, second, ordered=False)
    async with bus:
        await bus.publish(first, counted(0), headers={"tenant": "t"})
        await log.wait_done(["b-1"])
    assert [handling.headers for handling in source.handlings] == [{"tenant": "t"}] * 3
    assert log.attempts("b-1") == [1]
    assert log.handlings[0].headers == {"tenant": "t"}


async def test_headers_of_ours_are_not_believed_from_others(kit: Kit) -> None:
    """``anybroker-attempts`` and similar headers that another program wrote on an event in the topic change nothing;
    the handler does not see them."""
    topic = kit.topic()
    await kit.declared(topic, "g")
    headers = {"anybroker-attempts": "4", "anybroker-replays": "zz", "x-own": "1"}
    async with kit.adapter() as adapter:
        sender = await adapter.open_sender()
        try:
            (result,) = await submit(sender, [Outbound(counted(0, key="k"), topic, headers=headers)])
        finally:
            await sender.close()
    assert isinstance(result, Receipt)
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus:
        await log.wait_done(["w-0"])
    assert log.attempts("w-0") == [1]
    assert log.handlings[0].headers == {"x-own": "1"}


async def test_an_event_that_cannot_be_written_fails_alone(kit: Kit) -> None:
    """An event whose headers raise when the adapter reads them gets its own result, which is not unknown; those before
    and after it in the batch are stored, and so are later ones on the same sender."""
    topic = kit.topic()
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    async with bus, kit.adapter() as adapter:
        await adapter.declare(Topology((TopicSpec(topic, (GroupSpec("g"),)),)), "create")
        sender = await adapter.open_sender()
        try:
            batch = [Outbound(counted(number, key="k"), topic, headers={"n": "1"}) for number in range(20)]
            batch[10] = Outbound(counted(10, key="k"), topic, headers=Unreadable())
            results = await submit(sender, batch, 10.0)
            later = await submit(sender, [Outbound(counted(number, key="k"), topic) for number in range(20, 40)], 10.0)
        finally:
            await sender.close()
        bad = results.pop(10)
        assert not isinstance(bad, PublishOutcomeUnknown), bad
        assert [result for result in (*results, *later) if not isinstance(result, Receipt)] == []
        if isinstance(bad, BrokerError):
            assert str(bad)
        ids = [f"w-{number}" for number in range(40) if number != 10]
        await log.wait_done(ids)
    assert [id_ for id_ in log.started if id_ != "w-10"] == ids


# ------------------------------------------------------------------------------------------------------- generated

_TOKENS = st.text(min_size=1, max_size=12, alphabet="abcXYZ019-_.")
_NAMES = st.one_of(
    _TOKENS,
    st.text(max_size=8),
    st.sampled_from([*OWNED, "Tenant", "tenant", "x-" + "n" * 253, "x-" + "n" * 254]),
    st.binary(max_size=3),
    st.integers(),
)
_TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=st.characters(max_codepoint=0x7F, exclude_characters="\r\n"), max_size=20),
    st.sampled_from(["", " ", "  x  ", "%41%zz%", '"', "\t", "\x00", "\x7f", "\u2028", "🎉" * 300]),
)
_VALUES = st.one_of(
    _TEXTS,
    st.text(alphabet=st.characters(codec=None), max_size=5),  # surrogates too
    st.sampled_from(["\ud800", "a\rb", "\n"]),
    st.binary(max_size=5),
    st.integers(),
    st.none(),
)
_HEADERS = st.one_of(  # many have to arrive: few would, if every part of each could be wrong
    st.dictionaries(_TOKENS, _TEXTS, min_size=1, max_size=6),
    st.dictionaries(_NAMES, _TEXTS, min_size=1, max_size=4),
    st.dictionaries(_TOKENS, _VALUES, min_size=1, max_size=4),
)


def _plain(headers: dict[Any, Any]) -> bool:
    """Whether nothing is wrong with them."""
    return all(
        isinstance(name, str) and isinstance(value, str) and name.isalnum() and name.isascii() and value.isprintable()
        for name, value in headers.items()
    ) and len({name.lower() for name in headers} - {"anybroker", "cc", "bcc"}) == len(headers)


@pytest.mark.timeout(200)  # of the full tier: 10,000 cases are made, and published
async def test_generated_headers_arrive_equal_or_are_refused(kit: Kit) -> None:
    """Each of thousands of random dictionaries (text, control characters, surrogates, bytes, numbers, reserved names,
    mixed case) either arrives unchanged, in lower case, or is refused alone before anything is sent; the Bus still
    works afterwards."""
    topic = kit.topic()
    cases: list[dict[Any, Any]] = [*generated(_HEADERS, kit.pick(300, 10_000))]
    bus = kit.bus()
    log = kit.subscribe(bus, topic)
    sent: dict[str, dict[str, str]] = {}
    async with bus:
        for at in range(0, len(cases), 100):
            chunk = cases[at : at + 100]
            results = await asyncio.gather(
                *(bus.publish(topic, _numbered(at + number), headers=headers) for number, headers in enumerate(chunk)),
                return_exceptions=True,
            )
            for number, (headers, result) in enumerate(zip(chunk, results, strict=True), at):
                if isinstance(result, Receipt):
                    sent[f"w-{number}"] = {name.lower(): value for name, value in headers.items()}
                else:
                    assert isinstance(result, ConfigError), (headers, result)
                    assert not _plain(headers), (headers, result)
        assert bus.stats.failed == 0
        await bus.publish(topic, _numbered(len(cases)))
        await log.wait_done([*sent, f"w-{len(cases)}"], patience=kit.patience + len(cases) / 100)
    got = {handling.id: handling.headers for handling in log.handlings}
    del got[f"w-{len(cases)}"]
    assert got.keys() == sent.keys()
    wrong = {id_: (sent[id_], headers) for id_, headers in got.items() if headers != sent[id_]}
    assert not wrong
    assert len(cases) / 10 < len(sent) < len(cases) * 9 / 10  # neither side of the rule is idle


def _numbered(number: int) -> Event[Any]:
    return Event.create({"n": number}, source="contract", type=TYPE, id=f"w-{number}")
