"""The broken adapters by name, each with what is wrong with it and the tests that are expected to find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anybroker.bus import AdapterFactory
from anybroker.capabilities import Acknowledgement, Capabilities

from . import consuming, core, inspecting, parking, publishing
from .breaking import BrokenBroker, Flaw

__all__ = ["MUTANTS", "Mutant", "break_broker"]


@dataclass(frozen=True)
class Mutant:
    """One broken adapter."""

    name: str
    flaw: Callable[[], Flaw]
    killers: tuple[str, ...]
    """Tests of which at least one must fail."""
    needs: Callable[[Capabilities], bool] = lambda _: True

    @property
    def wrong(self) -> str:
        """What is wrong with it."""
        text = getattr(self.flaw, "__doc__", None) or ""
        return text.partition("\n")[0]

    def applies(self, capabilities: Capabilities) -> bool:
        """Whether an adapter with these capabilities can be broken this way."""
        return self.needs(capabilities)


def per_message(capabilities: Capabilities) -> bool:
    """Whether each delivery is settled by itself."""
    return capabilities.acknowledgement is Acknowledgement.PER_MESSAGE


def cumulative(capabilities: Capabilities) -> bool:
    """Whether a position is committed."""
    return not per_message(capabilities)


def inspects(capabilities: Capabilities) -> bool:
    """Whether stored events can be looked at."""
    return bool(capabilities.inspect)


def tells_the_age(capabilities: Capabilities) -> bool:
    """Whether the broker says how old what waits is."""
    return bool(capabilities.backlog_age)


def a_server(capabilities: Capabilities) -> bool:
    """Whether there is a connection to lose: an embedded broker has none."""
    return capabilities.adapter not in ("memory", "sqlite")


_ALL = (
    # ------------------------------------------------------------------------------------------------ publishing
    Mutant(
        "loses-one-in-a-hundred",
        publishing.LosesOneInAHundred,
        ("test_every_event_arrives_as_it_was_published",),
    ),
    Mutant(
        "duplicates-one-in-fifty",
        publishing.DuplicatesOneInFifty,
        ("test_every_event_arrives_as_it_was_published",),
    ),
    Mutant(
        "reorders-a-key",
        publishing.ReordersAKey,
        (
            "test_the_order_of_calls_per_key_holds_under_concurrency",
            "test_structured_mode_keeps_order_and_dead_letters",
        ),
    ),
    Mutant(
        "swallows-a-publish-error",
        publishing.SwallowsAPublishError,
        (
            "test_publishing_to_a_missing_topic_is_an_error_at_once",
            "test_one_bad_entry_of_a_batch_fails_alone",
            "test_resets_under_load_lose_nothing",
            "test_a_topic_that_is_gone_fails_alone",
        ),
    ),
    Mutant(
        "confirms-before-storing",
        publishing.ConfirmsBeforeStoring,
        ("test_nothing_that_publish_returned_for_is_lost_by_an_immediate_close",),
    ),
    Mutant(
        "forgets-to-confirm",
        publishing.ForgetsToConfirm,
        ("test_publish_many_gives_one_receipt_each", "test_concurrent_publishers_lose_nothing"),
    ),
    Mutant(
        "drops-headers",
        publishing.DropsHeaders,
        (
            "test_transport_headers_arrive_exactly",
            "test_one_program_does_the_same_on_every_broker",
            "test_each_mode_is_read_whatever_is_written",
        ),
    ),
    Mutant("strips-header-values", publishing.StripsHeaderValues, ("test_transport_headers_arrive_exactly",)),
    Mutant("invents-a-header", publishing.InventsAHeader, ("test_an_event_without_headers_has_none",)),
    Mutant(
        "drops-an-extension",
        publishing.DropsAnExtension,
        ("test_eleven_extensions_of_every_type_arrive", "test_structured_mode_keeps_every_attribute_and_extension"),
    ),
    Mutant("rounds-the-time", publishing.RoundsTheTime, ("test_every_attribute_arrives",)),
    Mutant(
        "empties-a-null-body",
        publishing.EmptiesANullBody,
        ("test_absent_null_and_empty_stay_different", "test_structured_mode_keeps_every_body"),
    ),
    Mutant(
        "recodes-bodies",
        publishing.RecodesBodies,
        ("test_every_body_arrives_byte_for_byte", "test_others_read_our_events"),
    ),
    Mutant(
        "inlet-reaches-every-group",
        publishing.InletReachesEveryGroup,
        ("test_a_replay_reaches_only_the_group_that_failed",),
    ),
    Mutant(
        "delivers-too-early",
        publishing.DeliversTooEarly,
        ("test_a_delayed_event_comes_not_before_its_time",),
        lambda capabilities: bool(capabilities.delay),
    ),
    Mutant(
        "fills-the-reserve",
        publishing.FillsTheReserve,
        ("test_an_event_of_the_maximum_size_can_be_dead_lettered",),
        lambda capabilities: capabilities.max_event_bytes is not None,
    ),
    Mutant(
        "writes-text-as-it-is",
        core.WritesTextAsItIs,
        ("test_whatever_publish_accepts_can_be_dead_lettered",),
    ),
    Mutant(
        "loses-the-stack",
        core.LosesTheStack,
        ("test_a_dead_letter_has_the_stack_and_the_last_attempts",),
    ),
    Mutant(
        "keeps-to-its-content-mode",
        core.KeepsToItsContentMode,
        ("test_whatever_publish_accepts_can_be_dead_lettered",),
        lambda capabilities: a_server(capabilities) and per_message(capabilities),  # Kafka compresses what is too large
    ),
    Mutant("logs-what-others-wrote", core.LogsWhatOthersWrote, ("test_what_others_write_is_shown_and_not_obeyed",)),
    Mutant(
        "reasons-steer-the-terminal", core.ReasonsSteerTheTerminal, ("test_what_others_write_is_shown_and_not_obeyed",)
    ),
    Mutant("believes-every-count", core.BelievesEveryCount, ("test_a_forged_dead_letter_hides_no_other",)),
    Mutant(
        "believes-every-count-of-starts",
        core.BelievesEveryCountOfStarts,
        ("test_what_the_inlet_brings_waits_for_no_longer_than_we_write",),
    ),
    Mutant(
        "believes-every-wait",
        core.BelievesEveryWait,
        ("test_what_the_inlet_brings_waits_for_no_longer_than_we_write",),
        lambda capabilities: capabilities.adapter not in ("rabbitmq", "sqs"),  # these hold what waits, and have a limit
    ),
    Mutant(
        "tells-copies-apart-by-their-ids",
        core.TellsCopiesApartByTheirIds,
        (
            "test_each_of_two_events_of_one_id_is_dead_lettered_and_replayed",
            "test_each_of_two_events_of_one_id_is_released",
        ),
        lambda capabilities: bool(capabilities.deduplication),
    ),
    Mutant(
        "takes-an-id-for-one-dead-letter",
        core.TakesAnIdForOneDeadLetter,
        ("test_an_id_that_several_dead_letters_have_is_refused",),
    ),
    Mutant("counts-no-hops", core.CountsNoHops, ("test_an_endless_chain_is_dead_lettered_with_the_way_it_went",)),
    Mutant(
        "forgets-the-first-failure",
        core.ForgetsTheFirstFailure,
        ("test_a_budget_in_time_goes_with_a_released_event_to_another_member",),
    ),
    Mutant("passes-context-on-as-it-came", core.PassesContextOnAsItCame, ("test_hostile_context_is_not_passed_on",)),
    Mutant(
        "links-nothing",
        core.LinksNothing,
        ("test_a_publish_and_its_start_are_spans_of_one_trace", "test_a_batch_links_every_event"),
    ),
    Mutant("records-no-exception", core.RecordsNoException, ("test_a_retry_links_the_start_before_it",)),
    Mutant(
        "leaves-copies-behind",
        core.LeavesCopiesBehind,
        ("test_a_dead_letter_and_its_replay_go_on_from_the_start_that_failed",),
    ),
    Mutant(
        "forgets-the-key-of-ids",
        core.ForgetsTheKeyOfIds,
        ("test_with_a_key_nobody_takes_the_place_of_an_event",),
        lambda capabilities: bool(capabilities.deduplication) and a_server(capabilities),
    ),
    Mutant(
        "counts-what-publishers-write",
        consuming.CountsWhatPublishersWrite,
        ("test_forged_headers_end_nothing_that_is_given_back", "test_forged_headers_stop_and_end_nothing"),
        lambda capabilities: capabilities.adapter == "rabbitmq",
    ),
    Mutant(
        "fails-the-whole-batch",
        publishing.FailsTheWholeBatch,
        ("test_one_bad_entry_of_a_batch_fails_alone",),
        lambda capabilities: capabilities.max_event_bytes is not None,
    ),
    Mutant(
        "dead-letters-get-lost",
        publishing.DeadLettersGetLost,
        (
            "test_attempts_are_exact_and_the_dead_letter_says_why",
            "test_a_dead_letter_refused_once_holds_nothing_up",
            "test_while_dead_letters_are_refused_the_other_keys_go_on",
        ),
    ),
    Mutant(
        "remembers-a-refusal",
        publishing.RemembersARefusal,
        ("test_a_deleted_dead_letter_topic_is_made_again",),
        a_server,
    ),
    Mutant(
        "keeps-the-reserve-from-dead-letters",
        publishing.KeepsTheReserveFromDeadLetters,
        ("test_a_message_at_the_brokers_limit_is_dead_lettered",),
        lambda capabilities: capabilities.adapter not in ("memory", "sqlite", "rabbitmq"),
    ),
    Mutant(
        "never-connects-again",
        publishing.NeverConnectsAgain,
        (
            "test_what_is_published_after_a_connection_was_killed_arrives",
            "test_a_half_open_connection_is_noticed_by_the_publisher",
            "test_a_broker_that_refuses_connections_for_a_while_is_reached_again",
        ),
        a_server,
    ),
    Mutant("sends-again-too-soon", publishing.SendsAgainTooSoon, ("test_a_poor_network_loses_nothing",), a_server),
    # ------------------------------------------------------------------------------------------------- consuming
    Mutant(
        "acks-before-the-handler",
        consuming.AcksBeforeTheHandler,
        ("test_nothing_is_settled_before_its_handler_returned",),
    ),
    Mutant("forgets-acks", consuming.ForgetsAcks, ("test_what_was_acked_never_comes_again",)),
    Mutant(
        "takes-a-release-for-an-ack",
        consuming.TakesAReleaseForAnAck,
        ("test_what_was_not_started_at_close_is_neither_counted_nor_dead_lettered",),
        per_message,
    ),
    Mutant(
        "takes-a-name-for-a-topic",
        consuming.TakesANameForATopic,
        ("test_a_topic_made_again_is_consumed_from_its_beginning",),
        cumulative,
    ),
    Mutant(
        "commits-past-an-open-event",
        consuming.CommitsPastAnOpenEvent,
        ("test_acked_events_stay_acked_behind_one_that_is_open",),
        cumulative,
    ),
    Mutant(
        "forgets-the-note",
        consuming.ForgetsTheNote,
        ("test_acked_events_stay_acked_behind_one_that_is_open",),
        cumulative,
    ),
    Mutant(
        "forgets-attempts",
        consuming.ForgetsAttempts,
        (
            "test_attempts_survive_a_clean_restart_of_the_consumer",
            "test_attempts_survive_a_clean_restart_of_an_unordered_consumer",
        ),
    ),
    Mutant(
        "counts-what-was-not-started",
        consuming.CountsWhatWasNotStarted,
        ("test_what_was_not_started_at_close_is_neither_counted_nor_dead_lettered",),
        per_message,
    ),
    Mutant(
        "dead-letters-on-shutdown",
        consuming.DeadLettersOnShutdown,
        ("test_what_was_not_started_at_close_is_neither_counted_nor_dead_lettered",),
        per_message,
    ),
    Mutant(
        "leaks-what-it-holds-on-close",
        consuming.LeaksOnClose,
        (
            "test_nothing_is_settled_before_its_handler_returned",
            "test_a_stopped_subscription_goes_on_where_it_was",
        ),
    ),
    Mutant("hangs-on-close", consuming.HangsOnClose, ("test_close_ends_soon_and_leaves_nothing_running",)),
    Mutant(
        "leaves-a-task-behind",
        consuming.LeavesATaskBehind,
        ("test_close_ends_soon_and_leaves_nothing_running",),
    ),
    Mutant("shares-state-between-groups", consuming.SharesGroups, ("test_each_group_gets_everything",)),
    Mutant("mixes-topics", consuming.MixesTopics, ("test_two_topics_do_not_mix",)),
    Mutant("loses-the-key", consuming.LosesTheKey, ("test_order_per_key",)),
    Mutant(
        "one-key-with-two-members",
        consuming.OneKeyWithTwoMembers,
        ("test_order_per_key_with_several_members",),
        lambda capabilities: capabilities.adapter == "memory",
    ),
    Mutant(
        "forgets-declared-groups",
        consuming.ForgetsDeclaredGroups,
        ("test_a_declared_group_gets_what_was_published_before_its_first_consumer",),
    ),
    Mutant(
        "verify-creates",
        consuming.VerifyCreates,
        ("test_verify_names_what_is_missing_and_makes_nothing",),
        lambda capabilities: bool(capabilities.verify),
    ),
    Mutant(
        "drops-foreign-messages",
        consuming.DropsForeignMessages,
        (
            "test_a_foreign_message_is_kept_raw_and_the_consumer_lives_on",
            "test_what_is_no_event_is_dead_lettered_as_it_came",
            "test_what_is_no_event_is_wrapped_where_the_topic_says_so",
        ),
    ),
    Mutant(
        "dies-of-foreign-messages",
        consuming.DiesOfForeignMessages,
        (
            "test_a_message_that_the_client_cannot_read_stops_nothing",
            "test_what_cannot_be_read_stops_no_new_consumer",
            "test_a_foreign_message_is_kept_raw_and_the_consumer_lives_on",
        ),
    ),
    Mutant(
        "ignores-the-start",
        consuming.IgnoresTheStart,
        ("test_earliest_begins_with_what_is_kept",),
        lambda capabilities: bool(capabilities.retains),
    ),
    Mutant(
        "declares-a-topic-once",
        consuming.DeclaresATopicOnce,
        ("test_a_lane_that_was_deleted_is_made_again",),
        lambda capabilities: bool(capabilities.balance),
    ),
    Mutant(
        "takes-more-than-asked-for",
        consuming.TakesMoreThanAskedFor,
        ("test_what_is_fetched_ahead_is_bounded",),
    ),
    Mutant("invents-the-time", consuming.InventsTheTime, ("test_the_quirks_of_other_programs_are_read",), a_server),
    Mutant(
        "reads-bodies-as-text",
        consuming.ReadsBodiesAsText,
        ("test_every_body_arrives_byte_for_byte", "test_we_read_the_events_of_others"),
    ),
    Mutant(
        "deaf-after-a-reconnect",
        consuming.DeafAfterAReconnect,
        (
            "test_one_dead_letter_is_replayed_or_discarded_by_its_id",
            "test_a_half_open_connection_is_noticed_by_the_consumer",
            "test_what_went_to_a_half_open_connection_is_handled_again",
        ),
    ),
    Mutant(
        "lets-leases-run-out",
        consuming.LetsLeasesRunOut,
        ("test_a_replay_keeps_its_leases_and_settles_one_by_one",),
        # Where a lane is one member's, nobody else is given what the lease has run out of.
        lambda capabilities: bool(capabilities.lease_extension) and not capabilities.balance,
    ),
    Mutant(
        "keeps-what-it-has-no-lane-for",
        consuming.KeepsWhatItHasNoLaneFor,
        ("test_what_a_slow_member_holds_stands_in_nobodys_way",),
        lambda capabilities: bool(capabilities.balance) or cumulative(capabilities),  # elsewhere no lane moves
    ),
    # ---------------------------------------------------------------------------------------------- the core's engine
    Mutant(
        "shares-one-context",
        core.SharesOneContext,
        ("test_a_context_variable_of_one_start_is_not_seen_in_the_next",),
    ),
    Mutant("loses-the-traceback", core.LosesTheTraceback, ("test_what_fails_says_so_with_its_facts",)),
    Mutant("logs-all-of-a-flood", core.LogsAllOfAFlood, ("test_a_flood_is_bounded_and_its_counts_add_up",)),
    Mutant("keeps-the-cause", core.KeepsTheCause, ("test_what_a_background_task_publishes_later_has_no_cause",)),
    Mutant(
        "takes-the-first-of-a-batch-for-the-cause",
        core.TakesTheFirstOfABatchForTheCause,
        ("test_what_a_batch_handler_publishes_has_no_single_trace",),
    ),
    Mutant(
        "takes-every-exit-for-its-own",
        core.TakesEveryExitForItsOwn,
        ("test_whatever_a_handler_raises_is_a_failed_start",),
    ),
    Mutant(
        "keeps-a-cancellation",
        core.KeepsACancellation,
        ("test_a_cancellation_that_was_swallowed_ends_with_its_handler",),
    ),
    Mutant(
        "counts-a-start-that-is-cut-off",
        core.CountsAStartThatIsCutOff,
        ("test_a_start_that_the_drain_cuts_off_does_not_count",),
    ),
    Mutant(
        "forgets-what-could-not-be-settled",
        core.ForgetsWhatCouldNotBeSettled,
        ("test_a_settlement_that_failed_is_made_again",),
    ),
    Mutant(
        "lets-an-exit-end-the-loop",
        core.LetsAnExitEndTheLoop,
        ("test_sys_exit_in_main_ends_the_program",),
        lambda capabilities: bool(capabilities.processes),
    ),
    # ------------------------------------------------------------------------------------------ the core on the way out
    Mutant(
        "fails-the-whole-batch-for-one-write",
        publishing.FailsTheWholeBatchForOneWrite,
        ("test_an_event_that_cannot_be_written_fails_alone",),
    ),
    Mutant(
        "believes-every-header",
        consuming.BelievesEveryHeader,
        ("test_headers_of_ours_are_not_believed_from_others",),
    ),
    Mutant(
        "forgets-the-inlet",
        consuming.ForgetsTheInlet,
        ("test_dead_letter_replay_fail_and_replay_again",),
    ),
    Mutant(
        "sends-headers-unchecked",
        core.SendsHeadersUnchecked,
        (
            "test_a_header_that_cannot_travel_is_refused_alone",
            "test_names_that_belong_to_the_event_or_to_a_broker_are_refused",
            "test_names_of_headers_travel_in_lower_case",
            "test_generated_headers_arrive_equal_or_are_refused",
        ),
    ),
    Mutant(
        "derives-ids-from-the-position",
        core.DerivesIdsFromThePosition,
        (
            "test_a_second_run_that_publishes_in_another_order_loses_nothing",
            "test_equal_data_with_another_subject_is_another_event",
        ),
    ),
    Mutant(
        "reads-an-empty-content-type",
        core.ReadsAnEmptyContentType,
        ("test_a_content_type_that_is_null_or_empty_is_none",),
        a_server,
    ),
    Mutant(
        "empties-null-headers",
        consuming.EmptiesNullHeaders,
        ("test_a_null_header_of_a_foreign_message_stays_null",),
        lambda capabilities: capabilities.adapter in ("kafka", "rabbitmq"),
    ),
    Mutant(
        "counts-nothing-for-no-group",
        consuming.CountsNothingForNoGroup,
        (
            "test_looking_at_what_is_not_there_is_one_error",
            "test_a_dead_letter_topic_of_several_groups_hides_no_missing_one",
        ),
        lambda capabilities: bool(capabilities.backlog),
    ),
    Mutant(
        "orders-by-keys-of-any-length",
        core.OrdersByKeysOfAnyLength,
        ("test_events_of_a_long_key_keep_their_order",),
    ),
    Mutant(
        "asks-the-store-for-what-it-is-given",
        core.AsksTheStoreForWhatItIsGiven,
        ("test_a_store_is_given_no_long_ids",),
    ),
    Mutant(
        "remembers-every-name",
        core.RemembersEveryName,
        ("test_long_names_of_attributes_are_not_kept",),
        a_server,
    ),
    Mutant(
        "peek-settles",
        inspecting.PeekSettles,
        ("test_peeking_moves_nothing", "test_listing_dead_letters_moves_nothing"),
        inspects,
    ),
    Mutant(
        "peek-ignores-the-group",
        inspecting.PeekIgnoresTheGroup,
        ("test_a_group_is_shown_only_what_is_its_own", "test_a_peek_into_a_group_leaves_out_what_is_finished"),
        lambda capabilities: inspects(capabilities) and bool(capabilities.retains),
    ),
    Mutant("peek-ignores-the-place", inspecting.PeekIgnoresThePlace, ("test_pages_follow_each_other",), inspects),
    Mutant(
        "peek-loses-notes",
        inspecting.PeekLosesNotes,
        ("test_a_peek_into_a_group_leaves_out_what_is_finished", "test_listed_dead_letters_can_be_named"),
        lambda capabilities: inspects(capabilities) and cumulative(capabilities),
    ),
    Mutant(
        "history-ignores-the-moment",
        inspecting.HistoryIgnoresTheMoment,
        ("test_a_replay_is_bounded_by_time",),
        lambda capabilities: bool(capabilities.history),
    ),
    Mutant(
        "history-reads-past-the-end",
        inspecting.HistoryReadsPastTheEnd,
        ("test_a_replay_is_bounded_by_position", "test_history_ends_where_it_is_told"),
        lambda capabilities: bool(capabilities.history),
    ),
    Mutant(
        "forgets-the-age",
        inspecting.ForgetsTheAge,
        ("test_the_age_grows_and_falls_to_that_of_the_next", "test_what_waits_in_the_inlet_has_an_age"),
        tells_the_age,
    ),
    Mutant(
        "counts-the-age-from-the-newest",
        inspecting.CountsTheAgeFromTheNewest,
        (
            "test_the_age_grows_and_falls_to_that_of_the_next",
            "test_what_is_behind_a_stuck_event_does_not_hide_it",
        ),
        tells_the_age,
    ),
    Mutant(
        "is-ready-whatever",
        core.IsReadyWhatever,
        (
            "test_a_bus_whose_publishes_fail_for_seconds_is_not_ready",
            "test_a_dead_letter_topic_that_refuses_makes_it_unready",
            "test_an_idempotency_store_that_is_down_makes_it_unready",
        ),
    ),
    Mutant(
        "counts-a-retry-as-a-dead-letter",
        core.CountsARetryAsADeadLetter,
        ("test_what_happened_is_shown_by_name_label_and_value",),
    ),
    Mutant("measures-no-errors", core.MeasuresNoErrors, ("test_what_happened_is_shown_by_name_label_and_value",)),
    Mutant("counts-waiting", core.CountsWaiting, ("test_an_open_circuit_uses_up_no_attempt",)),
    Mutant("fetches-for-nobody", core.FetchesForNobody, ("test_an_open_circuit_fetches_nothing_more",)),
    Mutant("stops-delivering", consuming.StopsDelivering, ("test_members_of_a_group_share_its_events",)),
    # ----------------------------------------------------------------------------------------------- parked keys
    Mutant(
        "runs-what-is-parked",
        parking.RunsWhatIsParked,
        ("test_later_events_of_the_key_are_set_aside_in_order",),
    ),
    Mutant(
        "starts-whatever-is-replayed",
        parking.StartsWhateverIsReplayed,
        ("test_what_fails_again_keeps_those_behind_it",),
    ),
    Mutant(
        "knows-events-by-their-ids",
        parking.KnowsEventsByTheirIds,
        ("test_an_event_with_the_same_id_does_not_take_its_place",),
        lambda capabilities: not capabilities.deduplication,  # else the broker may drop the other one
    ),
    Mutant(
        "takes-all-lanes-for-its-own",
        parking.TakesAllLanesForItsOwn,
        ("test_all_members_know_which_keys_are_parked",),
        lambda capabilities: not capabilities.exclusive_lanes,
    ),
    Mutant(
        "forgets-what-was-parked-before",
        parking.ForgetsWhatWasParkedBefore,
        ("test_the_next_member_knows_which_keys_are_parked",),
    ),
    Mutant(
        "replays-any-of-them",
        parking.ReplaysAnyOfThem,
        ("test_a_replay_that_leaves_out_an_older_one_is_refused",),
    ),
)

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in _ALL}


def break_broker(broker: str | AdapterFactory, name: str) -> AdapterFactory:
    """The broker, broken in the way of that name."""
    return BrokenBroker(broker, MUTANTS[name].flaw())
