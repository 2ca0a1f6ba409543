"""Who we are, as nats-py is told; looked at first, because it never ends to read a malformed file."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError

__all__ = ["credentials"]

_find_jwt: Final = re.compile(rb"BEGIN NATS USER JWT[^\n]*\n[^\n]+\n").search
_find_seed: Final = re.compile(rb"BEGIN USER NKEY SEED[^\n]*\n([^\n]+)\n").search


def credentials(
    url: BrokerUrl,
    token: SecretStr | None,
    nkey_seed: SecretStr | None,
    nkey_seed_file: Path | None,
    credentials_file: Path | None,
) -> tuple[str, dict[str, Any]]:
    """The name of the setting that says who we are, and the arguments of ``Client.connect``; one way at most.

    Raises ConfigError that names the setting, and shows no secret.
    """
    if url.username is not None and url.password is None:
        raise ConfigError("url", "has a user and no password", "Write user:password@host; a token goes into 'token'.")
    given: dict[str, dict[str, Any]] = {}
    if url.username is not None:
        given["url"] = {"user": url.username, "password": url.password}
    if token is not None:
        given["token"] = {"token": token.get_secret_value()}
    if nkey_seed is not None:
        _check_seed("nkey_seed", nkey_seed.get_secret_value().encode())
        given["nkey_seed"] = {"nkeys_seed_str": nkey_seed.get_secret_value()}
    if nkey_seed_file is not None:
        _check_seed("nkey_seed_file", _read("nkey_seed_file", nkey_seed_file))
        given["nkey_seed_file"] = {"nkeys_seed": str(nkey_seed_file)}
    if credentials_file is not None:
        text = _read("credentials_file", credentials_file)
        seed = _find_seed(text)
        if seed is None or _find_jwt(text) is None:
            raise ConfigError(
                "credentials_file", f"{credentials_file} has no JWT and seed of a user", "Name a .creds file of nsc."
            )
        _check_seed("credentials_file", seed[1])
        given["credentials_file"] = {"user_credentials": str(credentials_file)}
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
        nkeys.from_seed(bytearray(seed.strip())).public_key  # noqa: B018 - raises for a seed that is none
    except (nkeys.NkeysError, ValueError, TypeError, IndexError) as exc:
        raise ConfigError(setting, "is no seed of an NKey", "Give the one that begins with SU.") from exc
