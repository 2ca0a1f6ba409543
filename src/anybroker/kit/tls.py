"""TLS for adapters: one set of settings, one ``ssl.SSLContext``, one way to say what went wrong.

An adapter whose broker speaks TLS derives its ``Settings`` from :class:`TlsSettings`, calls
:meth:`TlsSettings.tls_context` when it is made, and passes what its client raises while connecting to
:func:`tls_failure`. If that was only a lost connection, :func:`tls_refusal` connects again to find out why.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import Field, SecretStr

from ..adapter import SECURITY, AdapterSettings, BrokerUrl
from ..errors import ConfigError, origin_of
from .wording import said

__all__ = ["TlsSettings", "tls_failure", "tls_refusal"]


class TlsSettings(AdapterSettings):
    """Settings of an adapter whose broker can be reached over TLS."""

    tls_ca_file: Path | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="PEM file of the authorities to trust; none: the system's.",
    )
    tls_cert_file: Path | None = Field(
        default=None, json_schema_extra=SECURITY, description="PEM file of the client's certificate."
    )
    tls_key_file: Path | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="PEM file of the client's key; none: it is in tls_cert_file.",
    )
    tls_key_password: SecretStr | None = Field(
        default=None, json_schema_extra=SECURITY, description="Password of the client's key."
    )
    tls_check_hostname: bool = Field(
        default=True, json_schema_extra=SECURITY, description="Whether the server's certificate must name its host."
    )

    def tls_context(self, url: BrokerUrl, secure_scheme: str) -> ssl.SSLContext | None:
        """The context for the client to connect with; None if the URL's scheme is not ``secure_scheme``, the one with
        TLS.

        The server's certificate is always verified. Reads the files, so call it when the adapter is made. Raises a
        ConfigError that names the setting, for a file that cannot be read or does not fit the others, and for a TLS
        setting when the URL has no TLS."""
        if url.scheme != secure_scheme:
            given = [name for name in TlsSettings.model_fields if name in self.model_fields_set]
            if given:
                raise ConfigError(
                    ", ".join(given),
                    f"is for TLS, and the URL {url} does not use TLS",
                    f"Write {secure_scheme}://, or leave it out.",
                )
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca_file)
        except (OSError, ValueError) as exc:
            raise ConfigError(
                "tls_ca_file", f"{self.tls_ca_file} cannot be used: {said(exc)}", "Name a PEM file of certificates."
            ) from exc
        context.check_hostname = self.tls_check_hostname
        self._present_client(context)
        return context

    def _present_client(self, context: ssl.SSLContext) -> None:
        if self.tls_cert_file is None:
            alone = {"tls_key_file": self.tls_key_file, "tls_key_password": self.tls_key_password}
            given = [name for name, value in alone.items() if value is not None]
            if given:
                raise ConfigError(", ".join(given), "is set without tls_cert_file", "Name the certificate too.")
            return
        # Never None: OpenSSL would ask for the password of an encrypted key at the terminal, and wait.
        password = "" if self.tls_key_password is None else self.tls_key_password.get_secret_value()
        try:
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file, password)
        except (OSError, ValueError) as exc:
            key = "" if self.tls_key_file is None else f" and {self.tls_key_file}"
            raise ConfigError(
                "tls_cert_file, tls_key_file",
                f"{self.tls_cert_file}{key} cannot be used: {said(exc)}",
                "Name PEM files that can be read and belong together, and tls_key_password if the key has one.",
            ) from exc


_MISMATCH = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
_EXPIRED = {9, 10}  # X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}
_CLIENT_REFUSED = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "TLSV1_ALERT_ACCESS_DENIED",
    "TLSV1_ALERT_UNKNOWN_CA",
}


def tls_failure(exc: BaseException, where: str) -> ConfigError | None:
    """The ConfigError, if ``exc`` or an exception in its chain says that a person must fix TLS to ``where``
    (``host:port``); else None. Its ``__cause__`` is ``exc``."""
    for link in _chain(exc):
        error = _verification(link, where) or _handshake(link, where)
        if error is not None:
            error.__cause__ = exc
            return error
    return None


async def tls_refusal(host: str, port: int, context: ssl.SSLContext, seconds: float = 1.0) -> ConfigError | None:
    """Why a server closes the connection right after the TLS handshake; None if it does not within ``seconds``.

    For an adapter whose connection was closed without a reason. Under TLS 1.3 a server refuses the client's certificate
    only after the handshake, and its reason is lost if the client has already sent something. This function sends
    nothing. Cancellation closes the connection."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError) as exc:
        return tls_failure(exc, f"{host}:{port}")
    return None


def _verification(exc: BaseException, where: str) -> ConfigError | None:
    if isinstance(exc, ssl.SSLCertVerificationError):
        code, said = getattr(exc, "verify_code", 0), getattr(exc, "verify_message", "") or str(exc)
    elif isinstance(exc, ValueError) and type(exc).__name__ == "CertificateError":
        code, said = 62, str(exc)  # from urllib3, which compares the names itself
    else:
        return None
    said = said.rstrip(". ")
    if code in _MISMATCH:
        return ConfigError(
            "url",
            f"the certificate of {where} is for another host: {said}",
            "Use the host name that the certificate is for, or get a certificate for this name.",
        )
    if code in _EXPIRED:
        return ConfigError(
            "url", f"the certificate of {where} is not valid now: {said}", "Renew it on the server, or set the clock."
        )
    return ConfigError(
        "tls_ca_file",
        f"the certificate of {where} is not trusted: {said}",
        "Name the PEM file of the authority that signed it.",
    )


def _handshake(exc: BaseException, where: str) -> ConfigError | None:
    reason = getattr(exc, "reason", None) if isinstance(exc, ssl.SSLError) else None
    if reason in _NO_TLS:
        return ConfigError(
            "url", f"{where} does not answer in TLS ({reason})", "Check the port, or use the scheme without TLS."
        )
    if reason in _CLIENT_REFUSED:
        return ConfigError(
            "tls_cert_file",
            f"{where} refused the client's certificate, or requires one ({reason})",
            "Name a certificate that is valid now, from an authority that the server trusts.",
        )
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = origin_of(link)
