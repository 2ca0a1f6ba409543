"""Notes of handler starts: written by a member that leaves, read by the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anybroker_nats.notes import read_notes

Run = Callable[[Any], Any]


def test_starts_are_read_for_what_was_started_before(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case(ordered=False)
        this.notes = {"orders.@.g.~.1.2": 1, "orders.@.g.~.1.4": 1, "orders.@.g.~.9.1": 1}
        this.deliver(1, deliveries=3)
        this.deliver(2)
        batch = await this.receive()
        assert [(inbound.attempts, inbound.deliveries) for inbound in batch] == [(4, 3), (0, 1)]
        assert [body for _, body in this.link.asked if body] == [{"subjects_filter": "orders.@.g.~.>"}]

    run(check())


def test_what_others_write_among_the_notes_is_ignored(run: Run, receiver_case: Callable[..., Any]) -> None:
    async def check() -> None:
        this = await receiver_case()
        this.notes = {"orders.@.g.~.x.y": 1, "orders.@.g.~.1.2": 1, "orders.@.g.~.1": 1}
        many = "9" * 5_000
        this.notes |= {f"orders.@.g.~.1.{many}": 1, f"orders.@.g.~.{many}.1": 1, "orders.@.g.~.1.\u0663": 1}
        this.deliver(1, deliveries=2)
        (inbound,) = await this.receive()
        assert inbound.attempts == 2

    run(check())


def test_notes_that_other_programs_wrote_are_left_out(run: Run) -> None:
    many = "9" * 300
    noted = [
        "7.2",
        "7.1",
        f"8.{many}",
        f"{many}.1",
        "9.\u0663",
        "\u0663.1",
        "10",
        ".",
        "-1.2",
        "11.1000000",
        "12.1000001",
    ]

    class Asked:
        async def api(self, *_: object) -> Any:
            return {"state": {"subjects": {f"orders.@.billing.~.{each}": 1 for each in noted}}}

    assert run(read_notes(Asked(), "orders", "billing")) == {7: 2, 11: 1_000_000}  # type: ignore[arg-type]
