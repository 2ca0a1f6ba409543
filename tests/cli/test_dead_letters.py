"""``anybroker dlq``."""

from __future__ import annotations

import asyncio
import os
import re
import time
from importlib.metadata import version
from socket import gethostname
from typing import Any

import pytest

from anybroker import Bus
from anybroker.adapter import Foreign
from anybroker.deadletters.reason import fingerprint_of
from anybroker.deadletters.sending import replay
from anybroker.errors import InvalidEvent

QUICK = ("--patience", "0.2")


@pytest.fixture
def dlq(anybroker: Any, shop: Any) -> Any:
    """``anybroker dlq ACTION orders billing … --url …``."""

    def command(action: str, *arguments: object) -> Any:
        return anybroker("dlq", action, "orders", "billing", *arguments, "--url", shop.url, *QUICK)

    return command


# ------------------------------------------------------------------------------------------------------------- list


def test_list_shows_what_died_and_no_data(shop: Any, dlq: Any) -> None:
    shop.fill(
        {"card": "4111", "refuse": "the bank says no"}, {"fine": 1}, {"card": "4222", "refuse": "expired"}, key="k-1"
    )
    ended = dlq("list")
    assert (ended.code, ended.err) == (0, "")
    head, *rows = ended.out.splitlines()
    assert head.split() == ["id", "type", "key", "attempts", "died", "reason"]
    assert [row.split(maxsplit=5)[:4] for row in rows] == [
        ["o-0", "order.v1", "k-1", "1"],
        ["o-2", "order.v1", "k-1", "1"],
    ]
    assert [row.split(maxsplit=5)[5] for row in rows] == ["the bank says no", "expired"]
    assert "4111" not in ended.out
    assert dlq("list").out == ended.out  # they stay where they are


def test_list_as_json(shop: Any, dlq: Any) -> None:
    shop.fill({"card": "4111", "refuse": "no"})
    ended = dlq("list", "--json")
    (item,) = ended.json
    assert item.pop("died").endswith("Z")
    assert re.fullmatch("#[0-9a-f]{16}", item.pop("fingerprint"))
    (attempt,) = item.pop("history")
    assert attempt.pop("at").endswith("Z")
    assert attempt == {"number": 1, "error": "anybroker.errors.Reject: no"}
    stack = item.pop("traceback").splitlines()
    assert stack[0] == "Traceback (most recent call last):"
    assert stack[-1] == "anybroker.errors.Reject: no"
    assert item == {
        "id": "o-0",
        "source": "shop",
        "type": "order.v1",
        "key": None,
        "reason_fingerprint": fingerprint_of("anybroker.errors.Reject", "charge", "no"),
        "reason": "no",
        "attempts": 1,
        "replays": 0,
        "edited": "",
        "handler": "charge",
        "topic": "orders",
        "group": "billing",
        "host": gethostname(),
        "version": version("anybroker"),
        "pid": os.getpid(),
    }
    assert ended.err == ""


def test_nothing_there(shop: Any, dlq: Any) -> None:
    shop.fill({"fine": 1})
    ended = dlq("list")
    assert (ended.code, ended.out, ended.err) == (0, "", "orders/billing: no dead letters\n")
    assert dlq("list", "--json").json == []
    assert dlq("show").err == "orders/billing: no dead letters\n"


def test_a_limit_says_that_there_may_be_more(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": "no"} for _ in range(5)))
    ended = dlq("list", "--limit", 3)
    assert len(ended.out.splitlines()) == 4
    assert ended.err == "anybroker: there may be more than these 3: raise --limit\n"
    assert dlq("list", "--limit", 6).err == ""


def test_what_would_steer_the_terminal_is_not_written(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "\x1b[2Jgone\nnext line", "text": "\x1b]0;title\x07"})
    for ended in (dlq("list"), dlq("show")):
        assert "\x1b" not in ended.out
        assert "\x07" not in ended.out
    assert len(dlq("list").out.splitlines()) == 2


def test_a_long_reason_is_cut_in_the_table_only(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "n" * 500})
    assert dlq("list").out.rstrip().endswith("n" * 99 + "…")
    assert dlq("list", "--json").json[0]["reason"] == "n" * 500


# ------------------------------------------------------------------------------------------------------------ stats


