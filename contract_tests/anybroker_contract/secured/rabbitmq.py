"""RabbitMQ with passwords and with client certificates (EXTERNAL) over TLS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..brokers import rabbitmq
from ..brokers.context import Context
from ..brokers.native import Install, Plan
from ..brokers.ports import free_port
from .api import Refused, Secured
from .certificates import HOST, OTHER_HOST, Certificates, shakes_hands
from .credentials import USER, Password, url
from .listener import Listener
from .native import launch

__all__ = ["start"]

Find = Callable[[Context, rabbitmq.Planner], tuple[Install, str]]


def start(folder: Path, find: Find = rabbitmq.find) -> Secured:
    """Start it; certificates go into ``folder``. ``find``: which version."""
    certificates = Certificates(folder)
    right, wrong = Password(), Password()
    port = free_port()

    def planned(context: Context, root: Path, server: Path, place: Path) -> Plan:
        seen = rabbitmq.seen_from(root, place)
        (place / "definitions.json").write_text(json.dumps(_definitions({USER: right.text, "guest": "guest"})))
        for path in (certificates.authority, certificates.server.cert, certificates.server.key):
            shutil.copy(path, place)
        more = (
            f"listeners.ssl.1 = 127.0.0.1:{port}",
            f"ssl_options.cacertfile = {seen / certificates.authority.name}",
            f"ssl_options.certfile = {seen / certificates.server.cert.name}",
            f"ssl_options.keyfile = {seen / certificates.server.key.name}",
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = false",
            "auth_mechanisms.1 = PLAIN",
            "auth_mechanisms.2 = EXTERNAL",
            "ssl_cert_login_from = common_name",
            f"load_definitions = {seen / 'definitions.json'}",
        )
        plan = rabbitmq.plan(context, root, server, place, more, ["rabbitmq_auth_mechanism_ssl"])

        def ready() -> None:
            plan.ready()
            shakes_hands(port, certificates.authority)  # its listeners start one after the other

        return replace(plan, ready=ready)

    broker = launch("rabbitmq", lambda context: find(context, planned))
    expired = Listener(certificates.expired)

    def stop() -> None:
        expired.stop()
        broker.stop()

    here, elsewhere = f"{HOST}:{port}", f"{OTHER_HOST}:{port}"
    trusting = {"tls_ca_file": certificates.authority}
    client = {"tls_cert_file": certificates.client.cert, "tls_key_file": certificates.client.key}
    foreign = {"tls_cert_file": certificates.foreign_client.cert, "tls_key_file": certificates.foreign_client.key}
    return Secured(
        good={
            "password": url("amqps", here, USER, right.text, **trusting),
            "client certificate": url("amqps", here, auth="external", **client, **trusting),
            "another host name, unchecked": url(
                "amqps", elsewhere, USER, right.text, tls_check_hostname=False, **trusting
            ),
        },
        wrong={
            "password": Refused(url("amqps", here, USER, wrong.text, **trusting), "url"),
            "user": Refused(url("amqps", here, "nobody", right.text, **trusting), "url"),
            "virtual host": Refused(url("amqps", f"{here}/missing", USER, right.text, **trusting), "url"),
            "authority": Refused(
                url("amqps", here, USER, right.text, tls_ca_file=certificates.stranger), "tls_ca_file"
            ),
            "no authority": Refused(url("amqps", here, USER, right.text), "tls_ca_file"),
            "host name": Refused(url("amqps", elsewhere, USER, right.text, **trusting), "url"),
            "expired": Refused(url("amqps", f"{HOST}:{expired.port}", USER, right.text, **trusting), "url"),
            "client certificate": Refused(url("amqps", here, auth="external", **foreign, **trusting), "tls_cert_file"),
        },
        without_tls=url("amqp", here, USER, right.text),
        secrets=(right.core, wrong.core),
        stop=stop,
    )


def _definitions(users: dict[str, str]) -> dict[str, object]:
    """What RabbitMQ makes at its first start: these users, who may do everything."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "vhosts": [{"name": "/"}],
        "users": [{"name": name, "password": password, "tags": ""} for name, password in users.items()],
        "permissions": [{"user": name, "vhost": "/", **everything} for name in users],
    }
