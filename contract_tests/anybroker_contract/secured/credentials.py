"""Users and passwords of one run, and URLs with them."""

from __future__ import annotations

import secrets
from urllib.parse import quote, urlencode

__all__ = ["USER", "Password", "url"]

USER = "anybroker"


class Password:
    """Random, with characters that a URL has to encode around a part that it does not: :attr:`core`."""

    def __init__(self) -> None:
        self.core = f"s3cret-{secrets.token_hex(12)}"
        self.text = f"@/:%{self.core}?#+"


def url(scheme: str, server: str, /, *login: str, **options: object) -> str:
    """``scheme://user:password@server?options``, encoded; ``login`` is nothing, or user and password."""
    who = "".join((":".join(quote(part, safe="") for part in login), "@")) if login else ""
    query = urlencode({name: str(value) for name, value in options.items()})
    return f"{scheme}://{who}{server}{'?' if query else ''}{query}"