def test_stats_count_by_what_they_died_of(shop: Any, dlq: Any) -> None:
    cards = [{"card": f"{number}", "refuse": f"card of c{number} declined"} for number in range(4)]
    shop.fill(*cards, {"refuse": "expired"}, {"fine": 1})
    ended = dlq("stats")
    assert (ended.code, ended.err) == (0, "")
    head, declined, expired, total = ended.out.splitlines()
    assert head.split() == ["count", "first", "last", "type", "handler", "reason", "example", "what"]
    count, first, last, *rest = declined.split(maxsplit=7)
    assert first < last
    reason = fingerprint_of("anybroker.errors.Reject", "charge", "card of c1 declined")
    assert (count, rest) == ("4", ["order.v1", "charge", reason, "o-0", "card of * declined"])
    assert expired.split(maxsplit=7)[-1] == "expired"
    assert total == "5 dead letters of 2 reasons"
    assert dlq("stats").out == ended.out  # they stay where they are
    counted = dlq("stats", "--json").json
    assert (counted["total"], counted["types"], counted["more"]) == (5, {"order.v1": 5}, False)
    assert [each["reason"] for each in counted["reasons"]] == ["card of c0 declined", "expired"]
    assert (counted["first"], counted["last"]) == (first, counted["reasons"][1]["last"])


def test_stats_of_nothing_and_of_a_part(shop: Any, dlq: Any) -> None:
    shop.fill({"fine": 1})
    ended = dlq("stats")
    assert (ended.code, ended.out, ended.err) == (0, "", "orders/billing: no dead letters\n")
    assert dlq("stats", "--json").json["reasons"] == []
    shop.fill(*({"refuse": "no"} for _ in range(5)))
    ended = dlq("stats", "--limit", 3)
    assert ended.out.endswith("3 dead letters of 1 reason\n")
    assert ended.err == "anybroker: there may be more than were looked at: raise --limit\n"


# ------------------------------------------------------------------------------------------------------------- show


def test_show_is_the_whole_event(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "no", "card": "4111"}, key="k-1", headers={"x-origin": "web"}, extensions={"tenant": "t-1"})
    (item,) = dlq("show", "--json").json
    assert item["data"] == {"refuse": "no", "card": "4111"}
    assert item["attributes"]["id"] == "o-0"
    assert item["attributes"]["partitionkey"] == "k-1"
    assert item["attributes"]["tenant"] == "t-1"
    assert item["headers"]["x-origin"] == "web"
    assert item["headers"]["anybroker-dead-reason"] == "no"
    assert item["error"].startswith("anybroker.errors.Reject: no")
    text = dlq("show").out
    for line in ("id: o-0", "reason: no", "  partitionkey: k-1", "  x-origin: web", "data:", '    "card": "4111"'):
        assert line in text.splitlines()


def test_show_tells_where_it_failed_and_how_each_attempt_did(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "one\n\x1b[2Jtwo"})
    lines = dlq("show").out.splitlines()
    assert f"host: {gethostname()}" in lines
    assert f"pid: {os.getpid()}" in lines
    at = lines.index("history:")
    assert re.fullmatch(r"  1 at [0-9TZ:.-]{24}: anybroker.errors.Reject: one \\x1b\[2Jtwo", lines[at + 1])
    at = lines.index("traceback:")
    assert lines[at + 1] == "  Traceback (most recent call last):"
    assert '    raise Reject(order["refuse"])' in "\n".join(lines)
    end = lines.index("attributes:")
    assert lines[end - 2 : end] == ["  anybroker.errors.Reject: one", r"  \x1b[2Jtwo"]
    assert not [line for line in lines if "anybroker-dead-traceback" in line or "anybroker-dead-history" in line]


