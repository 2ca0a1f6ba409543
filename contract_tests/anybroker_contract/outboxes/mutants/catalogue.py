"""The broken outboxes by name, each with what is wrong with it and the tests that are expected to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from anybroker.outbox import OutboxRelay

from ..harness import Outbox, OutboxHarness
from . import relaying, writing
from .breaking import Flaw

__all__ = ["MUTANTS", "Mutant", "flaw_of"]


@dataclass(frozen=True)
class Mutant:
    """One broken outbox."""

    name: str
    flaw: Callable[[], Flaw]
    killers: tuple[str, ...]
    """Tests of which at least one must fail."""
    needs: Callable[[OutboxHarness], bool] = lambda _: True

    @property
    def wrong(self) -> str:
        """What is wrong with it."""
        text = getattr(self.flaw, "__doc__", None) or ""
        return text.partition("\n")[0]

    def applies(self, harness: OutboxHarness) -> bool:
        """Whether an outbox with this harness can be broken this way."""
        return self.needs(harness)


class Sound(Flaw):
    """Nothing is wrong."""

    def broken(self, outbox: Outbox) -> Outbox:
        """The outbox itself."""
        return outbox

    def relay(self, outbox: Outbox, **settings: Any) -> OutboxRelay:
        """A plain relay."""
        return OutboxRelay(outbox, **settings)


def with_late_commits(harness: OutboxHarness) -> bool:
    """Whether a transaction may commit after a later one."""
    return harness.concurrent


def can_be_frozen(harness: OutboxHarness) -> bool:
    """Whether there is something that may not answer."""
    return "freeze" in harness.can()


_ALL = (
    # --------------------------------------------------------------------------------------------------- writing
    Mutant("drops-headers", writing.DropsHeaders, ("test_headers_come_along", "test_one_trace_through_the_outbox")),
    Mutant("forgets-the-delay", writing.ForgetsTheDelay, ("test_a_delay_is_kept",)),
    Mutant("gives-a-new-id", writing.GivesANewId, ("test_it_is_sent_after_the_commit_and_not_before",)),
    Mutant("drops-attributes", writing.DropsAttributes, ("test_data_of_every_kind",)),
    Mutant(
        "writes-outside-of-the-transaction",
        writing.WritesOutsideOfTheTransaction,
        ("test_it_is_sent_after_the_commit_and_not_before", "test_what_is_rolled_back_is_never_sent"),
    ),
    Mutant("writes-later", writing.WritesLater, ("test_headers_come_along",)),
    Mutant("takes-everything", writing.TakesEverything, ("test_what_is_no_transaction_is_refused",)),
    Mutant(
        "swallows-errors",
        writing.SwallowsErrors,
        ("test_a_connection_that_is_closed", "test_publish_many_stops_at_the_first_failure"),
    ),
    Mutant("writes-many-backwards", writing.WritesManyBackwards, ("test_every_kind_takes_many",)),
    Mutant("mixes-receipts-up", writing.MixesReceiptsUp, ("test_a_receipt_names_the_row_of_its_event",)),
    Mutant("writes-some-of-many", writing.WritesSomeOfMany, ("test_a_thousand_rows_in_one_transaction",)),
    Mutant("commits-many", writing.CommitsMany, ("test_every_kind_takes_many",)),
    # --------------------------------------------------------------------------------------------------- reading
    Mutant(
        "loses-late-rows",
        relaying.LosesLateRows,
        ("test_transactions_that_commit_in_another_order",),
        with_late_commits,
    ),
    Mutant("reads-backwards", relaying.ReadsBackwards, ("test_a_relay_that_starts_later_finds_everything",)),
    Mutant("reads-all-shards", relaying.ReadsAllShards, ("test_every_relay_works",)),
    Mutant(
        "reads-only-full-batches", relaying.ReadsOnlyFullBatches, ("test_it_is_sent_after_the_commit_and_not_before",)
    ),
    Mutant("removes-nothing", relaying.RemovesNothing, ("test_it_is_sent_after_the_commit_and_not_before",)),
    Mutant("removes-too-much", relaying.RemovesTooMuch, ("test_only_these_are_removed",)),
    Mutant("removes-what-it-reads", relaying.RemovesWhatItReads, ("test_closing_with_rows_under_way",)),
    Mutant("counts-nothing", relaying.CountsNothing, ("test_what_waits_is_counted",)),
    # ---------------------------------------------------------------------------------------------------- sharing
    Mutant("everybody-has-everything", relaying.EverybodyHasEverything, ("test_a_relay_that_comes_gets_its_share",)),
    Mutant("leases-for-ever", relaying.LeasesForEver, ("test_nobody_is_relieved_before_the_lease_ends",)),
    Mutant("leases-too-short", relaying.LeasesTooShort, ("test_nobody_is_relieved_before_the_lease_ends",)),
    Mutant("never-shares", relaying.NeverShares, ("test_a_relay_that_comes_gets_its_share",)),
    Mutant("leaves-quietly", relaying.LeavesQuietly, ("test_a_relay_that_leaves_lets_go_of_all",)),
    Mutant("gives-up-what-others-have", relaying.GivesUpWhatOthersHave, ("test_giving_up_what_one_has_not",)),
    Mutant("opens-for-all", relaying.OpensForAll, ("test_one_object_is_opened_by_one_relay",)),
    # ---------------------------------------------------------------------------------------------- setting aside
    Mutant("parks-without-a-reason", relaying.ParksWithoutAReason, ("test_it_is_set_aside_with_its_reason",)),
    Mutant("lists-without-keys", relaying.CountsWhatIsParked, ("test_it_is_set_aside_with_its_reason",)),
    Mutant("drops-what-is-rejected", relaying.DropsWhatIsRejected, ("test_pass_retries_too",)),
    Mutant("forgets-which-keys-are-held", relaying.ForgetsWhichKeysAreHeld, ("test_hold_is_kept_across_a_restart",)),
    Mutant("retries-all", relaying.RetriesAll, ("test_pass_retries_too",)),
    Mutant("discards-nothing", relaying.DiscardsNothing, ("test_hold_goes_on_when_it_is_discarded",)),
    Mutant("holds-nothing", relaying.HoldsNothing, ("test_hold_keeps_the_key_until_it_is_retried",)),
    Mutant("holds-always", relaying.HoldsAlways, ("test_it_is_set_aside_with_its_reason",)),
    # ---------------------------------------------------------------------------------------------------- sending
    Mutant("sends-another-id", relaying.SendsAnotherId, ("test_an_unknown_outcome_is_sent_again_under_the_same_id",)),
    Mutant("forgets-headers", relaying.ForgetsHeaders, ("test_headers_come_along",)),
    Mutant(
        "takes-unknown-for-stored",
        relaying.TakesUnknownForStored,
        ("test_an_unknown_outcome_is_sent_again_under_the_same_id",),
    ),
    Mutant("takes-errors-for-stored", relaying.TakesEveryErrorForStored, ("test_the_broker_down_and_back",)),
    Mutant("tries-rejected-again", relaying.TriesRejectedAgain, ("test_it_is_set_aside_with_its_reason",)),
    Mutant(
        "does-not-wait-for-the-broker",
        relaying.DoesNotWaitForTheBroker,
        ("test_keys_keep_their_order_and_do_not_wait_for_each_other",),
    ),
    # ---------------------------------------------------------------------------------------------------- outages
    Mutant("shows-no-problem", relaying.ShowsNoProblem, ("test_the_broker_down_and_back",)),
    Mutant(
        "raises-the-clients-errors",
        relaying.RaisesTheClientsErrors,
        ("test_every_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "waits-until-it-is-back",
        relaying.WaitsUntilItIsBack,
        ("test_every_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant("stays-down", relaying.StaysDown, ("test_every_call_ends_while_it_does_not_answer",), can_be_frozen),
)

MUTANTS = {mutant.name: mutant for mutant in _ALL}


def flaw_of(name: str | None) -> Flaw:
    """What breaks the outboxes of one test, or of one process."""
    return Sound() if name is None else MUTANTS[name].flaw()
