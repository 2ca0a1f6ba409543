"""Builds the Grafana board that the wheel carries, with grafana-foundation-sdk.

``python -m tests.observe.board`` writes ``src/anybroker/observe/files/dashboard.json``; a test says when it is stale.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

__all__ = ["FILE", "board"]

FILE = Path(__file__).parents[2] / "src" / "anybroker" / "observe" / "files" / "dashboard.json"

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TOPIC = 'messaging_destination_name=~"$topic"'
GROUP = f'{TOPIC}, messaging_consumer_group_name=~"$group"'
BY_TOPIC = "messaging_system, messaging_destination_name"
BY_GROUP = f"{BY_TOPIC}, messaging_consumer_group_name"
BY_MEMBER = f"{BY_GROUP}, instance"
TOPIC_NAME = "{{messaging_destination_name}}"
GROUP_NAME = "{{messaging_destination_name}} / {{messaging_consumer_group_name}}"
MEMBER_NAME = f"{GROUP_NAME} {{{{instance}}}}"

Curve = tuple[str, str]
"""An expression, and the name of what it gives."""


def _query(expression: str, name: str, number: int) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(name).ref_id(chr(ord("A") + number))
    return query.datasource(SOURCE).range()


def _curves(
    title: str, description: str, unit: str, *curves: Curve, span: int = 8, stacked: bool = False
) -> timeseries.Panel:
    """One panel with curves."""
    panel = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).min(0)
    panel.height(8).span(span).fill_opacity(20 if stacked else 5).line_width(1)
    panel.show_points(common_model.VisibilityMode.NEVER)
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    legend = common.VizLegendOptions().show_legend(True).placement(common_model.LegendPlacement.BOTTOM)
    panel.legend(legend.display_mode(common_model.LegendDisplayMode.LIST))
    tooltip = common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI)
    panel.tooltip(tooltip.sort(common_model.SortOrder.DESCENDING))
    for number, (expression, name) in enumerate(curves):
        panel.with_target(_query(expression, name, number))
    return panel


def _number(
    title: str, description: str, expression: str, unit: str = "short", *, red: float | None = None
) -> stat.Panel:
    """One panel with a number, which is red from ``red`` on."""
    steps = [model.Threshold(value=None, color="green")]
    if red is not None:
        steps.append(model.Threshold(value=red, color="red"))
    thresholds = dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(4).span(4)
    panel.thresholds(thresholds).graph_mode(common_model.BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    return panel.with_target(_query(expression, title, 0))


def _rows(title: str, description: str, expression: str, *hidden: str) -> table.Panel:
    """One panel with a row for each series: its labels, but for the hidden ones."""
    query = prometheus.Dataquery().expr(expression).ref_id("A").datasource(SOURCE).instant()
    query.format(prometheus_model.PromQueryFormat.TABLE)
    panel = table.Panel().title(title).description(description).datasource(SOURCE).height(6).span(24)
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": dict.fromkeys(hidden, True), "indexByName": {}, "renameByName": {}},
        )
    )
    return panel.with_target(query)


def _share(share: float, metric: str, where: str, by: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def _shares(metric: str, where: str, by: str, name: str) -> tuple[Curve, Curve]:
    """The median and the 99th percentile of a histogram."""
    return (_share(0.5, metric, where, by), f"{name} p50"), (_share(0.99, metric, where, by), f"{name} p99")


def _rate(metric: str, where: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def _most(metric: str) -> str:
    """The most that any replica says of each group: all of them say the same."""
    return f"max by ({BY_GROUP}) ({metric}{{{GROUP}}})"


def _variables(made: dashboard.Dashboard) -> None:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    made.with_variable(source)
    names = "messaging_client_sent_messages_total|messaging_client_consumed_messages_total|anybroker_lag_events"
    of_group = "messaging_client_consumed_messages_total|anybroker_lag_events"
    for name, label, query in (
        ("topic", "Topic", f'label_values({{__name__=~"{names}"}}, messaging_destination_name)'),
        ("group", "Group", f'label_values({{__name__=~"{of_group}", {TOPIC}}}, messaging_consumer_group_name)'),
    ):
        variable = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
        variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)
        # ".*" also takes series without that label, and topics that the list does not have yet.
        variable.multi(True).include_all(True).all_value(".*")
        variable.current(model.VariableOption(selected=True, text="All", value="$__all"))
        made.with_variable(variable)


def _overview(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Overview"))
    made.with_panel(_number("Processes", "With a Bus, and scraped.", "count(anybroker_ready)"))
    made.with_panel(
        _number(
            "Not ready",
            "Processes whose broker, store or dead-letter topic is away, or that have no lanes yet.",
            "count(anybroker_ready) - sum(anybroker_ready)",
            red=1,
        )
    )
    made.with_panel(_number("Lag", "Events that wait, in all chosen groups.", f"sum({_most('anybroker_lag_events')})"))
    made.with_panel(
        _number("Oldest", "Age of the oldest event.", f"max({_most('anybroker_lag_age_seconds')})", "s", red=300)
    )
    made.with_panel(
        _number("Dead letters", "In all chosen groups.", f"sum({_most('anybroker_dead_letters_depth')})", red=1)
    )
    made.with_panel(
        _number(
            "Outcomes unknown",
            "Publishes in the chosen time without an answer of the broker: each event may be stored or not.",
            "sum(increase(anybroker_publish_unknown_total[$__range]))",
            red=1,
        )
    )
    made.with_panel(
        _rows(
            "Problems",
            "What is wrong now, by process: the names in bus.problems. The process's /health says more.",
            "max by (job, instance, messaging_system, anybroker_name) (anybroker_problem) == 1",
            "Time",
            "Value",
        )
    )


def _publish(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Publish"))
    sent = "messaging_client_sent_messages_total"
    made.with_panel(
        _curves("Published", "Events a second.", "cps", (_rate(sent, f'{TOPIC}, error_type=""', BY_TOPIC), TOPIC_NAME))
    )
    made.with_panel(
        _curves(
            "Publish errors",
            "Publishes a second that failed, by error, and those of which nobody knows whether they are stored.",
            "cps",
            (_rate(sent, f'{TOPIC}, error_type!=""', f"{BY_TOPIC}, error_type"), f"{TOPIC_NAME} {{{{error_type}}}}"),
            ("sum by (job) (rate(anybroker_publish_unknown_total[$__rate_interval]))", "{{job}} unknown"),
        )
    )
    made.with_panel(
        _curves(
            "Publish duration",
            "From the call of publish to the broker's answer.",
            "s",
            *_shares("messaging_client_operation_duration_seconds", TOPIC, BY_TOPIC, TOPIC_NAME),
        )
    )


def _consume(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Consume"))
    started = "messaging_process_duration_seconds"
    made.with_panel(
        _curves(
            "Received",
            "Events a second that the broker handed over.",
            "cps",
            (_rate("messaging_client_consumed_messages_total", GROUP, BY_GROUP), GROUP_NAME),
        )
    )
    made.with_panel(
        _curves(
            "Outcomes",
            "What became of the starts of handlers, a second.",
            "cps",
            (_rate(f"{started}_count", GROUP, "anybroker_outcome"), "{{anybroker_outcome}}"),
            stacked=True,
        )
    )
    made.with_panel(
        _curves(
            "Not handled",
            "The share of starts that failed, by group. AnybrokerErrorRate fires above 5 %.",
            "percentunit",
            (
                _rate(f"{started}_count", f'{GROUP}, anybroker_outcome!~"handled|postponed|returned"', BY_GROUP)
                + " / "
                + _rate(f"{started}_count", GROUP, BY_GROUP),
                GROUP_NAME,
            ),
        )
    )
    made.with_panel(_curves("Handler duration", "Of each start.", "s", *_shares(started, GROUP, BY_GROUP, GROUP_NAME)))
    made.with_panel(
        _curves(
            "Latency",
            "From an event's own time until it was handled.",
            "s",
            *_shares("anybroker_delivery_latency_seconds", GROUP, BY_GROUP, GROUP_NAME),
        )
    )
    made.with_panel(
        _curves(
            "Unusual",
            "A second: starts made again, those that a retry budget slowed, copies and expired events that were left "
            "out, events set aside, events of unknown types, foreign messages.",
            "cps",
            *(
                (_rate(f"anybroker_{metric}_total", GROUP, BY_GROUP), f"{GROUP_NAME} {name}")
                for metric, name in (
                    ("retries", "retries"),
                    ("retries_slowed", "slowed retries"),
                    ("expired", "expired"),
                    ("duplicates_suppressed", "duplicates"),
                    ("parked", "set aside"),
                    ("unhandled", "unhandled"),
                    ("foreign", "foreign"),
                )
            ),
        )
    )


def _lag(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Lag"))
    made.with_panel(
        _curves("Lag", "Events that wait for a group.", "short", (_most("anybroker_lag_events"), GROUP_NAME))
    )
    made.with_panel(_curves("Oldest waiting", "How old it is.", "s", (_most("anybroker_lag_age_seconds"), GROUP_NAME)))
    made.with_panel(
        _curves(
            "Oldest unfinished",
            "For how long one event has kept its place at a member: a key that is stuck grows.",
            "s",
            (
                f"max by ({BY_GROUP}, instance) (anybroker_unfinished_age_seconds{{{GROUP}}})",
                f"{GROUP_NAME} {{{{instance}}}}",
            ),
        )
    )


def _dead_letters(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Dead letters"))
    made.with_panel(
        _curves(
            "Waiting dead letters",
            "Where the broker can count them.",
            "short",
            (_most("anybroker_dead_letters_depth"), GROUP_NAME),
            span=12,
        )
    )
    made.with_panel(
        _curves(
            "New dead letters",
            "A second.",
            "cps",
            (_rate("anybroker_dead_letters_total", GROUP, BY_GROUP), GROUP_NAME),
            span=12,
        )
    )


def _outbox(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Outbox"))
    for title, description, unit, metric in (
        ("Waiting in the outbox", "Events that no relay has brought to the broker yet.", "short", "waiting"),
        ("Oldest in the outbox", "How old it is.", "s", "age_seconds"),
        ("Set aside", "Events that the broker rejected for good.", "short", "set_aside"),
    ):
        curve = f"max by (job, anybroker_name) (anybroker_outbox_{metric})", "{{job}} {{anybroker_name}}"
        made.with_panel(_curves(title, description, unit, curve))
    sent = _rate("anybroker_outbox_sent_total", "", "job, anybroker_name"), "{{job}} {{anybroker_name}}"
    made.with_panel(_curves("Relayed", "A second.", "cps", sent))


def _members(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Members"))
    for title, description, metric in (
        ("Lanes held", "By each member.", "anybroker_lanes_held"),
        ("Handlers running", "At each member.", "anybroker_handlers_running"),
        ("Buffered", "Received by each member and not finished.", "anybroker_deliveries_buffered"),
        (
            "Waiting for a turn",
            "Of those, what waits for circuit, rate_limit or concurrency.",
            "anybroker_deliveries_waiting",
        ),
        ("Open circuits", "At each member: its handlers pause.", "anybroker_circuit_open"),
    ):
        curve = f"sum by ({BY_MEMBER}) ({metric}{{{GROUP}}})", MEMBER_NAME
        made.with_panel(_curves(title, description, "short", curve))
    for title, description, metric in (
        ("Starts", "A second, at each member; retries too.", "anybroker_starts_total"),
        ("Reconnects", "A second: a receiver had died.", "anybroker_reconnects_total"),
        ("Circuits opened", "A second, at each member.", "anybroker_circuits_opened_total"),
        ("Leases lost", "A second: another member may have had the event too.", "anybroker_leases_lost_total"),
    ):
        made.with_panel(_curves(title, description, "cps", (_rate(metric, GROUP, BY_MEMBER), MEMBER_NAME)))


def board() -> str:
    """The JSON that Grafana imports."""
    made = dashboard.Dashboard("anybroker").uid("anybroker").tags(["anybroker"]).editable()
    made.description("What services that use anybroker publish and consume, what waits, and what went wrong.")
    made.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR)
    _variables(made)
    for row in (_overview, _publish, _consume, _lag, _dead_letters, _outbox, _members):
        row(made)
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Write the board."""
    argparse.ArgumentParser(prog="python -m tests.observe.board", description=main.__doc__).parse_args()
    FILE.write_text(board(), encoding="utf-8")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
