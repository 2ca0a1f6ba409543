"""Settings: arguments, then the environment (``ANYBROKER_…``), then ``anybroker.toml``, then the defaults.

The toml file is ``anybroker.toml`` in the working folder, or the one that ``ANYBROKER_CONFIG`` names; which of its
settings are refused, and when, :mod:`anybroker.config.file` says::

    url = "sqlite:///shop.db"
    source = "shop"

    [topics.orders]
    groups = ["billing", "shipping"]
    key = "data.customer"
    lanes = 8

    [adapters.sqlite]
    busy_timeout = 5
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ..adapter import SECURITY, BrokerUrl
from ..errors import ConfigError
from ..names import check_names, check_topic
from .file import FOUND, ConfigFile, FileSource, find_file, security_settings

__all__ = ["DEFAULT_URL", "BusSettings", "TopicSettings", "load_settings", "nearest", "parse_url", "validate"]

DEFAULT_URL = "sqlite:///anybroker.db"
"""The embedded broker, used when no URL is given anywhere."""
_PREFIX = "ANYBROKER_"


class TopicSettings(BaseModel):
    """One topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ordered: bool = Field(
        default=True, description="Events of one key stay in order; subscriptions are ordered by default."
    )
    groups: tuple[str, ...] = Field(default=(), description="Groups that exist before their first consumer.")
    lanes: int | None = Field(
        default=None, ge=1, le=64, description="The number of lanes of each group; none: 4 in a new topic."
    )
    retention: float | None = Field(default=None, gt=0, description="Seconds that events are kept.")
    dead_letter: str | None = Field(
        default=None, description="The dead-letter topic's name; none: {topic}.{group}.dlq."
    )
    key: str | None = Field(default=None, description="Where the key is: data.customer, subject, an extension.")
    codec: str | None = Field(default=None, description="The codec that writes the topic's data; none: JSON.")
    max_in_flight: int | None = Field(
        default=None, ge=1, description="Handlers in flight in each subscription of the topic."
    )
    max_ahead: int | None = Field(default=None, ge=1, description="Events fetched beyond the oldest unfinished one.")
    foreign: Literal["dead_letter", "wrap"] = Field(
        default="dead_letter",
        description="What happens to messages that are not CloudEvents: dead-letter them raw, or wrap them as events.",
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class BusSettings(BaseSettings):
    """All settings of a Bus, from every source."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    # Not in the repr: url, idempotency and outbox may hold passwords.
    url: str | None = Field(
        default=None, repr=False, json_schema_extra=SECURITY, description="The broker; none: the embedded one."
    )
    source: str | None = Field(
        default=None, description="CloudEvents source: the service's name, the same in all its replicas."
    )
    provision: Literal["create", "verify", "off"] = Field(
        "create", description="Make topics and groups at the start, only check that they are there, or neither."
    )
    lease: float = Field(
        default=20.0, ge=1, description="Seconds after which the events of a crashed member go to another."
    )
    drain: float = Field(default=25.0, ge=0, description="Seconds that handlers in flight have at shutdown.")
    publish_deadline: float = Field(default=30.0, gt=0, description="Seconds by which every publish has ended.")
    connect_timeout: float = Field(10.0, gt=0, description="Seconds within which the broker must answer at the start.")
    slow_after: float | None = Field(
        default=None,
        gt=0,
        description="Seconds after which a handler that still runs is logged; none: half the lease.",
    )
    max_hops: int = Field(
        default=50, ge=1, description="Handlers in a row that may lead to an event; one with more is dead-lettered."
    )
    idempotency: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra=SECURITY,
        description="The store of @idempotent(): sqlite:///file.db, memory://; none: chosen to fit the broker.",
    )
    outbox: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra=SECURITY,
        description="The outbox of publish(within=): postgresql://host/database, sqlite:///file.db.",
    )
    audit: str | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="The file to which changes of dead letters are written, one JSON line each; none: only the log.",
    )
    deduplication_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="A secret of 16 characters or more, the same in all services that publish to the same topics. "
        "Without it, a program that knows an event's source and id can take its place where the broker drops copies.",
    )
    topics: dict[str, TopicSettings] = Field(default_factory=dict, description="Topics by name.")
    adapters: dict[str, dict[str, Any]] = Field(
        default_factory=dict, repr=False, description="Adapter settings by URL scheme."
    )
    _file: ConfigFile | None = PrivateAttr(default=None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the toml file."""
        file = find_file()
        FOUND.set(file)
        return (
            (init_settings, env_settings)
            if file is None
            else (init_settings, env_settings, FileSource(settings_cls, file))
        )

    def check_file(self, scheme: str, model: type[BaseModel], over: Collection[str]) -> None:
        """Raise ConfigError if a setting of this scheme's adapter (with this model) is in a file that may not set it.
        ``over``: the settings in the URL itself."""
        if self._file is not None:
            self._file.check(security_settings(model), "adapters", scheme, over=over)


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the known name closest to this one, and lists all."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names) if names else 'none'}."


_Model = TypeVar("_Model", bound=BaseModel)


def validate(model: type[_Model], values: Mapping[str, Any], where: str) -> _Model:
    """An instance of the model. Raises a ConfigError that names the first wrong setting and never shows a secret."""
    try:
        return model(**values)
    except ValidationError as exc:
        raise _config_error(exc, model, where) from None
    except SettingsError as exc:
        raise ConfigError(where, str(exc), "Write nested settings as JSON, or use ANYBROKER_NAME__FIELD.") from exc


def _config_error(exc: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    error = exc.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in error["loc"]]
    setting = ".".join([where, *path]) if where else ".".join(path)
    if error["type"] == "extra_forbidden":
        fields = TopicSettings.model_fields if path[:1] == ["topics"] and len(path) > 2 else model.model_fields
        return ConfigError(setting, "there is no such setting", nearest(path[-1], fields))
    description = ""
    if path and path[0] in model.model_fields:
        description = model.model_fields[path[0]].description or ""
    return ConfigError(setting, error["msg"], description)


def load_settings(arguments: Mapping[str, object]) -> BusSettings:
    """Read the settings; arguments that are None count as not given. Raises ConfigError."""
    settings = validate(BusSettings, {name: value for name, value in arguments.items() if value is not None}, "")
    if (file := FOUND.get()) is not None:
        file.check(security_settings(BusSettings))
        settings._file = file
    _check_environment()
    for topic, options in settings.topics.items():
        check_topic(topic)
        for group in options.groups:
            check_names(topic, group)
        if options.dead_letter is not None:
            check_topic(options.dead_letter)
            _check_circle(settings.topics, topic)
    return settings


def _check_circle(topics: Mapping[str, TopicSettings], topic: str) -> None:
    """Raise ConfigError if the dead letters of a topic would come back to it, and fail again."""
    way = [topic]
    while (options := topics.get(way[-1])) is not None and options.dead_letter is not None:
        if options.dead_letter in way:
            raise ConfigError(
                f"topics.{topic}.dead_letter",
                f"leads back to a topic that it starts from: {' -> '.join((*way, options.dead_letter))}",
                "Name a topic that is read as dead letters only.",
            )
        way.append(options.dead_letter)


def _check_environment() -> None:
    """Warn about a variable that looks like a setting but is not one. It may be another program's, so not an error."""
    for variable in os.environ:
        name = variable.upper().removeprefix(_PREFIX).partition("__")[0].lower()
        if (
            variable.upper().startswith(_PREFIX)
            and name not in BusSettings.model_fields
            and name != "config"
            and not name.startswith("test_")
        ):
            hint = nearest(name, BusSettings.model_fields)
            warnings.warn(f"{variable} is not a setting of anybroker, and is ignored. {hint}", stacklevel=2)


def parse_url(url: str) -> BrokerUrl:
    """Take a broker's URL apart. Raises a ConfigError that never shows the password."""
    if not isinstance(url, str) or "://" not in url:
        # Text that may hold a password, or a secret option, is not shown.
        shown = url if isinstance(url, str) and not {"@", "?"} & set(url) else type(url).__name__
        raise ConfigError(
            "url", f"{shown!r} is not a broker URL", "Write scheme://host:port, such as sqlite:///shop.db or memory://."
        )
    try:
        parts = urlsplit(url)
        userinfo, _, servers = parts.netloc.rpartition("@")
        username, _, password = userinfo.partition(":")
        hosts = []
        for server in filter(None, servers.split(",")):
            one = urlsplit(f"//{server}")
            if one.hostname is None:
                raise ValueError("server without a host name")
            hosts.append((one.hostname, one.port))
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        if parts.fragment or (
            parts.netloc and not userinfo and any("@" in text for text in (parts.path, *dict(pairs)))
        ):
            raise ValueError("a password that ends the server's part")
    except ValueError:  # its text may show a part of the password
        raise ConfigError(
            "url",
            "cannot be read: a port is not a number, a bracket is open, or a character has to be percent-encoded",
            "Write scheme://user:password@host:port/?option=value, with '/', '#', '?' and '@' in a password as %2F, "
            "%23, %3F and %40.",
        ) from None
    options = dict(pairs)
    if len(options) != len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise ConfigError(f"url option {twice!r}", "is given twice", "Keep one of them.")
    return BrokerUrl(
        parts.scheme,
        tuple(hosts),
        unquote(username) or None,
        unquote(password) or None,
        unquote(parts.path),
        options,
    )
