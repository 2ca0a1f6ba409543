"""What nats-py is told to connect with: servers, credentials, TLS."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError

from .settings import NatsSettings

__all__ = ["connection_options"]

_PORT: Final = 4222

_find_jwt: Final = re.compile(rb"BEGIN NATS USER JWT[^\n]*\n[^\n]+\n").search
_find_seed: Final = re.compile(rb"BEGIN USER NKEY SEED[^\n]*\n([^\n]+)\n").search


def connection_options(url: BrokerUrl, settings: NatsSettings) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
    """The servers, arguments of ``Client.connect``, and the setting by which we authenticate.

    Raises a ConfigError that names the setting and shows no secret.
    """
    login, options = _credentials(url, settings)
    if not url.hosts:
        raise ConfigError("url", f"{url} names no server", f"Write {url.scheme}://host:4222,host2:4222.")
    if url.path.strip("/"):
        raise ConfigError("url", f"{url} has the path {url.path!r}, and NATS has no paths", "Leave it out.")
    tls = settings.tls_context(url, "natss")
    if tls is not None:
        options["tls"] = tls
    return [(host, port or _PORT) for host, port in url.hosts], options, login


def _credentials(url: BrokerUrl, settings: NatsSettings) -> tuple[str, dict[str, Any]]:
    """The setting by which we authenticate, and what nats-py is told of it; at most one way.

    Files are checked first, because nats-py never stops reading a malformed one."""
    if url.username is not None and url.password is None:
        raise ConfigError("url", "has a user and no password", "Write user:password@host; a token goes into 'token'.")
    given: dict[str, dict[str, Any]] = {}
    if url.username is not None:
        given["url"] = {"user": url.username, "password": url.password}
    if settings.token is not None:
        given["token"] = {"token": settings.token.get_secret_value()}
    if settings.nkey_seed is not None:
        text = settings.nkey_seed.get_secret_value()
        _check_seed("nkey_seed", text.encode())
        given["nkey_seed"] = {"nkeys_seed_str": text}
    if (path := settings.nkey_seed_file) is not None:
        _check_seed("nkey_seed_file", _read("nkey_seed_file", path))
        given["nkey_seed_file"] = {"nkeys_seed": str(path)}
    if (path := settings.credentials_file) is not None:
        content = _read("credentials_file", path)
        seed = _find_seed(content)
        if seed is None or _find_jwt(content) is None:
            raise ConfigError(
                "credentials_file",
                f"{path} does not have the JWT and the seed of a user",
                "Name a .creds file made by nsc.",
            )
        _check_seed("credentials_file", seed[1])
        given["credentials_file"] = {"user_credentials": str(path)}
    if len(given) > 1:
        raise ConfigError(", ".join(given), "are several ways to authenticate", "Use one.")
    return next(iter(given.items()), ("url", {}))


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(setting, f"{path} cannot be read: {exc}", "Name a file that can.") from exc


def _check_seed(setting: str, seed: bytes) -> None:
    try:
        nkeys: Any = import_module("nkeys")
    except ImportError as exc:
        raise ConfigError(setting, "needs the package nkeys", "pip install 'anybroker[nats]'") from exc
    try:
        nkeys.from_seed(bytearray(seed.strip())).public_key  # noqa: B018 - raises for what is not a seed
    except (nkeys.NkeysError, ValueError, TypeError, IndexError) as exc:
        raise ConfigError(setting, "is not the seed of an NKey", "Give the one that begins with SU.") from exc
