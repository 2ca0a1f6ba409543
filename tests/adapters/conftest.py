"""What the tests of several adapters share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anybroker.adapter import Foreign, Inbound
from anybroker.cloudevents.attributes import canonical
from anybroker_contract.raw import Quirk


@pytest.fixture
def is_what_it_is() -> Callable[[Inbound, Quirk], None]:
    """Asserts that somebody else's message was read as what it is."""

    def check(inbound: Inbound, quirk: Quirk) -> None:
        event = inbound.event
        assert event.body == quirk.body
        if quirk.attributes is None:
            assert isinstance(event, Foreign)
            assert event.reason is not None
        else:
            assert not isinstance(event, Foreign)
            assert {name: canonical(value) for name, value in event.attributes.items()} == quirk.attributes

    return check
