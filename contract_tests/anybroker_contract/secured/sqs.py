"""SQS, SNS and STS over HTTPS, with signatures checked and permissions enforced: keys, a profile, a role, a session.

The emulator does both (``AUTH``, ``USE_SSL``); its root makes the user and the role, as a person would in AWS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..brokers import sqs
from ..brokers.context import Context
from ..brokers.native import Plan
from ..brokers.ports import free_port
from .api import Refused, Secured
from .certificates import HOST, OTHER_HOST, Certificates, shakes_hands
from .credentials import USER, Password, url
from .listener import Listener
from .native import launch

__all__ = ["start"]

KEYS = "access_key_id, secret_access_key"
ROLE, FORBIDDEN_ROLE = "worker", "somebody-else"
ROOT_ID = "AKIAANYBROKERROOT001"


def start(folder: Path) -> Secured:
    """Start it; certificates and the files of AWS's tools go into ``folder``."""
    certificates = Certificates(folder)
    root, wrong = Password().core, Password().core
    port = free_port()

    def planned(context: Context, python: Path, place: Path) -> Plan:
        plan = sqs.plan(context, python, place, port, HOST)
        secure = {
            "USE_SSL": "1",
            "MINISTACK_SSL_CERT": str(certificates.server.cert),
            "MINISTACK_SSL_KEY": str(certificates.server.key),
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": ROOT_ID,
            "AWS_SECRET_ACCESS_KEY": root,
            "SERVICES": f"{plan.env['SERVICES']},iam",
        }
        return replace(plan, env={**plan.env, **secure}, ready=lambda: shakes_hands(port, certificates.authority))

    with ExitStack() as stack:
        broker = launch("sqs", lambda context: sqs.find(context, planned))
        stack.callback(broker.stop)
        expired = Listener(certificates.expired)
        stack.callback(expired.stop)
        made = _make_user(f"https://{HOST}:{port}", certificates.authority, root)
        stop = stack.pop_all().close
    config = folder / "config"
    config.write_text(
        "".join(_profile(name, made.key, secret) for name, secret in (("good", made.secret), ("wrong", wrong)))
    )
    here = f"https://{HOST}:{port}"
    keys = {"access_key_id": made.key, "secret_access_key": made.secret}
    session = {
        "access_key_id": made.session["AccessKeyId"],
        "secret_access_key": made.session["SecretAccessKey"],
        "session_token": made.session["SessionToken"],
    }

    def to(endpoint: str = here, ca: Path | None = certificates.authority, /, **options: object) -> str:
        trusting = {} if ca is None else {"tls_ca_file": ca}
        short = {"wait": 1}  # a Bus that closes waits for the poll under way
        return url("sqs", sqs.REGION, endpoint_url=endpoint, **short, **trusting, **options)

    return Secured(
        good={
            "keys": to(**keys),
            "profile": to(profile="good"),
            "role": to(**keys, role_arn=made.role),
            "session": to(**session),
        },
        wrong={
            "password": Refused(to(**{**keys, "secret_access_key": wrong}), KEYS),
            "user": Refused(to(**{**keys, "access_key_id": "AKIAANYBROKERNOBODY1"}), KEYS),
            "session token": Refused(to(**{**session, "session_token": wrong}), KEYS),
            "no credentials": Refused(to(), KEYS),
            "profile": Refused(to(profile="missing"), "profile"),
            "password of the profile": Refused(to(profile="wrong"), "profile"),
            "role": Refused(to(**keys, role_arn=made.forbidden), "role_arn"),
            "authority": Refused(to(here, certificates.stranger, **keys), "tls_ca_file"),
            "no authority": Refused(to(here, None, **keys), "tls_ca_file"),
            "host name": Refused(to(f"https://{OTHER_HOST}:{port}", **keys), "url"),
            "expired": Refused(to(f"https://{HOST}:{expired.port}", **keys), "url"),
        },
        without_tls=to(f"http://{HOST}:{port}", None, **keys),
        secrets=(root, wrong, *map(_distinctive, (made.secret, *list(session.values())[1:]))),
        environment={
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",  # nothing is asked that is not on this machine
        },
        stop=stop,
    )


@dataclass(frozen=True)
class _Made:
    key: str
    secret: str
    role: str
    forbidden: str
    session: Mapping[str, str]


def _make_user(endpoint: str, authority: Path, root: str) -> _Made:
    """A user who may use queues and topics and assume a role; the role, which may too; a session in that role."""
    import boto3

    def client(service: Any, key: str, secret: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=endpoint,
            region_name=sqs.REGION,
            verify=str(authority),
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    iam = client("iam", ROOT_ID, root)
    iam.create_user(UserName=USER)
    work = _policy(Action=["sqs:*", "sns:*"], Resource="*")
    iam.put_user_policy(UserName=USER, PolicyName="work", PolicyDocument=work)
    account = client("sts", ROOT_ID, root).get_caller_identity()["Account"]
    assume = "sts:AssumeRole"
    trust = _policy(Action=assume, Principal={"AWS": f"arn:aws:iam::{account}:root"})
    role = iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=ROLE, PolicyName="work", PolicyDocument=work)
    nobody = _policy(Action=assume, Principal={"Service": "ec2.amazonaws.com"})
    forbidden = iam.create_role(RoleName=FORBIDDEN_ROLE, AssumeRolePolicyDocument=nobody)["Role"]["Arn"]
    iam.put_user_policy(UserName=USER, PolicyName="assume", PolicyDocument=_policy(Action=assume, Resource=role))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    sts = client("sts", key["AccessKeyId"], key["SecretAccessKey"])
    session = sts.assume_role(RoleArn=role, RoleSessionName="made")["Credentials"]
    return _Made(key["AccessKeyId"], key["SecretAccessKey"], role, forbidden, session)


def _policy(**statement: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


def _profile(name: str, key: str, secret: str) -> str:
    return f"[profile {name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


def _distinctive(secret: str) -> str:
    """Its longest part that a URL does not encode."""
    parts: list[str] = re.findall(r"[A-Za-z0-9]+", secret)
    return max(parts, key=len)
