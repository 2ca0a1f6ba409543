"""The broken stores by name, each with what is wrong with it and the tests that are expected to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anybroker.idempotency import Store

from ..harness import StoreHarness
from . import claiming, ending, parking
from .breaking import Flaw, broken

__all__ = ["MUTANTS", "Mutant", "break_store"]


@dataclass(frozen=True)
class Mutant:
    """One broken store."""

    name: str
    flaw: Callable[[], Flaw]
    killers: tuple[str, ...]
    """Tests of which at least one must fail."""
    needs: Callable[[StoreHarness], bool] = lambda _: True

    @property
    def wrong(self) -> str:
        """What is wrong with it."""
        text = getattr(self.flaw, "__doc__", None) or ""
        return text.partition("\n")[0]

    def applies(self, harness: StoreHarness) -> bool:
        """Whether a store with this harness can be broken this way."""
        return self.needs(harness)


def can_be_frozen(harness: StoreHarness) -> bool:
    """Whether there is something that may not answer."""
    return "freeze" in harness.can()


def on_a_server(harness: StoreHarness) -> bool:
    """Whether a server's clock decides."""
    return harness.server


def for_processes(harness: StoreHarness) -> bool:
    """Whether several objects share one place."""
    return harness.processes and harness.durable


def in_a_transaction(harness: StoreHarness) -> bool:
    """Whether handlers share its transaction."""
    return harness.transactional


def that_parks(harness: StoreHarness) -> bool:
    """Whether it remembers parked keys."""
    return harness.parking


def in_portions(harness: StoreHarness) -> bool:
    """Whether a purge may forget a bounded number only."""
    return bool(harness.portion)


