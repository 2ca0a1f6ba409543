"""Where the server is and what store or outbox were told, by arguments or a URL. Passwords stay out of every text."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import ceil
from typing import Any, NamedTuple
from urllib.parse import unquote

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError

__all__ = ["DATABASE", "OUTBOX", "STORE", "Reader", "Target", "checked_schema", "from_url", "seconds"]


class Reader(NamedTuple):
    """Who is told, and how errors name it."""

    what: str
    """In a sentence."""
    made: str
    """Its class."""
    setting: str
    """The setting that holds its URL."""
    options: tuple[str, ...]
    """Options of a URL that are its own; all others are libpq's."""


STORE = Reader("store", "PostgresStore", "idempotency", ("retain", "timeout", "schema", "pool"))
OUTBOX = Reader("outbox", "PostgresOutbox", "outbox", ("timeout", "schema"))
DATABASE = Reader("database", "PostgresDatabase", "URL", STORE.options)
"""The URL of either may be given."""


class Target:
    """A database, as libpq's parameters. Its ``str`` names host and database only."""

    def __init__(self, parameters: dict[str, Any], timeout: float) -> None:
        hosts = str(parameters.get("host") or parameters.get("hostaddr") or "").split(",")
        ports = str(parameters.get("port") or "").split(",")
        if len(ports) < len(hosts):
            ports = [ports[0]] * len(hosts)
        self.parameters = dict(parameters)
        if len(hosts) > 1:  # a standby must not be taken for the primary
            self.parameters.setdefault("target_session_attrs", "read-write")
        self.parameters.setdefault("connect_timeout", max(1, ceil(timeout / len(hosts))))
        self.parameters.setdefault("fallback_application_name", "anybroker")
        places = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
        self._text = f"postgresql://{places}/{parameters.get('dbname') or ''}"

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<{self._text}>"

    @classmethod
    def of(cls, conninfo: str, timeout: float, reader: Reader) -> Target:
        """From libpq's URL or its ``key=value`` form. Raises ConfigError, without any part of the text."""
        parameters: dict[str, Any] | None = None
        try:
            parameters = conninfo_to_dict(conninfo)
        except (ProgrammingError, TypeError):
            pass  # the error's text may show a part of the password, so it is not even the context of ours
        if parameters is None or _holds_a_password(parameters):
            raise ConfigError(
                f"{reader.made}(conninfo)",
                "libpq cannot read it: a parameter that it does not know, or a character that is not percent-encoded",
                "Write postgresql://user:password@host:5432/database?sslmode=require, with '/', '#', '?' and '@' in a "
                "password as %2F, %23, %3F and %40. "
                f"The {reader.what}'s own ({', '.join(reader.options)}) are arguments.",
            )
        return cls(parameters, timeout)


def _holds_a_password(parameters: dict[str, Any]) -> bool:
    """Whether a part of a password that was not percent-encoded became another parameter, which errors would show."""
    ports = str(parameters.get("port") or "").replace(",", "")
    return bool(ports and not ports.isdecimal()) or any(
        "@" in str(parameters.get(name) or "") for name in ("host", "hostaddr", "dbname")
    )


def from_url(url: BrokerUrl, reader: Reader) -> tuple[dict[str, Any], dict[str, Any]]:
    """libpq's parameters and the reader's arguments. Raises ConfigError for an option that neither has."""
    known = {item.keyword.decode(): item for item in pq.Conninfo.get_defaults()}
    parameters: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for name, text in url.options.items():
        where = f"{reader.setting} option {name!r}"
        if name in reader.options:
            arguments[name] = _read(where, name, text)
        elif name in known:
            parameters[name] = text
        else:
            raise ConfigError(where, "there is no such option", _nearest(name, known, reader))
    if url.hosts:
        parameters["host"] = ",".join(unquote(host) for host, _ in url.hosts)
        if any(port is not None for _, port in url.hosts):
            parameters["port"] = ",".join(str(port or 5432) for _, port in url.hosts)
    named = {"user": url.username, "password": url.password, "dbname": url.path.removeprefix("/")}
    return {**parameters, **{name: value for name, value in named.items() if value}}, arguments


def seconds(reader: Reader, name: str, value: float, most: float) -> float:
    """A setting that is a number of seconds. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(
            f"{reader.made}({name}=)", f"{value!r} is not a number of seconds over 0 and up to {most:,.0f}"
        )
    return float(value)


def checked_schema(reader: Reader, schema: str | None) -> str | None:
    """It, if a schema can have this name. Raises ConfigError."""
    if schema is not None and (not schema or "\0" in schema or len(schema.encode()) > 63):
        raise ConfigError(f"{reader.made}(schema=)", f"{schema!r} is not the name of a schema")
    return schema


def _read(where: str, name: str, text: str) -> float | int | str:
    if name == "schema":
        return text
    if name == "pool":
        if not text.isdecimal():
            raise ConfigError(where, f"{text!r} is not a number of connections")
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise ConfigError(where, f"{text!r} is not a number") from None


def _nearest(name: str, known: Iterable[str], reader: Reader) -> str:
    close = get_close_matches(name, (*reader.options, *known), n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    own = ", ".join(sorted(reader.options))
    return f"{hint}The {reader.what}'s own are {own}; libpq's, such as sslmode, are passed on."