def test_show_by_id(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": str(number)} for number in range(4)))
    assert [item["id"] for item in dlq("show", "o-1", "o-3", "--json").json] == ["o-1", "o-3"]
    ended = dlq("show", "o-2", "o-9")
    assert ended.code == 1
    assert ended.out.count("id: o-") == 2  # the letter's own, and its attribute
    assert ended.err == "anybroker: not among the first 10000 dead letters: o-9\n"


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b"plain", "text/plain", {"data": "plain"}),
        (b"\x00\xff", "application/octet-stream", {"data_base64": "AP8="}),
        (b"{broken", "application/json", {"data": "{broken"}),
        (b"null", "application/json", {"data": None}),
        (None, None, {}),
    ],
)
def test_every_kind_of_data(
    shop: Any, dlq: Any, data: Any, content_type: Any, expected: dict[str, Any], until: Any
) -> None:
    async def publish() -> None:
        async with shop.bus() as bus:
            payload = () if data is None else (data,)
            await bus.publish("orders", *payload, type="order.v1", datacontenttype=content_type)
            await until(lambda: bus.subscriptions[0].stats.dead_lettered)

    asyncio.run(publish())
    (item,) = dlq("show", "--json").json
    assert {name: value for name, value in item.items() if name.startswith("data")} == expected
    assert dlq("show").code == 0


# ------------------------------------------------------------------------------------------------- replay, discard


def test_replay_sends_those_back_to_the_group_that_failed(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": str(number)} for number in range(4)))
    ended = dlq("replay", "o-1", "o-2")
    assert (ended.code, ended.out, ended.err) == (0, "replayed: 2\n", "")
    assert shop.work() == [{"refuse": "1"}, {"refuse": "2"}]
    assert [item["id"] for item in dlq("list", "--json").json] == ["o-0", "o-3"]


def test_replay_all(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": str(number)} for number in range(250)))
    ended = dlq("replay", "--all", "--limit", 100, "--json")
    assert ended.code == 0
    assert len(ended.json["replayed"]) == 100
    assert ended.json["missing"] == []
    assert ended.err == "anybroker: there may be more than these 100: do it again, or raise --limit\n"
    assert len(dlq("replay", "--all", "--json").json["replayed"]) == 150
    assert sorted(int(order["refuse"]) for order in shop.work()) == list(range(250))
    assert dlq("list", "--json").json == []


def test_a_replay_that_fails_again_counts(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "no"})
    dlq("replay", "o-0")
    shop.fill()
    (item,) = dlq("list", "--json").json
    assert (item["id"], item["replays"]) == ("o-0", 1)


def test_discard(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": str(number)} for number in range(4)))
    assert dlq("discard", "o-1").out == "discarded: 1\n"
    ended = dlq("discard", "o-1", "o-0", "--json")
    assert (ended.code, ended.json) == (1, {"discarded": ["o-0"], "missing": ["o-1"]})
    assert dlq("discard", "--all").out == "discarded: 2\n"
    assert dlq("discard", "--all").out == "discarded: 0\n"
    assert shop.work() == []


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_which_ones_must_be_said(dlq: Any, action: str) -> None:
    ended = dlq(action)
    assert ended.code == 2
    assert ended.err == (
        "anybroker: ID: neither an id, a filter nor --all is given. Name the dead letters, say what they have in "
        "common, or write --all.\n"
    )
    assert "both ids and --all are given" in dlq(action, "o-1", "--all").err
    assert "both --all and a filter are given" in dlq(action, "--all", "--key", "k").err
    assert "both ids and a filter are given" in dlq(action, "o-1", "--since", "2h").err


# ---------------------------------------------------------------------------------------------------------- filters


@pytest.fixture
def five(shop: Any) -> None:
    """Two reasons, and data that differ."""
    shop.fill(*({"cents": 100 * n, "refuse": f"card of c{n} declined" if n % 2 else "expired"} for n in range(5)))


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(
    ("given", "ids"),
    [
        (("--reason", "DECLINED"), [1, 3]),
        (("--reason", fingerprint_of("anybroker.errors.Reject", "charge", "card of c7 declined")), [1, 3]),
        (("--reason", "expired", "--where", "data.cents>0"), [2, 4]),
        (("--where", "data.cents>=200", "--where", "data.cents<400"), [2, 3]),
        (("--type", "order.v1", "--handler", "charge", "--since", "1h"), [0, 1, 2, 3, 4]),
        (("--until", "1h"), []),
        (("--key", "k"), []),
    ],
)
def test_filters(shop: Any, dlq: Any, given: tuple[str, ...], ids: list[int]) -> None:
    expected = [f"o-{number}" for number in ids]
    assert [item["id"] for item in dlq("list", *given, "--json").json] == expected
    assert [item["id"] for item in dlq("show", *given, "--json").json] == expected
    assert dlq("stats", *given, "--json").json["total"] == len(ids)
    would = dlq("replay", *given, "--dry-run", "--json")
    assert would.json == {"would_be_replayed": expected, "missing": []}
    assert len(dlq("list", "--json").json) == 5
    assert dlq("discard", *given, "--json").json == {"discarded": expected, "missing": []}
    assert len(dlq("list", "--json").json) == 5 - len(ids)
    assert shop.work() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--where", "nothing here"), "anybroker: --where: 'nothing here' is not a comparison of a field."),
        (("--since", "soon"), "anybroker: --since: 'soon' is neither a time nor how long ago."),
    ],
)
def test_a_filter_that_cannot_be_understood(dlq: Any, given: tuple[str, ...], said: str) -> None:
    for action in ("stats", "list", "show", "replay", "discard"):
        ended = dlq(action, *given)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith(said)


