"""TLS settings, against real handshakes on loopback."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key

from anybroker.adapter import BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import TlsSettings, tls_failure, tls_refusal

PLAIN, SECURE = BrokerUrl("acme", (("host", 1),)), BrokerUrl("acmes", (("host", 1),))
PASSWORD = "key-password-5521"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> dict[str, Path]:
    """The authority, another one, a client's certificate with its key in the same and in another file, and rubbish."""
    folder = tmp_path_factory.mktemp("certificates")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "other", "both", "cert", "key", "locked", "rubbish")}
    authority.cert_pem.write_to_path(paths["ca"])
    trustme.CA().cert_pem.write_to_path(paths["other"])
    client = authority.issue_cert("client")
    client.private_key_and_cert_chain_pem.write_to_path(paths["both"])
    client.cert_chain_pems[0].write_to_path(paths["cert"])
    client.private_key_pem.write_to_path(paths["key"])
    key = load_key(client.private_key_pem.bytes(), None)
    paths["locked"].write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(PASSWORD.encode()))
    )
    paths["rubbish"].write_text("no PEM\n")
    return paths


def settings(**options: Any) -> TlsSettings:
    return TlsSettings.model_validate({name: str(value) for name, value in options.items()})


def test_no_tls_is_no_context() -> None:
    assert settings().tls_context(PLAIN, "acmes") is None


def test_the_server_is_verified() -> None:
    context = settings().tls_context(SECURE, "acmes")
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    context = settings(tls_check_hostname="false").tls_context(SECURE, "acmes")
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"tls_ca_file": "missing"}, "tls_ca_file"),
        ({"tls_ca_file": "rubbish"}, "tls_ca_file"),
        ({"tls_ca_file": "key"}, "tls_ca_file"),
        ({"tls_ca_file": "."}, "tls_ca_file"),
        ({"tls_ca_file": "nul"}, "tls_ca_file"),
        ({"tls_cert_file": "missing"}, "tls_cert_file, tls_key_file"),
        ({"tls_cert_file": "rubbish"}, "tls_cert_file, tls_key_file"),
        ({"tls_cert_file": "cert"}, "tls_cert_file, tls_key_file"),
        ({"tls_cert_file": "cert", "tls_key_file": "missing"}, "tls_cert_file, tls_key_file"),
        ({"tls_cert_file": "ca", "tls_key_file": "key"}, "tls_cert_file, tls_key_file"),
        ({"tls_cert_file": "cert", "tls_key_file": "locked"}, "tls_cert_file, tls_key_file"),
        (
            {"tls_cert_file": "cert", "tls_key_file": "locked", "tls_key_password": "wrong-5521"},
            "tls_cert_file, tls_key_file",
        ),
        (
            {"tls_cert_file": "cert", "tls_key_file": "locked", "tls_key_password": "wrong-5521" * 200},
            "tls_cert_file, tls_key_file",
        ),
        ({"tls_key_file": "key"}, "tls_key_file"),
        ({"tls_key_password": "wrong-5521"}, "tls_key_password"),
    ],
)
def test_files_that_do_not_fit_are_named(files: dict[str, Path], options: dict[str, str], setting: str) -> None:
    given = {name: files.get(value, value) for name, value in options.items()}
    if given.get("tls_ca_file") == "nul":
        given["tls_ca_file"] = "a\0b"
    with pytest.raises(ConfigError) as caught:
        settings(**given).tls_context(SECURE, "acmes")
    assert caught.value.setting == setting
    assert caught.value.remedy
    assert "wrong-5521" not in str(caught.value)


@pytest.mark.parametrize("name", list(TlsSettings.model_fields))
def test_settings_of_tls_without_tls_are_refused(name: str) -> None:
    value = "false" if name == "tls_check_hostname" else "/somewhere"
    with pytest.raises(ConfigError, match="acmes://") as caught:
        settings(**{name: value}).tls_context(PLAIN, "acmes")
    assert caught.value.setting == name


def test_a_locked_key_is_opened(files: dict[str, Path]) -> None:
    given = settings(
        tls_ca_file=files["ca"],
        tls_cert_file=files["cert"],
        tls_key_file=files["locked"],
        tls_key_password=PASSWORD,
    )
    assert given.tls_context(SECURE, "acmes") is not None
    assert PASSWORD not in repr(given)


# ------------------------------------------------------------------------------------------------- handshakes


def handshake(
    given: TlsSettings, certificate: trustme.LeafCert | None, *, clients: trustme.CA | None = None
) -> BaseException | None:
    """What the client is told when it connects to a server with this certificate (None: without TLS), and reads."""
    context = given.tls_context(SECURE, "acmes")
    serving = None
    if certificate is not None:
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(serving)
        if clients is not None:
            serving.verify_mode = ssl.CERT_REQUIRED
            clients.configure_trust(serving)

    assert context is not None
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        answered = pool.submit(_answer, listener, serving)
        result: BaseException | None = None
        with socket.create_connection(listener.getsockname(), timeout=20) as connection:
            try:
                with context.wrap_socket(connection, server_hostname="127.0.0.1") as secured:
                    assert secured.recv(1) == b"h"
            except OSError as exc:
                result = exc
        answered.result(20)
    return result


def _answer(listener: socket.socket, context: ssl.SSLContext | None, hello: bytes = b"hello, no TLS\r\n") -> None:
    """One connection: blocking, since asyncio's servers end a refused handshake without telling the client why."""
    connection, _ = listener.accept()
    connection.settimeout(20)
    with connection:
        try:
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                connection.sendall(hello)
                connection.recv(1)  # until the client has gone
        except OSError:
            connection.close()  # the client's test looks at its own side of it


