"""Settings that are wrong: refused when the store is made, by a ConfigError that names them."""

from __future__ import annotations

import pytest

from anybroker.errors import ConfigError

from ._kit import StoreKit
from .marks import needs_harness


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
async def test_a_retention_that_is_not_one_is_refused(kit: StoreKit, value: float) -> None:
    """``retain`` is a number of seconds over 0."""
    with pytest.raises(ConfigError, match="retain"):
        kit.store(retain=value)


@needs_harness("by_url")
@pytest.mark.parametrize("option", ["retain=soon", "retain=-1", "retain=0", "retain="])
async def test_a_retention_in_a_url_that_is_not_one_is_refused(kit: StoreKit, option: str) -> None:
    """The option ``retain`` of the URL too."""
    with pytest.raises(ConfigError, match="retain"):
        kit.store_by_url(kit.with_option(option))


@needs_harness("by_url")
async def test_an_unknown_option_is_refused_with_the_nearest(kit: StoreKit) -> None:
    """An option of the URL that does not exist is named, and the nearest one that does."""
    with pytest.raises(ConfigError) as refused:
        kit.store_by_url(kit.with_option("retian=60"))
    assert "retian" in str(refused.value)
    assert "retain" in str(refused.value)


@needs_harness("by_url")
async def test_the_retention_of_a_url_counts(kit: StoreKit) -> None:
    """The option ``retain`` of the URL."""
    assert kit.store_by_url(kit.with_option("retain=1234")).retain == 1_234.0
