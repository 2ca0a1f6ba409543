"""What the secured brokers are made of: certificates, URLs, a port that only shakes hands, NATS's signed documents."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from anybroker.config import parse_url
from anybroker_contract.secured import nkeys
from anybroker_contract.secured.certificates import HOST, Certificates, shakes_hands
from anybroker_contract.secured.credentials import Password, url
from anybroker_contract.secured.listener import Listener


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_urls_bring_back_what_went_in() -> None:
    password = Password()
    parsed = parse_url(url("kafkas", "localhost:9092", "me@home", password.text, tls_ca_file=Path("/a b&c"), wait=1))
    assert (parsed.username, parsed.password) == ("me@home", password.text)
    assert parsed.hosts == (("localhost", 9092),)
    assert parsed.options == {"tls_ca_file": "/a b&c", "wait": "1"}
    assert url("nats", "localhost") == "nats://localhost"


def test_a_password_is_found_in_a_url_too() -> None:
    password = Password()
    assert password.core in url("kafka", "h", "u", password.text)
    assert password.core in password.text
    assert password.core != Password().core


def test_files_are_readable_by_a_server_that_runs_as_another_user(certificates: Certificates) -> None:
    for path in (certificates.authority, certificates.server.cert, certificates.server.key, certificates.server.both):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert certificates.server.key.read_text().startswith("-----BEGIN PRIVATE KEY-----")


def test_readiness_is_an_answer_in_tls(certificates: Certificates) -> None:
    listener = Listener(certificates.server)
    shakes_hands(listener.port, certificates.authority)
    with pytest.raises(ssl.SSLError):
        shakes_hands(listener.port, certificates.stranger)
    listener.stop()
    with pytest.raises(ConnectionRefusedError):
        shakes_hands(listener.port, certificates.authority)


def handshake(port: int, authority: Path, name: str = HOST) -> None:
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname=name),
    ):
        pass


def test_each_certificate_is_wrong_in_one_thing_only(certificates: Certificates) -> None:
    for pair, authority, name, code in (
        (certificates.server, certificates.stranger, HOST, 20),
        (certificates.server, certificates.authority, "127.0.0.1", 64),
        (certificates.expired, certificates.authority, HOST, 10),
    ):
        listener = Listener(pair)
        try:
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                handshake(listener.port, authority, name)
        finally:
            listener.stop()
        assert caught.value.verify_code in (code, 19)


def test_a_listener_answers_until_it_is_stopped(certificates: Certificates) -> None:
    listener = Listener(certificates.server)
    handshake(listener.port, certificates.authority)
    handshake(listener.port, certificates.authority)
    listener.stop()
    with pytest.raises(ConnectionRefusedError):
        handshake(listener.port, certificates.authority)


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_signed_user_is_signed_by_its_account() -> None:
    account, user = nkeys.NKey(nkeys.ACCOUNT), nkeys.NKey(nkeys.USER)
    assert account.public.startswith("A")
    assert user.public.startswith("U")
    assert user.seed.startswith("SU")
    assert nkeys.NKey(nkeys.OPERATOR).public.startswith("O")
    jwt = nkeys.sign_user(account, user, expires=17.9)
    text, _, signature = jwt.rpartition(".")
    raw = base64.b32decode(account.public + "=" * (-len(account.public) % 8))
    Ed25519PublicKey.from_public_bytes(raw[1:33]).verify(decoded(signature), text.encode())
    claims = json.loads(decoded(text.partition(".")[2]))
    assert (claims["iss"], claims["sub"], claims["exp"]) == (account.public, user.public, 17)
    assert claims["nats"]["type"] == "user"
