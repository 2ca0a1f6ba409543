"""One connection before all others, for its error: aiokafka's start says only that it failed, whatever the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from anybroker.adapter import BrokerUrl
from anybroker.errors import AnybrokerError, ConfigError, Unavailable
from anybroker.kit.tls import tls_failure, tls_refusal

from .discovery import ask
from .failures import CLIENT_ERRORS, failure, said

__all__ = ["knock"]


async def knock(url: BrokerUrl, servers: Sequence[tuple[str, int]], options: dict[str, Any], timeout: float) -> None:
    """Return as soon as one of the servers has answered us; ``options`` are aiokafka's. ConfigError where one says what
    only a person can mend, else Unavailable."""
    options = {**options, "request_timeout_ms": int(timeout * 1000)}
    del options["bootstrap_servers"]
    problems: list[str] = []
    last: BaseException | None = None
    for host, port in servers:
        try:
            await ask(host, port, options, MetadataRequest([]))  # a listener that wants a password refuses this
        except CLIENT_ERRORS as exc:
            error = await _why(exc, host, port, options)
            if isinstance(error, ConfigError):
                raise error from error.__cause__ or exc
            problems.append(f"{host}:{port}: {said(exc)}")
            last = exc
        else:
            return
    raise Unavailable(
        f"no Kafka broker answers at {url} ({'; '.join(problems)}). Check host and port, and whether it asks for TLS "
        "(kafkas://) or for user and password"
    ) from last


async def _why(exc: BaseException, host: str, port: int, options: dict[str, Any]) -> AnybrokerError:
    where = f"{host}:{port}"
    error = tls_failure(exc, where) or failure(exc, f"connecting to {where}")
    if not isinstance(error, Unavailable) or isinstance(exc, TimeoutError):
        return error
    # The connection was ended without a word.
    if "sasl_mechanism" not in options:
        with contextlib.suppress(*CLIENT_ERRORS):  # then that is not why
            answer = await ask(host, port, options, SaslHandShakeRequest("PLAIN"))
            if answer.enabled_mechanisms:
                return ConfigError(
                    "url",
                    f"Kafka at {where} asks for user and password ({', '.join(answer.enabled_mechanisms)})",
                    "Write them before the host (user:password@host), and sasl_mechanism unless it is PLAIN.",
                )
    if "ssl_context" in options:
        return await tls_refusal(host, port, options["ssl_context"]) or error
    return error