@pytest.mark.usefixtures("five")
def test_a_dry_run_says_what_would_be_done(shop: Any, dlq: Any) -> None:
    ended = dlq("discard", "o-1", "o-9", "--dry-run")
    assert ended.code == 1
    head, row, total = ended.out.splitlines()
    assert head.split() == ["id", "type", "key", "replays", "died", "reason"]
    assert (row.split()[0], total) == ("o-1", "would be discarded: 1")
    assert ended.err == "anybroker: not among the first 10000 dead letters: o-9\n"
    assert len(dlq("list", "--json").json) == 5
    assert dlq("replay", "--reason", "declined").out == "replayed: 2\n"
    assert [order["cents"] for order in shop.work()] == [100, 300]


@pytest.mark.usefixtures("five")
def test_what_was_replayed_often_enough_is_left(shop: Any, dlq: Any, caplog: pytest.LogCaptureFixture) -> None:
    dlq("replay", "o-0", "o-1")
    shop.fill()  # they fail again
    would = dlq("replay", "--all", "--max-rounds", 1, "--dry-run", "--json").json
    assert would == {"would_be_replayed": ["o-2", "o-3", "o-4"], "missing": [], "left": ["o-0", "o-1"]}
    ended = dlq("replay", "o-1", "o-2", "--max-rounds", 1)
    assert ended.out == "replayed: 1\nleft, because of --max-rounds 1: 1\n"
    assert caplog.messages[-1] == "orders.billing.dlq: 1 left, because of max_rounds=1: o-1"
    assert ended.code == 0
    assert dlq("replay", "--all", "--max-rounds", 2, "--json").json["replayed"] == ["o-3", "o-4", "o-0", "o-1"]


@pytest.mark.usefixtures("five")
def test_a_rate(shop: Any, dlq: Any) -> None:
    began = time.monotonic()
    assert dlq("replay", "--all", "--rate", 5).out == "replayed: 5\n"
    assert time.monotonic() - began >= 4 / 5
    assert "--rate: invalid number over 0 value: '0'" in dlq("replay", "--all", "--rate", 0).err


def test_the_dead_letter_topic_of_the_configuration(folder: Any, shop: Any, anybroker: Any) -> None:
    (folder / "anybroker.toml").write_text(f'url = "{shop.url}"\n[topics.orders]\ndead_letter = "morgue"\n')
    shop.fill({"refuse": "no"})
    (item,) = anybroker("dlq", "list", "orders", "billing", "--json", *QUICK).json
    assert item["id"] == "o-0"


def test_a_foreign_message(shop: Any, dlq: Any, until: Any) -> None:
    async def publish() -> None:
        async with shop.bus() as bus:
            foreign = Foreign(b"\xffraw", [("x", b"y"), ("x-null", None)], "k", InvalidEvent("no specversion"))
            await replay(bus._core.copies, foreign, "orders", "billing", {"anybroker-replays": "0"})
            await until(lambda: bus.subscriptions[0].stats.dead_lettered)

    asyncio.run(publish())
    (item,) = dlq("show", "--json").json
    assert item["type"] is None
    assert item["attributes"] is None
    assert item["data_base64"] == "/3Jhdw=="
    assert item["foreign_headers"] == {"x": "y", "x-null": None}
    assert "  x-null: (null)\n" in dlq("show").out
    assert "@" in item["id"]
    assert "(not a CloudEvent)" in dlq("list").out
    assert dlq("discard", item["id"]).out == "discarded: 1\n"


