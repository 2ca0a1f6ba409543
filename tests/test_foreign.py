"""A message that is no CloudEvent keeps what it came with, and nothing of how it was found out."""

from __future__ import annotations

import gc
import weakref

from anybroker.adapter import Foreign
from anybroker.cloudevents import parse_json
from anybroker.errors import InvalidEvent


class Local:
    """Something that is there on the way."""


def test_what_was_read_on_the_way_goes_with_the_message() -> None:
    """Not only when the garbage collector finds the circle of the exception, its frames and the message."""

    def read() -> tuple[Foreign, weakref.ref[Local]]:
        local = Local()
        seen = weakref.ref(local)
        try:
            try:
                raise KeyError(local)
            except KeyError:
                parse_json(b"{")
        except InvalidEvent as exc:
            return Foreign(b"{", (), None, exc), seen
        raise AssertionError

    gc.disable()
    try:
        foreign, seen = read()
        assert foreign.reason is not None
        assert "no CloudEvent" in str(foreign.reason)
        assert seen() is None
    finally:
        gc.enable()
