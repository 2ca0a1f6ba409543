"""aiokafka's log: without passwords, and without the same warning thousands of times."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest
from aiokafka.protocol.metadata import MetadataRequest

from anybroker_kafka import client_log
from anybroker_kafka.client_log import hide_passwords, limit_warnings


def test_requests_are_logged_without_what_authenticates(caplog: pytest.LogCaptureFixture) -> None:
    hide_passwords()
    hide_passwords()
    log = logging.getLogger("aiokafka.conn")
    assert log.filters.count(client_log._PASSWORDS) == 1
    secret = SaslAuthenticateRequest(b"\0me\0s3cret").prepare({36: (0, 1)})
    assert "s3cret" in str(secret)
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        log.debug("Request to %s:%d %d: %s", "host", 1, 7, secret)
        log.debug("Request to %s:%d %d: %s", "host", 1, 8, MetadataRequest(["orders"]).prepare({3: (0, 1)}))
        log.debug("nothing at all")
    assert "s3cret" not in caplog.text
    assert "SaslAuthenticateRequest" in caplog.text
    assert "orders" in caplog.text


def test_the_clients_warnings_come_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr(client_log, "time", SimpleNamespace(monotonic=lambda: now[0]))
    logger = logging.getLogger("aiokafka.test_noise")
    limit_warnings()
    limit_warnings()
    try:
        for number in range(3009):
            logger.warning("Got error for %s, retrying", number)
        logger.warning("Something else")
        logger.info("Below")
        now[0] += 61
        logger.warning("Got error for %s, retrying", "the last")
    finally:
        logger.removeFilter(client_log._REPEATED)
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == [
        "Got error for 0, retrying",
        "Something else",
        "Got error for the last, retrying (and 3008 more like it in the last 61 s)",
    ]
