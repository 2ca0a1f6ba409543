"""Sessions, credentials and clients: what can go wrong before anything is asked, and what is kept out of the logs."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker_sqs.link import Link, _encode_form
from anybroker_sqs.settings import SqsSettings

CONTEXT = AdapterContext(service="shop", instance="1", connect_timeout=2.0)
KEYS = {"access_key_id": "AKIA1", "secret_access_key": "hidden"}


@pytest.fixture(autouse=True)
def _no_aws_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def nowhere() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def aws(region: str | None = "us-east-1", **options: str) -> Link:
    url = BrokerUrl("sqs", () if region is None else ((region, None),))
    return Link(url, SqsSettings.model_validate(options), CONTEXT)


def test_no_credentials_are_one_error_that_says_what_to_set(nowhere: str) -> None:
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as caught:
        asyncio.run(aws(endpoint_url=nowhere).connect())
    assert caught.value.setting == "access_key_id, secret_access_key"


def test_half_of_the_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY"):
        asyncio.run(aws(endpoint_url=nowhere).connect())


def test_no_region() -> None:
    with pytest.raises(ConfigError, match="no AWS region"):
        asyncio.run(aws(None, **KEYS).connect())


def test_no_such_profile(nowhere: str) -> None:
    with pytest.raises(ConfigError, match="missing") as caught:
        asyncio.run(aws(profile="missing", endpoint_url=nowhere).connect())
    assert caught.value.setting == "profile"


def test_a_broken_configuration_file(tmp_path: Path, nowhere: str) -> None:
    (tmp_path / "config").write_text("no section\n")
    with pytest.raises(ConfigError) as caught:
        asyncio.run(aws(endpoint_url=nowhere).connect())
    assert caught.value.setting == "profile"


def test_nobody_there_leaves_nothing_open(nowhere: str) -> None:
    before = set(threading.enumerate())
    filters = list(logging.getLogger("botocore.auth").filters)
    client = aws(endpoint_url=nowhere, **KEYS)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(client.connect())
    assert nowhere in str(caught.value)
    assert "us-east-1" in str(caught.value)
    assert "hidden" not in repr(caught.value.__cause__)
    assert not client.connected
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before
    assert logging.getLogger("botocore.auth").filters == filters
    with pytest.raises(Unavailable, match="closed"):
        asyncio.run(client.call("asking", lambda: None))


def test_credentials_are_kept_out_of_botocores_debug_output(nowhere: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "botocore")  # which is quiet unless a program asks for more
    with pytest.raises(Unavailable):
        asyncio.run(aws(endpoint_url=nowhere, session_token="secret-token", **KEYS).connect())
    assert "left out: it has credentials in it" in caplog.text
    assert "secret-token" not in caplog.text
    assert "hidden" not in caplog.text
    assert not any("secret-token" in repr(record.args) for record in caplog.records)


def test_a_form_is_encoded_as_botocore_would() -> None:
    form = {"Action": "PublishBatch", "Entries.member.1.Message": '{"a": "ü &=+/~*%"}\n', "Number": "1"}
    request, plain = (AWSRequest("POST", "http://x/", data=dict(form)) for _ in range(2))
    body: Any = plain.prepare().body
    for _ in range(2):  # a second time changes nothing
        _encode_form(request)
        assert request.prepare().body == body.encode()
