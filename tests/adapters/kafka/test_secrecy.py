"""aiokafka's log at DEBUG, without passwords."""

from __future__ import annotations

import logging

import pytest
from aiokafka.protocol.admin import SaslAuthenticateRequest
from aiokafka.protocol.metadata import MetadataRequest

from anybroker_kafka.secrecy import hide_passwords


def test_requests_are_logged_without_what_authenticates(caplog: pytest.LogCaptureFixture) -> None:
    hide_passwords()
    hide_passwords()
    log = logging.getLogger("aiokafka.conn")
    assert len([item for item in log.filters if type(item).__module__ == "anybroker_kafka.secrecy"]) == 1
    secret = SaslAuthenticateRequest(b"\0me\0s3cret").prepare({36: (0, 1)})
    assert "s3cret" in str(secret)
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        log.debug("Request to %s:%d %d: %s", "host", 1, 7, secret)
        log.debug("Request to %s:%d %d: %s", "host", 1, 8, MetadataRequest(["orders"]).prepare({3: (0, 1)}))
        log.debug("nothing at all")
    assert "s3cret" not in caplog.text
    assert "SaslAuthenticateRequest" in caplog.text
    assert "orders" in caplog.text
