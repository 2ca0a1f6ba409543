"""The security tests of the contract suite find adapters that are wrong in one thing each."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr, model_validator

from anybroker import MemoryBroker
from anybroker.adapter import Adapter, AdapterContext, AdapterSettings, BrokerUrl
from anybroker.bus import AdapterFactory
from anybroker.config import registry
from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.tls import TlsSettings
from anybroker_contract import BrokerHarness, test_security
from anybroker_contract._kit import Kit
from anybroker_contract._runner import run_test
from anybroker_contract.secured import Refused, Secured
from anybroker_contract.secured.credentials import url

RIGHT, WRONG = "s3cret-right", "s3cret-wrong"
_log = logging.getLogger("acme.client")


class AcmeSettings(TlsSettings):
    token: SecretStr | None = None


class Acme:
    """A sound adapter, around memory; subclasses have a flaw each."""

    Settings: ClassVar[type[AdapterSettings]] = AcmeSettings
    capabilities = MemoryBroker().make_adapter(AdapterContext("", "")).capabilities
    server: ClassVar[MemoryBroker]

    def __init__(self, address: BrokerUrl, settings: AcmeSettings, context: AdapterContext) -> None:
        self.address = address
        self.settings = settings
        self.adapter: Adapter = self.server.make_adapter(context)
        if address.scheme == "acmes":
            settings.tls_context(address, "acmes")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    async def connect(self) -> None:
        _log.debug("connecting to %s", self.address)
        if self.address.scheme != "acmes":
            raise Unavailable(f"{self.address} does not answer; is it for TLS (acmes://)?")
        token = self.settings.token
        if RIGHT not in (self.address.password, token and token.get_secret_value()):
            await self.refuse()

    async def refuse(self) -> None:
        raise ConfigError("url", f"{self.address} refused user and password", "Check both.")


class LetsEverybodyIn(Acme):
    async def refuse(self) -> None:
        pass


class RefusesEverybody(Acme):
    async def connect(self) -> None:
        await self.refuse()


class SaysTryLater(Acme):
    async def refuse(self) -> None:
        raise Unavailable("refused")


class GivesNoRemedy(Acme):
    async def refuse(self) -> None:
        raise ConfigError("url", "refused")


class NamesTheWrongSetting(Acme):
    async def refuse(self) -> None:
        raise ConfigError("tls_ca_file", "refused", "Check it.")


class TakesLong(Acme):
    async def refuse(self) -> None:
        await asyncio.sleep(2.0)
        await super().refuse()


class GoesOnTrying(Acme):
    async def refuse(self) -> None:
        self.trying = asyncio.create_task(asyncio.sleep(60))
        await super().refuse()


class LeavesAThread(Acme):
    async def refuse(self) -> None:
        ended = threading.Event()
        thread = threading.Thread(target=ended.wait, args=(4,), daemon=True)
        thread.start()
        await super().refuse()


class SaysNothingOfTls(Acme):
    async def connect(self) -> None:
        if self.address.scheme != "acmes":
            raise Unavailable("no answer")
        await super().connect()


class LogsThePassword(Acme):
    async def connect(self) -> None:
        _log.debug("login %r", self.address.password)
        await super().connect()


class LogsArguments(Acme):
    async def connect(self) -> None:
        _log.debug("%.1s", self.address.password)  # the text is short, the record is not
        await super().connect()


class SaysThePasswordInItsRepr(Acme):
    def __repr__(self) -> str:
        return f"<Acme {self.address.username}:{self.address.password}>"


class QuotesThePasswordInTheError(Acme):
    async def refuse(self) -> None:
        raise ConfigError("url", f"{self.address.password} is wrong", "Check it.")


class HasACauseThatQuotesIt(Acme):
    async def refuse(self) -> None:
        raise ConfigError("url", "refused", "Check it.") from ValueError(self.address.password)


class HidesACauseThatQuotesIt(Acme):
    async def refuse(self) -> None:
        try:
            raise ValueError(self.address.password)
        except ValueError:
            raise ConfigError("url", "refused", "Check it.") from None


class QuotesOptions(Acme):
    class Settings(AcmeSettings):
        @model_validator(mode="before")
        @classmethod
        def quote(cls, values: dict[str, Any]) -> dict[str, Any]:
            if values.keys() - cls.model_fields:
                raise ValueError(f"{values} has unknown options")
            return values


class Harness(BrokerHarness):
    name = "acmes"

    def broker(self, folder: Path) -> AdapterFactory:
        return MemoryBroker()


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, adapter: type[Acme], test: Callable[..., Any]) -> None:
    """Run a test of the suite on this adapter, as the plugin does."""
    adapter.server = MemoryBroker()
    monkeypatch.setattr(registry, "adapter_class", lambda scheme: adapter)
    monkeypatch.setattr(test_security, "SECONDS", 1.5)
    to = partial(url, "acmes", "localhost:1")
    secured = Secured(
        good={"password": to("me", RIGHT), "token": to(token=RIGHT)},
        wrong={"password": Refused(to("me", WRONG), "url")},
        without_tls=url("acme", "localhost:1", "me", RIGHT),
        secrets=(RIGHT, WRONG),
    )
    kit = Kit(Harness(), Acme.capabilities, folder, size="short", patience=5.0, mutant=None)
    run_test(test, {"kit": kit, "secured": secured}, kit, 20.0)


TESTS: tuple[Callable[..., Any], ...] = (
    test_security.test_every_right_way_in_publishes_and_consumes,
    test_security.test_every_wrong_way_in_is_one_error_that_says_how_to_fix_it,
    test_security.test_a_port_with_tls_and_a_url_without_it,
    test_security.test_no_secret_is_shown_while_all_goes_well,
    test_security.test_no_secret_is_shown_when_it_fails,
    test_security.test_no_secret_in_a_setting_that_is_refused,
)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_a_sound_adapter_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, test: Callable[..., Any]) -> None:
    run(monkeypatch, tmp_path, Acme, test)


@pytest.mark.parametrize(
    ("adapter", "test"),
    [
        (RefusesEverybody, TESTS[0]),
        (LetsEverybodyIn, TESTS[1]),
        (SaysTryLater, TESTS[1]),
        (GivesNoRemedy, TESTS[1]),
        (NamesTheWrongSetting, TESTS[1]),
        (TakesLong, TESTS[1]),
        (GoesOnTrying, TESTS[1]),
        (LeavesAThread, TESTS[1]),
        (SaysNothingOfTls, TESTS[2]),
        (LogsThePassword, TESTS[3]),
        (LogsArguments, TESTS[3]),
        (SaysThePasswordInItsRepr, TESTS[3]),
        (LogsThePassword, TESTS[4]),
        (QuotesThePasswordInTheError, TESTS[4]),
        (HasACauseThatQuotesIt, TESTS[4]),
        (HidesACauseThatQuotesIt, TESTS[4]),
        (QuotesOptions, TESTS[5]),
    ],
    ids=lambda item: item.__name__,
)
def test_a_flaw_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, adapter: type[Acme], test: Callable[..., Any]
) -> None:
    # ConfigError: what a right way in must not raise. The others: an assertion, pytest.fail, pytest.raises.
    with pytest.raises((AssertionError, ConfigError, pytest.fail.Exception)):
        run(monkeypatch, tmp_path, adapter, test)