def test_a_group_that_is_not_there(shop: Any, anybroker: Any) -> None:
    shop.fill({"fine": 1})
    ended = anybroker("dlq", "list", "orders", "nobody", "--url", shop.url)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "no group 'nobody' on topic 'orders'; near names: orders/" in ended.err


def test_looking_makes_nothing(shop: Any, anybroker: Any) -> None:
    async def topics() -> list[Any]:
        async with Bus(shop.url, source="look", consume=False, provision="off") as bus:
            return list(bus.adapter.native.execute("SELECT name FROM ab_topic ORDER BY name"))

    shop.fill({"fine": 1})
    before = asyncio.run(topics())
    anybroker("dlq", "list", "carts", "nobody", "--url", shop.url)
    assert asyncio.run(topics()) == before


def test_another_member_that_has_all_of_it(shop: Any, dlq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fill({"refuse": "no"})
    monkeypatch.setattr("anybroker.deadletters.reader._JOIN", 0.05)
    monkeypatch.setattr("anybroker.deadletters.reader.Reader.assigned", lambda *_: None)
    ended = dlq("discard", "o-0")
    assert (ended.code, ended.out) == (1, "")
    assert "another member of its group 'dlq' has all of it. Stop that member first" in ended.err


def test_the_beginning_of_an_id_is_enough(shop: Any, dlq: Any) -> None:
    shop.fill(*({"refuse": "no"} for _ in range(12)), {"fine": 1})
    (item,) = dlq("show", "o-11", "--json").json
    assert item["id"] == "o-11"
    (item,) = dlq("show", "o-1", "--json").json  # itself, although others begin with it
    assert item["id"] == "o-1"
    assert dlq("show", "o-5").out.startswith("id: o-5\n")
    assert dlq("discard", "o-11").out == "discarded: 1\n"
    (item,) = dlq("show", "o-10", "--json").json
    assert dlq("replay", "o-1", "--json").json == {"replayed": ["o-1"], "missing": []}
    (item,) = dlq("show", "o-1", "--json").json
    assert item["id"] == "o-10"  # the only one left that begins with it
    missing = dlq("show", "x")
    assert (missing.code, missing.err) == (1, "anybroker: not among the first 10000 dead letters: x\n")


def test_the_beginning_of_several_ids_is_refused(shop: Any, dlq: Any) -> None:
    shop.fill({"refuse": "no"}, {"refuse": "no"}, {"fine": 1})
    said = "anybroker: ID: 'o-' matches 2 ids: o-0, o-1. Give more of it.\n"
    for action in ("show", "replay", "discard"):
        ended = dlq(action, "o-", "o-1")
        assert (ended.code, ended.out, ended.err) == (2, "", said)
        ended = dlq(action, "o-", "o-1", "--json")
        assert (ended.code, ended.json, ended.err) == (2, {"ambiguous": {"o-": ["o-0", "o-1"]}}, said)
    assert len(dlq("list", "--json").json) == 2  # nothing was done to the other either
    ended = dlq("show", "", "--json")  # begins all of them, and means none
    assert (ended.code, ended.json) == (1, [])


# ------------------------------------------------------------------------------------------------- the terminal's own

CONTROL = "\x1b[2J\x9b31m\x9d0;title\x9c\u202etxt.exe\u2066\u200f\x7f\x00[red]x[/red]"
"""C0 and C1 controls, bidirectional overrides, and markup."""
ESCAPED = r"\x1b[2J\x9b31m\x9d0;title\x9c\u202etxt.exe\u2066\u200f\x7f\x00[red]x[/red]"


def steered(text: str) -> set[str]:
    """What of it would steer a terminal."""
    text = re.sub(r"\x1b\[\d*m", "", text)  # bold and not bold: rich's own
    return {character for character in text if not character.isprintable()} - {"\n"}


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_an_event_steers_the_terminal(
    shop: Any, dlq: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Whatever another client writes: ids, types, reasons, errors, header names and values, bodies."""
    shop.fill({"refuse": CONTROL, CONTROL: CONTROL}, {"refuse": "x", "text": "\u202e"}, headers={"x-evil": CONTROL})
    monkeypatch.setattr("anybroker.cli._output.sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    for arguments in (("list",), ("show",), ("list", "--json"), ("show", "--json"), ("show", "o-0", "--json")):
        ended = dlq(*arguments)
        assert (ended.code, ended.err) == (0, "")
        assert steered(ended.out) == set(), arguments
        if "--json" in arguments:
            assert ended.out.isascii()
            assert ended.json[0]["reason"] == ESCAPED
        else:
            assert ESCAPED in ended.out
    (letter, _) = dlq("show", "--json").json
    assert letter["data"] == {"refuse": CONTROL, CONTROL: CONTROL}  # JSON's own escapes: nothing is lost
    assert letter["headers"]["x-evil"] == CONTROL


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_a_foreign_message_steers_the_terminal(
    shop: Any, dlq: Any, until: Any, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    async def publish() -> None:
        async with shop.bus() as bus:
            headers = [(CONTROL, CONTROL.encode()), ("x", b"\xff\x9b")]
            foreign = Foreign(CONTROL.encode(), headers, CONTROL, InvalidEvent(CONTROL))
            await replay(bus._core.copies, foreign, "orders", "billing", {"anybroker-replays": "0"})
            await until(lambda: bus.subscriptions[0].stats.dead_lettered)

    asyncio.run(publish())
    monkeypatch.setattr("anybroker.cli._output.sys.stdout.isatty", lambda: terminal, raising=False)
    for arguments in (("list",), ("show",), ("list", "--json"), ("show", "--json")):
        ended = dlq(*arguments)
        assert (ended.code, steered(ended.out), ended.err) == (0, set(), "")


@pytest.mark.parametrize("action", ["show", "replay", "discard"])
def test_nothing_in_an_argument_steers_the_terminal(shop: Any, dlq: Any, anybroker: Any, action: str) -> None:
    """Ids may come from another command's output."""
    shop.fill({"refuse": "x"})
    for arguments in ((CONTROL,), (CONTROL, "--json")):
        ended = dlq(action, *arguments)
        assert (ended.code, steered(ended.out + ended.err)) == (1, set())
        assert ESCAPED in ended.err
    for command in (
        ("dlq", CONTROL),
        ("backlog", CONTROL, "x", "--url", shop.url),
        ("dlq", "list", "x", CONTROL, CONTROL),
    ):
        ended = anybroker(*command)
        assert ended.code == 2
        assert steered(ended.out + ended.err) == set()
        assert ended.err.count("\n") == 1


def test_an_id_that_several_events_have_is_refused(shop: Any, dlq: Any, until: Any) -> None:
    async def publish() -> None:
        async with shop.bus() as bus:
            for source in ("ours", "theirs"):
                await bus.publish("orders", {"refuse": source}, type="order.v1", id="same-1", source=source)
            await until(lambda: bus.subscriptions[0].stats.dead_lettered == 2)

    asyncio.run(publish())
    ours, theirs = sorted(dlq("list", "--json").json, key=lambda item: item["source"])
    assert ours["fingerprint"] != theirs["fingerprint"]
    for action in ("show", "replay", "discard"):
        for name in ("same-1", "same"):  # the beginning of one id, too
            ended = dlq(action, name)
            assert (ended.code, ended.out) == (2, "")
            assert f"ID: '{name}' is the id of 2 dead letters of different events: " in ended.err
            for letter in (ours, theirs):
                assert f"{letter['fingerprint']} (source '{letter['source']}', id 'same-1', 'orders/" in ended.err
            ended = dlq(action, name, "--json")
            assert sorted(ended.json["ambiguous"][name]) == sorted([ours["fingerprint"], theirs["fingerprint"]])
    (item,) = dlq("show", theirs["fingerprint"], "--json").json
    assert item["source"] == "theirs"
    assert dlq("discard", theirs["fingerprint"][:9]).out == "discarded: 1\n"
    (item,) = dlq("list", "--json").json
    assert item == ours
    assert dlq("replay", "same-1").out == "replayed: 1\n"


def test_discarding_all_takes_equal_ids_too(shop: Any, dlq: Any, until: Any) -> None:
    async def publish() -> None:
        async with shop.bus() as bus:
            for source in ("ours", "theirs"):
                await bus.publish("orders", {"refuse": "no"}, type="order.v1", id="same", source=source)
            await until(lambda: bus.subscriptions[0].stats.dead_lettered == 2)

    asyncio.run(publish())
    assert dlq("discard", "--all").out == "discarded: 2\n"
    assert dlq("list", "--json").json == []
