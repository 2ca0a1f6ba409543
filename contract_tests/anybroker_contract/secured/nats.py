"""NATS over TLS: users and NKeys, a token, an operator's credentials, client certificates, an expired certificate.

A server each, since it takes one kind of authentication; each is up in a tenth of a second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..brokers import nats
from ..brokers.context import Context
from ..brokers.native import Plan
from ..brokers.ports import free_port
from ..brokers.tcp import connect, line
from ..brokers.waiting import NotYet
from .api import Refused, Secured
from .certificates import HOST, OTHER_HOST, Certificates, Pair
from .credentials import USER, Password, url
from .native import launch
from .nkeys import ACCOUNT, OPERATOR, NKey, credentials, sign_account, sign_operator, sign_user
from .nkeys import USER as NKEY_USER

__all__ = ["start"]


def start(folder: Path) -> Secured:
    """Start them; certificates and credentials go into ``folder``."""
    certificates = Certificates(folder)
    right, wrong, token = Password(), Password(), Password()
    user, stranger = NKey(NKEY_USER), NKey(NKEY_USER)
    signed = _Operator(folder)
    tls = _tls(certificates.server)
    mutual = _tls(certificates.server, f"ca_file: {json.dumps(str(certificates.authority))}", "verify: true")
    users = f"{{user: {json.dumps(USER)}, password: {json.dumps(right.text)}}}, {{nkey: {user.public}}}"
    kinds: dict[str, Sequence[str]] = {
        "users": (tls, f"authorization {{ users: [{users}] }}"),
        "token": (tls, f"authorization {{ token: {json.dumps(token.text)} }}"),
        "operator": (tls, *signed.config),
        "mutual": (mutual,),
        "expired": (_tls(certificates.expired),),
    }
    ports: dict[str, int] = {}
    with ExitStack() as stack:
        for kind, lines in kinds.items():
            ports[kind] = free_port()
            broker = launch("nats", _finder(ports[kind], lines))
            stack.callback(broker.stop)
        stop = stack.pop_all().close
    trusting = {"tls_ca_file": certificates.authority}

    def to(kind: str, *login: str, host: str = HOST, **options: object) -> str:
        return url("natss", f"{host}:{ports[kind]}", *login, **{**trusting, **options})

    seed_file = folder / "user.nk"
    seed_file.write_text(user.seed)
    rubbish = folder / "rubbish"
    rubbish.write_text(f"{wrong.core}\n")
    client, foreign = certificates.client, certificates.foreign_client
    return Secured(
        good={
            "password": to("users", USER, right.text),
            "NKey": to("users", nkey_seed=user.seed),
            "NKey in a file": to("users", nkey_seed_file=seed_file),
            "token": to("token", token=token.text),
            "credentials": to("operator", credentials_file=signed.good),
            "client certificate": to("mutual", tls_cert_file=client.cert, tls_key_file=client.key),
            "another host name, unchecked": to("users", USER, right.text, host=OTHER_HOST, tls_check_hostname=False),
        },
        wrong={
            "password": Refused(to("users", USER, wrong.text), "url"),
            "user": Refused(to("users", "nobody", right.text), "url"),
            "NKey": Refused(to("users", nkey_seed=stranger.seed), "nkey_seed"),
            "token": Refused(to("token", token=wrong.text), "token"),
            "credentials": Refused(to("operator", credentials_file=signed.foreign), "credentials_file"),
            "expired credentials": Refused(to("operator", credentials_file=signed.expired), "credentials_file"),
            "malformed NKey": Refused(to("users", nkey_seed=wrong.core), "nkey_seed"),
            "malformed NKey in a file": Refused(to("users", nkey_seed_file=rubbish), "nkey_seed_file"),
            "malformed credentials": Refused(to("operator", credentials_file=rubbish), "credentials_file"),
            "no credentials": Refused(to("users"), "url"),
            "authority": Refused(to("users", USER, right.text, tls_ca_file=certificates.stranger), "tls_ca_file"),
            "no authority": Refused(url("natss", f"{HOST}:{ports['users']}", USER, right.text), "tls_ca_file"),
            "host name": Refused(to("users", USER, right.text, host=OTHER_HOST), "url"),
            "expired": Refused(to("expired"), "url"),
            "client certificate": Refused(
                to("mutual", tls_cert_file=foreign.cert, tls_key_file=foreign.key), "tls_cert_file"
            ),
            "no client certificate": Refused(to("mutual"), "tls_cert_file"),
        },
        without_tls=url("nats", f"{HOST}:{ports['users']}", USER, right.text),
        secrets=(right.core, wrong.core, token.core, user.seed, stranger.seed, *signed.secrets),
        stop=stop,
    )


class _Operator:
    """Lines for a server that trusts what an operator has signed, and files of three users: one that it knows, one of
    an unknown account, and one that has expired."""

    def __init__(self, folder: Path) -> None:
        operator, system, account, foreign = NKey(OPERATOR), NKey(ACCOUNT), NKey(ACCOUNT), NKey(ACCOUNT)
        user = NKey(NKEY_USER)
        self.secrets = (user.seed,)
        known = {
            system.public: sign_account(operator, system, jetstream=False),
            account.public: sign_account(operator, account, jetstream=True),
        }
        self.config = (
            f"operator: {sign_operator(operator, system)}",
            f"system_account: {system.public}",
            "resolver: MEMORY",
            f"resolver_preload: {{ {', '.join(f'{key}: {jwt}' for key, jwt in known.items())} }}",
        )
        self.good = self._file(folder / "user.creds", sign_user(account, user), user)
        self.foreign = self._file(folder / "foreign.creds", sign_user(foreign, user), user)
        over = sign_user(account, user, expires=time.time() - 3600)
        self.expired = self._file(folder / "expired.creds", over, user)

    @staticmethod
    def _file(path: Path, jwt: str, user: NKey) -> Path:
        path.write_text(credentials(jwt, user.seed))
        return path


def _tls(pair: Pair, *more: str) -> str:
    files = (f"cert_file: {json.dumps(str(pair.cert))}", f"key_file: {json.dumps(str(pair.key))}")
    return f"tls {{ {', '.join((*files, *more))} }}"


def _finder(port: int, lines: Sequence[str]) -> Callable[[Context], tuple[Callable[[Path], Plan], str]]:
    """For :func:`launch`: a server on this port, with these lines in its configuration."""

    def planned(context: Context, server: str, place: Path) -> Plan:
        return nats.plan(context, server, place, port, lines, ready=lambda: _greets(port))

    return lambda context: nats.find(context, planned)


def _greets(port: int) -> None:
    """One attempt: it says what it can do, before any TLS; that is after JetStream has started."""
    with connect("127.0.0.1", port) as connection:
        if not line(connection).startswith("INFO "):
            raise NotYet("it does not greet as NATS does")
