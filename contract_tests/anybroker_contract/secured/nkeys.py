"""NATS's keys (NKeys), and the documents that they sign (JWT): for a server in operator mode."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["ACCOUNT", "OPERATOR", "USER", "NKey", "credentials", "sign_account", "sign_operator", "sign_user"]

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
_SEED = 18 << 3
_NO_LIMIT = -1


class NKey:
    """A new key for an operator, an account or a user."""

    def __init__(self, kind: int) -> None:
        raw = secrets.token_bytes(32)
        self._private = Ed25519PrivateKey.from_private_bytes(raw)
        public = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = _text(bytes([kind]) + public)
        self.seed = _text(bytes([_SEED | kind >> 5, (kind & 31) << 3]) + raw)

    def sign(self, subject: str, name: str, nats: dict[str, Any], expires: float | None = None) -> str:
        """A JWT of this key about another one."""
        claims: dict[str, Any] = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": name,
            "nats": {**nats, "version": 2},
        }
        if expires is not None:
            claims["exp"] = int(expires)
        text = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
        signature = base64.urlsafe_b64encode(self._private.sign(text.encode())).rstrip(b"=").decode()
        return f"{text}.{signature}"


def sign_operator(operator: NKey, system: NKey) -> str:
    """The operator about itself, and which account is the server's own."""
    return operator.sign(operator.public, "operator", {"type": "operator", "system_account": system.public})


def sign_account(operator: NKey, account: NKey, *, jetstream: bool) -> str:
    """An account without limits."""
    names = ["subs", "data", "payload", "imports", "exports", "conn", "leaf"]
    if jetstream:
        names += ["mem_storage", "disk_storage", "streams", "consumer"]
    limits = {**dict.fromkeys(names, _NO_LIMIT), "wildcards": True}
    claims = {"type": "account", "limits": limits, "default_permissions": {"pub": {}, "sub": {}}}
    return operator.sign(account.public, "account", claims)


def sign_user(account: NKey, user: NKey, *, expires: float | None = None) -> str:
    """A user of the account, who may do everything; until a moment, in seconds since the epoch."""
    unlimited = dict.fromkeys(("subs", "data", "payload"), _NO_LIMIT)
    return account.sign(user.public, "user", {"type": "user", "pub": {}, "sub": {}, **unlimited}, expires)


def credentials(jwt: str, seed: str) -> str:
    """The text of a ``.creds`` file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def _text(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).rstrip(b"=").decode()
