"""The times that follow from the lease of a group."""

from __future__ import annotations

import pytest

from anybroker_nats.durations import ack_wait, lease_of, pull_wait
from anybroker_nats.settings import NatsSettings


@pytest.mark.parametrize("ordered", [True, False])
def test_what_a_dead_path_swallows_comes_again_within_15_seconds(ordered: bool) -> None:
    """With our defaults: the last pull swallows messages until it ends; they are delivered again after ``ack_wait``.
    The path is found dead within three pings."""
    ping = NatsSettings().ping_interval
    assert pull_wait(20.0, ordered) + ack_wait(20.0, ordered) <= 15
    assert 3 * ping <= 15


@pytest.mark.parametrize(("lease", "waits"), [(1.5, 1.5), (12, 12), (20, 12), (21, 13), (60, 52), (600, 592)])
def test_an_unordered_group_waits_for_its_lease_less_the_time_to_notice_a_dead_path(lease: float, waits: float) -> None:
    assert ack_wait(lease, False) == waits
    assert lease_of({"config": {"ack_wait": waits * 1e9}}) == (20 if waits == 12 else lease)
    assert lease_of({"config": {"ack_wait": lease / 3 * 1e9, "priority_timeout": lease * 1e9}}) == lease
