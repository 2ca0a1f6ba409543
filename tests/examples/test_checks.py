"""The demo's checks: each finds the bug that was made for it, and says nothing of a good run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from examples.order_pipeline.checks import Evidence, Letter, check, inversions, overlaps, suppressed
from examples.order_pipeline.history import Entry
from examples.order_pipeline.plan import Plan, make_plan, purchases
from examples.order_pipeline.settings import Demo

ORDERS = purchases(6, "run")
FIRST, SECOND, DECLINED, POISON, UNREACHABLE, CLICKED = (order.order_id for order in ORDERS)
PLAN = Plan(
    ORDERS,
    declined=frozenset({DECLINED}),
    unreachable=frozenset({UNREACHABLE}),
    copied=frozenset({FIRST}),
    clicked=frozenset({CLICKED}),
    poison=POISON,
    crash=SECOND,
)


def handled(order: str, customer: str, at: float, handler: str = "reserve", pid: int = 1) -> Iterator[Entry]:
    yield Entry("start", at, pid, "inventory", handler, order, customer, f"storefront {order}", 1)
    yield Entry("done", at + 0.5, pid, "inventory", handler, order, customer, f"storefront {order}", 1)


def good() -> Evidence:
    history = [
        entry
        for at, order in enumerate(ORDERS)
        if order.order_id != POISON
        for entry in handled(order.order_id, order.customer, float(at))
    ]
    history += handled(CLICKED, ORDERS[5].customer, 20.0)
    history += [
        Entry("copy", 21.0, 1, "storefront", "", FIRST, "", "", 0, "dropped by the broker"),
        Entry("click", 22.0, 1, "storefront", "", CLICKED, "", ""),
    ]
    return Evidence(
        plan=PLAN,
        history=history,
        outcomes=[(order.order_id, "shipped") for order in PLAN.paid] + [(DECLINED, "cancelled")],
        charges=[(order.order_id, order.cents) for order in PLAN.paid],
        asked={UNREACHABLE: 3},
        parcels=[(order.order_id, order.cds) for order in PLAN.paid],
        cds_gone=PLAN.cds,
        letters=[Letter("run.orders", "inventory", POISON, "undecodable: the data is not a valid OrderPlaced", 1)],
        restarts=1,
    )


def broken(evidence: Evidence) -> set[str]:
    return {each.name for each in check(evidence) if not each.holds}


def test_a_good_run() -> None:
    assert broken(good()) == set()


def lost(run: Evidence) -> Evidence:
    return replace(run, outcomes=run.outcomes[1:])


def two_outcomes(run: Evidence) -> Evidence:
    return replace(run, outcomes=[*run.outcomes, (FIRST, "cancelled")])


def dead_and_shipped(run: Evidence) -> Evidence:
    return replace(run, letters=[*run.letters, Letter("run.orders", "inventory", FIRST, "ValueError: no", 5)])


def a_cent_too_much(run: Evidence) -> Evidence:
    order, cents = run.charges[0]
    return replace(run, charges=[(order, cents + 1), *run.charges[1:]])


def charged_twice(run: Evidence) -> Evidence:
    return replace(run, charges=[*run.charges, run.charges[0]])


def sent_twice(run: Evidence) -> Evidence:
    return replace(run, parcels=[*run.parcels, run.parcels[0]])


def not_put_back(run: Evidence) -> Evidence:
    return replace(run, cds_gone=run.cds_gone + 2)


def swapped(run: Evidence) -> Evidence:
    later, earlier = (list(handled(order, "c", at, "ship")) for order, at in ((SECOND, 30.0), (FIRST, 31.0)))
    return replace(run, history=[*run.history, *later, *earlier])


def at_once(run: Evidence) -> Evidence:
    pair = [*handled(FIRST, "c", 30.0, "ship"), *handled(SECOND, "c", 30.2, "ship")]
    return replace(run, history=[*run.history, *pair])


def without_its_reason(run: Evidence) -> Evidence:
    return replace(run, letters=[replace(run.letters[0], reason="unknown")])


def click_handled_twice(run: Evidence) -> Evidence:
    return replace(run, history=[entry for entry in run.history if entry.at != 20.5])


def no_crash(run: Evidence) -> Evidence:
    return replace(run, restarts=0)


def bank_always_there(run: Evidence) -> Evidence:
    return replace(run, asked={UNREACHABLE: 1})


def nobody_copied(run: Evidence) -> Evidence:
    return replace(run, history=[entry for entry in run.history if entry.what != "copy"])


def service_ended(run: Evidence) -> Evidence:
    return replace(run, complaints=["shipping ended with code 1"])


@pytest.mark.parametrize(
    ("bug", "names"),
    [
        (lost, {"orders with exactly one outcome", "orders shipped"}),
        (two_outcomes, {"orders with exactly one outcome", "orders cancelled"}),
        (dead_and_shipped, {"orders with exactly one outcome", "dead letters"}),
        (a_cent_too_much, {"cents charged"}),
        (charged_twice, {"cents charged", "cards charged"}),
        (sent_twice, {"parcels sent"}),
        (not_put_back, {"CDs out of stock"}),
        (swapped, {"events of a customer out of order"}),
        (at_once, {"events of a customer handled at once"}),
        (without_its_reason, {"poison dead-lettered, with its reason"}),
        (click_handled_twice, {"duplicates dropped or suppressed"}),
        (no_crash, {"services restarted"}),
        (bank_always_there, {"orders paid at the third try"}),
        (nobody_copied, {"duplicates sent"}),
        (service_ended, {"services in trouble"}),
    ],
)
def test_each_bug_is_found(bug: Callable[[Evidence], Evidence], names: set[str]) -> None:
    assert broken(bug(good())) == names


def test_every_check_is_broken_by_some_bug() -> None:
    bugs = (mark.args[1] for mark in test_each_bug_is_found.pytestmark)  # type: ignore[attr-defined]
    found = {name for cases in bugs for _, names in cases for name in names}
    assert found == {each.name for each in check(good())}


def test_a_redelivery_after_a_crash_is_no_inversion() -> None:
    before = [*handled(FIRST, "c", 1.0), *handled(SECOND, "c", 2.0)]
    again = [*handled(FIRST, "c", 5.0, pid=2), *handled(SECOND, "c", 6.0, pid=2)]
    assert inversions([*before, *again]) == []
    assert suppressed([*before, *again]) == {FIRST: 1, SECOND: 1}


def test_what_a_killed_process_had_begun_is_not_at_once_with_its_redelivery() -> None:
    begun = list(handled(FIRST, "c", 1.0))[:1]
    assert overlaps([*begun, *handled(FIRST, "c", 5.0, pid=2)]) == []


def test_the_plan_is_the_seeds_alone() -> None:
    settings = Demo(run="run", orders=200, seed=5, faults=True)
    assert make_plan(settings) == make_plan(settings)
    other = make_plan(settings.model_copy(update={"seed": 6}))
    assert (other.orders, other.declined == make_plan(settings).declined) == (make_plan(settings).orders, False)


@pytest.mark.parametrize("seed", range(40))
def test_faults_of_a_plan_do_not_meet_where_they_must_not(seed: int) -> None:
    plan = make_plan(Demo(run="run", orders=20, seed=seed, faults=True))
    apart = [plan.declined, plan.unreachable, {plan.poison}, {plan.crash}]
    assert sum(map(len, apart)) == len(frozenset().union(*apart))
    assert not plan.copied & plan.clicked
    assert not {plan.poison, plan.crash} & (plan.copied | plan.clicked)
    assert plan.cents == sum(
        order.cents for order in plan.orders if order.order_id not in plan.declined | {plan.poison}
    )


def test_all_purchases_are_there_and_each_customers_own_in_order() -> None:
    orders = purchases(10_000, "run")
    assert (len(orders), sum(order.cents for order in orders)) == (6_919, 24_409_194)
    assert [order.order_id for order in orders] == sorted(order.order_id for order in orders)
    assert len({order.customer for order in orders}) == 2_357