def failed(exc: BaseException | None) -> ConfigError:
    assert exc is not None
    error = tls_failure(exc, "host:1")
    assert error is not None
    assert error.__cause__ is exc
    assert error.remedy
    assert "host:1" in error.problem
    return error


def test_a_good_certificate_connects(files: dict[str, Path], authority: trustme.CA) -> None:
    assert handshake(settings(tls_ca_file=files["ca"]), authority.issue_cert("127.0.0.1")) is None


def test_an_unknown_authority(files: dict[str, Path], authority: trustme.CA) -> None:
    error = failed(handshake(settings(tls_ca_file=files["other"]), authority.issue_cert("127.0.0.1")))
    assert error.setting == "tls_ca_file"


@pytest.mark.parametrize("name", ["elsewhere.test", "127.0.0.2"])
def test_another_host(files: dict[str, Path], authority: trustme.CA, name: str) -> None:
    error = failed(handshake(settings(tls_ca_file=files["ca"]), authority.issue_cert(name)))
    assert error.setting == "url"
    assert "another host" in error.problem
    unchecked = settings(tls_ca_file=files["ca"], tls_check_hostname="false")
    assert handshake(unchecked, authority.issue_cert(name)) is None


def test_an_expired_certificate(files: dict[str, Path], authority: trustme.CA) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    error = failed(handshake(settings(tls_ca_file=files["ca"]), authority.issue_cert("127.0.0.1", not_after=yesterday)))
    assert error.setting == "url"
    assert "not valid now" in error.problem


def test_a_server_without_tls(files: dict[str, Path]) -> None:
    error = failed(handshake(settings(tls_ca_file=files["ca"]), None))
    assert error.setting == "url"
    assert "TLS" in error.problem


def test_a_client_certificate_is_presented_and_a_missing_one_is_named(
    files: dict[str, Path], authority: trustme.CA
) -> None:
    server = authority.issue_cert("127.0.0.1")
    with_one = settings(tls_ca_file=files["ca"], tls_cert_file=files["both"])
    assert handshake(with_one, server, clients=authority) is None
    error = failed(handshake(settings(tls_ca_file=files["ca"]), server, clients=authority))
    assert error.setting == "tls_cert_file"
    error = failed(handshake(with_one, server, clients=trustme.CA()))
    assert error.setting == "tls_cert_file"


def test_the_reason_is_found_behind_what_a_client_makes_of_it() -> None:
    inner = ssl.SSLCertVerificationError("self-signed")
    outer = ConnectionError("the client's own words")
    outer.__context__ = inner
    assert failed(outer).setting == "tls_ca_file"
    outer.__cause__, outer.__context__ = inner, None
    assert tls_failure(outer, "host:1") is not None
    outer.__cause__, outer.__context__, outer.__suppress_context__ = None, inner, True
    assert tls_failure(outer, "host:1") is None


class CertificateError(ValueError):
    """As urllib3's: not one of ssl's."""


def test_a_client_that_compares_the_names_itself() -> None:
    error = failed(CertificateError("hostname '127.0.0.1' doesn't match 'localhost'"))
    assert error.setting == "url"
    assert "another host" in error.problem


def test_other_failures_are_none_of_its_business() -> None:
    assert tls_failure(ConnectionRefusedError("no"), "host:1") is None
    assert tls_failure(ssl.SSLError(1, "something else"), "host:1") is None


# ------------------------------------------------------------------------------------- refused after the handshake


def refusal(given: TlsSettings, certificate: trustme.LeafCert, clients: trustme.CA) -> ConfigError | None:
    """What :func:`tls_refusal` says of a server that asks for a client certificate of this authority."""
    context = given.tls_context(SECURE, "acmes")
    assert context is not None
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(serving)
    serving.verify_mode = ssl.CERT_REQUIRED
    clients.configure_trust(serving)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        answered = pool.submit(_answer, listener, serving, b"")
        said = asyncio.run(tls_refusal("127.0.0.1", listener.getsockname()[1], context, 0.5))
        answered.result(20)
    return said


def test_the_reason_of_a_server_that_ends_the_connection_is_asked_for(
    files: dict[str, Path], authority: trustme.CA
) -> None:
    server = authority.issue_cert("127.0.0.1")
    refused = refusal(settings(tls_ca_file=files["ca"]), server, authority)
    assert refused is not None
    assert refused.setting == "tls_cert_file"
    assert isinstance(refused.__cause__, ssl.SSLError)
    untrusted = refusal(settings(tls_ca_file=files["other"]), server, authority)
    assert untrusted is not None
    assert untrusted.setting == "tls_ca_file"


def test_a_server_that_waits_for_us_has_refused_nothing(files: dict[str, Path], authority: trustme.CA) -> None:
    welcome = settings(tls_ca_file=files["ca"], tls_cert_file=files["both"])
    assert refusal(welcome, authority.issue_cert("127.0.0.1"), authority) is None


def test_no_server_is_no_refusal() -> None:
    context = settings().tls_context(SECURE, "acmes")
    assert context is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert asyncio.run(tls_refusal("127.0.0.1", port, context)) is None


def test_an_address_shows_neither_password_nor_options() -> None:
    address = BrokerUrl("acmes", (("host", 1),), "me", PASSWORD, "/", {"tls_key_password": PASSWORD})
    assert PASSWORD not in f"{address!r} {address}"
    assert "me" in str(address)
