"""Settings and names: what is taken, what is refused, and how AWS sees it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker_sqs import SqsAdapter, SqsSettings
from anybroker_sqs.names import message_group, notes_name, queue_name, redrive_name, topic_name

CONTEXT = AdapterContext(service="shop", instance="1")
URL = BrokerUrl("sqs", (("us-east-1", None),))


def settings(**options: str) -> SqsSettings:
    return SqsSettings.model_validate(options)


def test_options_are_read_from_text() -> None:
    read = settings(wait="2", pollers="8", max_message_bytes="1048576", direct="orders:billing, a.b:c")
    assert (read.wait, read.pollers, read.max_message_bytes) == (2, 8, 1_048_576)
    assert read.direct == {"orders": "billing", "a.b": "c"}


@pytest.mark.parametrize(
    "options",
    [{"wait": "0"}, {"wait": "20"}, {"direct": "orders"}, {"direct": "a:b,a:c"}, {"unknown": "1"}, {"threads": "0"}],
)
def test_wrong_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        settings(**options)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in SqsSettings.model_fields.values())


def test_no_secret_in_what_settings_say_of_themselves() -> None:
    read = settings(access_key_id="AKIA1", secret_access_key="hidden-1", session_token="hidden-2")
    assert "hidden" not in f"{read!r} {read}"


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"access_key_id": "a"}, "access_key_id, secret_access_key"),
        ({"secret_access_key": "a"}, "access_key_id, secret_access_key"),
        ({"session_token": "a"}, "session_token"),
        ({"endpoint_url": "localhost:1"}, "endpoint_url"),
        ({"endpoint_url": "http://host:port"}, "endpoint_url"),
        ({"endpoint_url": "http://user:hidden@host"}, "endpoint_url"),
        ({"endpoint_url": "http://host", "tls_ca_file": "/ca"}, "tls_ca_file"),
        ({"tls_ca_file": "/no such file"}, "tls_ca_file"),
        ({"tls_check_hostname": "false"}, "tls_check_hostname"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, str], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqsAdapter(URL, settings(**options), CONTEXT)
    assert caught.value.setting == setting
    assert caught.value.remedy
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [
        {"username": "a"},
        {"path": "/queue"},
        {"hosts": (("a", None), ("b", None))},
        {"hosts": (("a", 9324),)},
        {"hosts": (("a_b", None),)},
    ],
)
def test_a_url_with_more_than_a_region_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="other than a region in it"):
        SqsAdapter(BrokerUrl("sqs", **{"hosts": (("us-east-1", None),), **parts}), settings(), CONTEXT)


def test_limits_follow_the_settings() -> None:
    adapter = SqsAdapter(URL, settings(wait="2", max_message_bytes="65536"), CONTEXT)
    assert (adapter.capabilities.poll, adapter.capabilities.max_event_bytes) == (2.0, 65_536)
    with pytest.raises(Unavailable, match="not connected"):
        _ = adapter.native


# ------------------------------------------------------------------------------------------------------------ names

NAME = st.from_regex(r"[a-z0-9]([.-]?[a-z0-9]){0,15}", fullmatch=True)


@given(one=st.tuples(NAME, NAME), other=st.tuples(NAME, NAME))
def test_names_are_legal_and_different(one: tuple[str, str], other: tuple[str, str]) -> None:
    names: list[list[str]] = []
    for topic, group in (one, other):
        queues = [queue_name(topic, group, True), queue_name(topic, group, False), notes_name(topic, group)]
        queues += [redrive_name(topic, True), redrive_name(topic, False)]
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}(\.fifo)?", name) for name in queues)
        assert len(set(queues)) == 5
        names.append(queues[:3])
    assert bool(set(names[0]) & set(names[1])) == (one == other)


def test_the_longest_names_fit() -> None:
    topic = f"{'t' * 59}.g.dlq"
    assert max(map(len, (queue_name(topic, "dlq", True), notes_name(topic, "dlq"), redrive_name(topic, True)))) <= 80
    assert topic_name("shop.orders", True) == "shop_orders.fifo"


@given(st.text(min_size=1, max_size=200))
def test_any_key_has_a_legal_message_group_of_its_own(key: str) -> None:
    group = message_group(key)
    assert re.fullmatch(r"[!-~]{1,128}", group)
    assert (group == key) != group.startswith("#")


def test_a_legal_key_is_its_message_group() -> None:
    for key in ("customer-7", "a/b:c@d", "x" * 128, "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~#"):
        assert message_group(key) == key
    for key in ("#1", "with space", "ü", "x" * 129):
        assert message_group(key) != key