_ALL = (
    # -------------------------------------------------------------------------------------------------- claiming
    Mutant(
        "claims-in-two-steps",
        claiming.ClaimsInTwoSteps,
        ("test_a_claim_at_the_same_moment_is_given_once", "test_copies_of_one_key_in_one_batch"),
    ),
    Mutant(
        "gives-an-owner-its-own-again",
        claiming.GivesAnOwnerItsOwnAgain,
        ("test_a_live_claim_keeps_others_out_and_its_own_owner_too", "test_copies_of_one_key_in_one_batch"),
    ),
    Mutant(
        "says-nothing-about-the-other",
        claiming.SaysNothingAboutTheOther,
        ("test_a_live_claim_keeps_others_out_and_its_own_owner_too",),
    ),
    Mutant("calls-it-done", claiming.CallsItDone, ("test_each_of_many_calls_gets_its_own_answer",)),
    Mutant("forgets-what-was-asked", claiming.ForgetsWhatWasAsked, ("test_a_claim_says_what_was_claimed",)),
    Mutant("shifts-answers", claiming.ShiftsAnswers, ("test_each_of_many_calls_gets_its_own_answer",)),
    Mutant("takes-over-early", claiming.TakesOverEarly, ("test_nobody_takes_over_before_the_lease_ends",)),
    Mutant("never-takes-over", claiming.NeverTakesOver, ("test_a_lease_that_ran_out_is_taken_over_and_fenced",)),
    Mutant("fences-from-one-again", claiming.FencesFromOneAgain, ("test_the_fence_rises_with_every_claim",)),
    Mutant(
        "fences-of-a-process",
        claiming.FencesOfAProcess,
        ("test_the_fence_rises_across_processes",),
        for_processes,
    ),
    Mutant("joins-keys", claiming.JoinsKeys, ("test_what_looks_alike_is_not_the_same",)),
    Mutant("cuts-keys", claiming.CutsKeys, ("test_what_looks_alike_is_not_the_same",)),
    Mutant("ignores-case", claiming.IgnoresCase, ("test_what_looks_alike_is_not_the_same",)),
    Mutant("fails-the-whole-batch", claiming.FailsTheWholeBatch, ("test_a_key_that_cannot_be_stored_fails_alone",)),
    Mutant("keeps-a-cancelled-claim", claiming.KeepsACancelledClaim, ("test_a_claim_that_is_cancelled_does_not_stay",)),
    Mutant(
        "trusts-the-clients-clock",
        claiming.TrustsTheClientsClock,
        ("test_the_servers_clock_decides_leases",),
        on_a_server,
    ),
    Mutant(
        "forgets-claims-of-others",
        claiming.ForgetsClaimsOfOthers,
        ("test_two_objects_on_one_place_share_it",),
        for_processes,
    ),
    # ------------------------------------------------------------------------------------------------- extending
    Mutant("extends-what-is-lost", claiming.ExtendsWhatIsLost, ("test_extending_reports_each_claim_in_order",)),
    Mutant("extends-in-another-order", claiming.ExtendsInAnotherOrder, ("test_extending_reports_each_claim_in_order",)),
    Mutant(
        "extends-nothing",
        claiming.ExtendsNothing,
        (
            "test_extending_lets_each_claim_last_its_own_lease",
            "test_extending_keeps_a_claim_for_as_long_as_it_goes_on",
            "test_a_late_owner_extends_what_nobody_took_over",
        ),
    ),
    Mutant("extends-the-first", claiming.ExtendsTheFirst, ("test_extending_lets_each_claim_last_its_own_lease",)),
    # ----------------------------------------------------------------------------------------- marking, releasing
    Mutant("marks-unfenced", ending.MarksUnfenced, ("test_a_lease_that_ran_out_is_taken_over_and_fenced",)),
    Mutant(
        "says-it-marked",
        ending.SaysItMarked,
        ("test_a_lease_that_ran_out_is_taken_over_and_fenced", "test_marks_answer_for_their_own_claim"),
    ),
    Mutant("marks-only-once", ending.MarksOnlyOnce, ("test_done_can_be_said_again",)),
    Mutant("marks-only-in-time", ending.MarksOnlyInTime, ("test_a_late_owner_marks_what_nobody_took_over",)),
    Mutant("marks-in-the-background", ending.MarksInTheBackground, ("test_what_is_done_stays_done",)),
    Mutant("loses-marks", ending.LosesMarks, ("test_two_thousand_claims_at_once",)),
    Mutant("releases-what-is-done", ending.ReleasesWhatIsDone, ("test_what_is_done_stays_done",)),
    Mutant("releases-unfenced", ending.ReleasesUnfenced, ("test_a_lease_that_ran_out_is_taken_over_and_fenced",)),
    Mutant(
        "releases-at-the-end-of-the-lease",
        ending.ReleasesAtTheEndOfTheLease,
        ("test_what_is_released_can_be_had_at_once",),
    ),
    # ------------------------------------------------------------------------------------------------- forgetting
    Mutant("purges-what-is-held", ending.PurgesWhatIsHeld, ("test_a_purge_never_forgets_what_is_held",)),
    Mutant("purges-everything-at-once", ending.PurgesEverythingAtOnce, ("test_a_purge_goes_in_portions",), in_portions),
    Mutant(
        "forgets-the-retention", ending.ForgetsTheRetention, ("test_each_claim_is_remembered_for_as_long_as_it_says",)
    ),
    Mutant(
        "forgets-too-early",
        ending.ForgetsTooEarly,
        ("test_what_is_done_is_remembered_until_then",),
        for_processes,  # one in memory keeps it for as long as the store's own setting, at least
    ),
    # ---------------------------------------------------------------------------------------- making, open, close
    Mutant("says-it-lasts", ending.SaysItLasts, ("test_a_store_is_what_its_harness_declares",)),
    Mutant(
        "ignores-its-settings",
        ending.IgnoresItsSettings,
        ("test_a_store_is_what_its_harness_declares", "test_the_retention_of_a_url_counts"),
    ),
    Mutant(
        "takes-any-setting",
        ending.TakesAnySetting,
        (
            "test_a_retention_that_is_not_one_is_refused",
            "test_a_retention_in_a_url_that_is_not_one_is_refused",
            "test_an_unknown_option_is_refused_with_the_nearest",
        ),
    ),
    Mutant("closes-for-all", ending.ClosesForAll, ("test_a_store_is_open_until_the_last_one_has_closed_it",)),
    Mutant("opens-once", ending.OpensOnce, ("test_a_store_is_open_until_the_last_one_has_closed_it",)),
    Mutant("drops-what-is-queued", ending.DropsWhatIsQueued, ("test_closing_completes_what_was_called_before",)),
    # ---------------------------------------------------------------------------------------------------- outages
    Mutant(
        "raises-the-clients-errors",
        ending.RaisesTheClientsErrors,
        ("test_every_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "waits-until-it-is-back",
        ending.WaitsUntilItIsBack,
        ("test_every_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant("stays-down", ending.StaysDown, ("test_every_call_ends_while_it_does_not_answer",), can_be_frozen),
    Mutant(
        "goes-on-without-the-store",
        ending.GoesOnWithoutTheStore,
        ("test_it_fails_closed_while_the_store_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "opens-when-it-is-back",
        ending.OpensWhenItIsBack,
        ("test_opening_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "closes-when-it-is-back",
        ending.ClosesWhenItIsBack,
        ("test_closing_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "ignores-cancellation",
        ending.IgnoresCancellation,
        ("test_a_cancelled_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "says-not-which-one",
        ending.SaysNotWhichOne,
        ("test_every_call_ends_while_it_does_not_answer",),
        can_be_frozen,
    ),
    Mutant(
        "forgets-at-an-outage",
        ending.ForgetsAtAnOutage,
        ("test_every_call_ends_while_it_does_not_answer", "test_a_restart_of_the_server_loses_nothing"),
        can_be_frozen,
    ),
    Mutant(
        "gives-up-the-mark",
        ending.GivesUpTheMark,
        (
            "test_a_handler_that_returned_meanwhile_is_marked_later",  # a server that thaws may have made it after all
            "test_a_handler_that_returned_while_it_was_killed_is_marked_later",
        ),
        can_be_frozen,
    ),
    # ----------------------------------------------------------------------------------------------- transactions
    Mutant(
        "commits-at-once",
        ending.CommitsAtOnce,
        ("test_a_process_that_is_killed_leaves_one_effect", "test_a_service_with_failing_handlers_has_one_effect_each"),
        in_a_transaction,
    ),
    Mutant(
        "marks-without-the-effect",
        ending.MarksWithoutTheEffect,
        ("test_no_mark_without_the_effect_after_a_kill",),
        lambda harness: harness.transactional and "kill" in harness.can(),
    ),
    Mutant(
        "commits-what-failed",
        ending.CommitsWhatFailed,
        ("test_a_handler_that_fails_and_runs_again_has_one_effect",),
        in_a_transaction,
    ),
    Mutant(
        "writes-for-a-late-owner",
        ending.WritesForALateOwner,
        ("test_a_late_owner_has_no_second_effect",),
        in_a_transaction,
    ),
    # ----------------------------------------------------------------------------------------------- parked keys
    Mutant(
        "parks-what-is-free",
        parking.ParksWhatIsFree,
        ("test_a_key_is_parked_while_it_has_a_row",),
        that_parks,
    ),
    Mutant("numbers-again", parking.NumbersAgain, ("test_rows_are_a_set",), that_parks),
    Mutant("says-each-is-first", parking.SaysEachIsFirst, ("test_a_key_is_parked_while_it_has_a_row",), that_parks),
    Mutant(
        "frees-the-key-with-its-first",
        parking.FreesTheKeyWithItsFirst,
        ("test_a_key_is_parked_while_it_has_a_row",),
        that_parks,
    ),
    Mutant(
        "forgets-what-is-finished",
        parking.ForgetsWhatIsFinished,
        ("test_what_is_finished_stays_finished_while_others_wait",),
        that_parks,
    ),
    Mutant("mixes-groups", parking.MixesGroups, ("test_keys_and_groups_are_apart",), that_parks),
    Mutant(
        "keeps-parked-keys-to-itself",
        parking.KeepsParkedKeysToItself,
        ("test_another_object_sees_the_same_keys",),
        lambda harness: harness.parking and harness.processes,
    ),
)

MUTANTS = {mutant.name: mutant for mutant in _ALL}


def break_store(name: str) -> Callable[[Callable[[], Store]], Store]:
    """What makes the stores of one test, or of one process, and breaks them in this way."""
    flaw = MUTANTS[name].flaw()
    return lambda make: broken(make, flaw)
