"""Kafka with SCRAM and PLAIN over TLS, with client certificates, and with a certificate that has expired."""

from __future__ import annotations

from pathlib import Path

from ..brokers import kafka
from ..brokers.context import Context
from ..brokers.native import Plan
from ..brokers.ports import free_port
from .api import Refused, Secured
from .certificates import HOST, OTHER_HOST, Certificates, Pair
from .credentials import USER, Password, url
from .native import launch

__all__ = ["start"]

MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")
PLAIN_USER = "plain"


def start(folder: Path) -> Secured:
    """Start it; certificates go into ``folder``."""
    certificates = Certificates(folder)
    right, wrong, plain = Password(), Password(), Password()
    passwords, mutual, expired = free_port(), free_port(), free_port()

    def planned(context: Context, java: str, jars: Path, place: Path) -> Plan:
        listeners = {"PASSWORDS": passwords, "MUTUAL": mutual, "EXPIRED": expired}
        named = {name: f"{name}://{HOST}:{port}" for name, port in listeners.items()}
        bound = {name: f"{name}://127.0.0.1:{port}" for name, port in listeners.items()}
        protocols = {"PASSWORDS": "SASL_SSL", "MUTUAL": "SSL", "EXPIRED": "SSL"}
        more = {
            "listeners": ",".join(bound.values()),
            "advertised.listeners": ",".join(named.values()),
            "listener.security.protocol.map": ",".join(f"{name}:{value}" for name, value in protocols.items()),
            **_certificate("PASSWORDS", certificates.server),
            **_certificate("MUTUAL", certificates.server),
            **_certificate("EXPIRED", certificates.expired),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.truststore.location": str(certificates.authority),
            "sasl.enabled.mechanisms": ",".join((*MECHANISMS, "PLAIN")),
            "listener.name.passwords.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{PLAIN_USER}="{plain.text}";'
            ),
            **{
                f"listener.name.passwords.{mechanism.lower()}.sasl.jaas.config": (
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                )
                for mechanism in MECHANISMS
            },
        }
        users = [f"{mechanism}=[name={USER},password={right.text}]" for mechanism in MECHANISMS]
        formatting = [argument for user in users for argument in ("--add-scram", user)]
        return kafka.plan(context, java, jars, place, more, formatting)

    broker = launch("kafka", lambda context: kafka.find(context, planned))
    here, elsewhere = f"{HOST}:{passwords}", f"{OTHER_HOST}:{passwords}"
    trusting = {"tls_ca_file": certificates.authority}
    scram = {"sasl_mechanism": MECHANISMS[0], **trusting}
    client = {"tls_cert_file": certificates.client.cert, "tls_key_file": certificates.client.key}
    foreign = certificates.foreign_client
    return Secured(
        good={
            MECHANISMS[0]: url("kafkas", here, USER, right.text, **scram),
            MECHANISMS[1]: url("kafkas", here, USER, right.text, sasl_mechanism=MECHANISMS[1], **trusting),
            "PLAIN": url("kafkas", here, PLAIN_USER, plain.text, **trusting),
            "client certificate": url("kafkas", f"{HOST}:{mutual}", **client, **trusting),
            "another host name, unchecked": url(
                "kafkas", elsewhere, USER, right.text, tls_check_hostname=False, **scram
            ),
        },
        wrong={
            "password": Refused(url("kafkas", here, USER, wrong.text, **scram), "url"),
            "password, PLAIN": Refused(url("kafkas", here, PLAIN_USER, wrong.text, **trusting), "url"),
            "user": Refused(url("kafkas", here, "nobody", right.text, **scram), "url"),
            "no password": Refused(url("kafkas", here, **trusting), "url"),
            "authority": Refused(
                url("kafkas", here, USER, right.text, sasl_mechanism=MECHANISMS[0], tls_ca_file=certificates.stranger),
                "tls_ca_file",
            ),
            "no authority": Refused(url("kafkas", here, USER, right.text, sasl_mechanism=MECHANISMS[0]), "tls_ca_file"),
            "host name": Refused(url("kafkas", elsewhere, USER, right.text, **scram), "url"),
            "expired": Refused(url("kafkas", f"{HOST}:{expired}", **trusting), "url"),
            "client certificate": Refused(
                url("kafkas", f"{HOST}:{mutual}", tls_cert_file=foreign.cert, tls_key_file=foreign.key, **trusting),
                "tls_cert_file",
            ),
            "no client certificate": Refused(url("kafkas", f"{HOST}:{mutual}", **trusting), "tls_cert_file"),
        },
        without_tls=url("kafka", here, USER, right.text, sasl_mechanism=MECHANISMS[0]),
        secrets=(right.core, wrong.core, plain.core),
        stop=broker.stop,
    )


def _certificate(listener: str, pair: Pair) -> dict[str, str]:
    prefix = f"listener.name.{listener.lower()}.ssl.keystore"
    return {f"{prefix}.type": "PEM", f"{prefix}.location": str(pair.both)}
