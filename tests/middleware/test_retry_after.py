"""HTTP's Retry-After, on the exceptions of any client library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from anybroker.middleware.retry_after import retry_after, seconds_of

NOW = 1_445_412_475.0  # Wed, 21 Oct 2015 07:27:55 GMT


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anybroker.middleware.retry_after.time.time", lambda: NOW)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("9" * 18, 999_999_999_999_999_999.0),
        ("9" * 19, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 5.0),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 5.0),  # both old forms, which RFC 9110 still has readers accept
        ("Wed Oct 21 07:28:00 2015", 5.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", None),  # has passed
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661\u0662", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("x" * 100_000, None),
        (b"120", None),
        (120, None),
        (None, None),
    ],
)
def test_a_value(value: object, seconds: float | None) -> None:
    assert seconds_of(value) == seconds


class Failed(Exception):
    def __init__(self, **facts: Any) -> None:
        super().__init__("failed")
        vars(self).update(facts)


class Answer:
    """As that of requests: false where the status is an error."""

    headers: ClassVar = {"Retry-After": "3"}

    def __bool__(self) -> bool:
        return False


class Broken(Exception):
    @property
    def response(self) -> object:
        raise RuntimeError("there is none")

    @property
    def headers(self) -> object:
        raise RuntimeError("none either")


class Lower:
    """Its headers can be asked for in lower case only."""

    headers: ClassVar = {"retry-after": "4"}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Failed(response=Answer()), 3.0),
        (Failed(response=Lower()), 4.0),
        (Failed(headers={"Retry-After": "5"}), 5.0),
        (Failed(response=None, headers={"Retry-After": "6"}), 6.0),
        (Failed(response=SimpleNamespace(headers={"Retry-After": "soon"})), None),
        (Failed(response=SimpleNamespace(headers=["Retry-After"])), None),
        (Failed(response={"Retry-After": "1"}), None),
        (Failed(headers=None), None),
        (Broken(), None),
        (ValueError("no"), None),
        (SystemExit(3), None),
    ],
)
def test_an_exception(error: BaseException, seconds: float | None) -> None:
    assert retry_after(error) == seconds


def test_its_cause_is_asked_too() -> None:
    error = ValueError("the request failed")
    error.__cause__ = Failed(response=Answer())
    assert retry_after(error) == 3.0
    own = Failed(headers={"Retry-After": "9"})
    own.__cause__ = Failed(response=Answer())
    assert retry_after(own) == 9.0


def test_what_was_only_being_handled_is_not_asked() -> None:
    error = ValueError("something else")
    error.__context__ = Failed(response=Answer())
    assert retry_after(error) is None
