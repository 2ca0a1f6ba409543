"""Keys: any text, and no two that are taken for one."""

from __future__ import annotations

import asyncio

import pytest

from anybroker.idempotency import Claim, Key

from ._kit import LONG, RETAIN, StoreKit

TEXTS = [
    pytest.param('it\'s "quoted"; DROP TABLE x; -- %s $1 {} \\', id="quotes"),
    pytest.param("\0", id="NUL"),
    pytest.param("a\0b", id="NUL inside"),
    pytest.param("\U0001f600" * 128, id="128 astral characters"),
    pytest.param("é\n\r\t\x1f|:,*?[]", id="control characters"),
    pytest.param("e\u0301", id="combining"),
    pytest.param(" spaces ", id="spaces"),
    pytest.param("", id="empty"),
    pytest.param("x" * 128, id="128 characters"),
    pytest.param("NULL", id="NULL"),
    pytest.param("null", id="null"),
]


@pytest.mark.parametrize("text", TEXTS)
async def test_any_text_can_be_a_key(kit: StoreKit, text: str) -> None:
    """A source and an id of any text are claimed, marked and remembered."""
    store = await kit.open()
    group, handler, _, _ = kit.key()
    key: Key = (group, handler, text, text)
    claim = await kit.claimed(store, key)
    assert claim.key == key
    await kit.busy(store, key)
    assert list(await store.extend([claim])) == [True]
    assert await store.done(claim) is True
    await kit.is_done(store, key)


@pytest.mark.parametrize("part", range(4))
async def test_each_part_of_the_key_counts(kit: StoreKit, part: int) -> None:
    """Keys that differ in one of their four parts are different keys."""
    store = await kit.open()
    key = kit.key()
    await kit.claimed(store, key)
    for change in ("é\n|", " ", "x"):
        other = list(key)
        other[part] += change
        first = await kit.claimed(store, (other[0], other[1], other[2], other[3]))
        assert await store.done(first)
        await kit.busy(store, key)


async def test_what_looks_alike_is_not_the_same(kit: StoreKit) -> None:
    """Ids that differ in case, in trailing spaces, in normalization, or behind their first 64 characters are different,
    and so are parts with separators in them that would be the same text when joined."""
    store = await kit.open()
    mark = kit.key()[0]
    keys: list[Key] = [
        (mark, "h", "s", text) for text in ("a", "A", "a ", " a", "a\0", "\u00e9", "e\u0301", "0", "00", "")
    ]
    keys += [(mark, "h", "s", "y" * 127 + last) for last in "ab"]
    for separator in ("\0", "|", ":", "/", ",", " ", "\n", "\x1f", '", "', "\\", "."):
        keys += [
            (mark, f"p{separator}q", "r", f"s{separator}t"),
            (mark, "p", f"q{separator}r", f"s{separator}t"),
            (mark, "p", "q", f"r{separator}s{separator}t"),
            (mark, f"p{separator}q{separator}r", "s", "t"),
            (f"{mark}{separator}p", "q", "r", f"s{separator}t"),
        ]
    claims = await asyncio.gather(*(store.claim(key, "a", LONG, RETAIN) for key in keys))
    taken = [key for key, claim in zip(keys, claims, strict=True) if not isinstance(claim, Claim)]
    assert taken == []


async def test_a_key_that_cannot_be_stored_fails_alone(kit: StoreKit) -> None:
    """A lone surrogate is not text that can be encoded: such a claim is made or is an error of its own, which is not
    taken for a store that is down; the other claims of its batch are not touched."""
    store = await kit.open()
    group, handler, source, _ = kit.key()
    keys = kit.keys(10)
    bad: Key = (group, handler, source, "\ud800")
    results = await asyncio.gather(
        *(store.claim(key, "a", LONG, RETAIN) for key in (*keys[:5], bad, *keys[5:])), return_exceptions=True
    )
    alone = results.pop(5)
    assert isinstance(alone, Claim | ValueError), repr(alone)
    assert all(isinstance(result, Claim) for result in results)
