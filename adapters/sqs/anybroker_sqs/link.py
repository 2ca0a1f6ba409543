"""boto3: one session, its clients, and the threads in which they run."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote_plus

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, DeferredRefreshableCredentials
from botocore.exceptions import ConfigParseError, NoCredentialsError, ProfileNotFound

from anybroker.adapter import AdapterContext, BrokerUrl
from anybroker.errors import ConfigError, Unavailable
from anybroker.kit.client_logs import quiet

from .failures import aws_errors
from .settings import SqsSettings

if TYPE_CHECKING:
    from mypy_boto3_sns import SNSClient
    from mypy_boto3_sqs import SQSClient

__all__ = ["Link"]

_R = TypeVar("_R")

_CONNECT_SECONDS = 3.0
_POLL_GRACE = 3.0
"""Seconds that a long poll may take beyond its wait, until its connection counts as dead."""
_MOST_CONNECTIONS = 256
_LOGGERS = tuple(f"botocore.{name}" for name in ("auth", "endpoint", "httpsession", "parsers", "hooks", "credentials"))
_CREDENTIALS = re.compile("x-amz-security-token|secretaccesskey|sessiontoken", re.IGNORECASE)


class Link:
    """Clients for settling and declaring, where boto3 retries, and for sending and polling, where it does not."""

    def __init__(self, url: BrokerUrl, settings: SqsSettings, context: AdapterContext) -> None:
        self._region = url.hosts[0][0] if url.hosts else None
        self._settings = settings
        self._context = context
        self.where = f"{url}" if settings.endpoint_url is None else f"{url} ({settings.endpoint_url})"
        """Region and endpoint, for errors."""
        self.pool = ThreadPoolExecutor(2 * settings.threads, "anybroker-sqs")  # half of them for what settles
        self.identity: tuple[str, str, str] = ("", "", "")
        """Partition, region and account: what ARNs begin with."""
        self._clients: list[Any] = []
        self._discreet = _Discreet()
        self.sqs: SQSClient
        """For settling and declaring: boto3 retries."""
        self.sns: SNSClient
        self.to_sqs: SQSClient
        """For publishing and, with ``polling``, receiving: boto3 does not retry."""
        self.to_sns: SNSClient
        self.polling: SQSClient

    @property
    def connected(self) -> bool:
        """Whether there are clients."""
        return bool(self._clients)

    def errors(self, doing: str) -> AbstractContextManager[None]:
        """Turns boto3's exceptions inside the block into ours; ``doing`` completes "… while …"."""
        keys = "access_key_id, secret_access_key" if self._settings.profile is None else "profile"
        return aws_errors(doing, self.where, keys)

    async def call(self, doing: str, function: Callable[..., _R], /, *args: Any, **parameters: Any) -> _R:
        """One request, or several, in a thread; raises our errors. A cancelled call still runs to its end."""

        def run() -> _R:
            with self.errors(doing):
                return function(*args, **parameters)

        try:
            future = asyncio.get_running_loop().run_in_executor(self.pool, run)
        except RuntimeError as exc:
            raise Unavailable("the SQS adapter is closed") from exc
        return await future

    async def connect(self) -> None:
        """Find credentials, make the clients, and ask AWS who we are, which any credentials may ask."""
        quiet("boto3", "botocore")
        for logger in _LOGGERS:
            logging.getLogger(logger).addFilter(self._discreet)
        try:
            self.identity, self._clients = await self.call("signing in", self._connect)
        except BaseException:
            await self.close()
            raise
        self.sqs, self.sns, self.to_sqs, self.to_sns, self.polling = self._clients

    def _connect(self) -> tuple[tuple[str, str, str], list[Any]]:
        try:
            session = self._session()
        except (ProfileNotFound, ConfigParseError) as exc:
            raise ConfigError("profile", str(exc), "Name one of ~/.aws/config, and check that it can be read.") from exc
        if session.region_name is None:
            raise ConfigError("url", "there is no AWS region", "Write sqs://us-east-1, or set AWS_REGION.")
        if session.get_credentials() is None:
            raise NoCredentialsError
        settings, context = self._settings, self._context
        once, again = {"total_max_attempts": 1}, {"total_max_attempts": 3, "mode": "standard"}
        sts = self._client(session, "sts", min(settings.request_timeout, context.connect_timeout / 2), once)
        try:
            arn: str = sts.get_caller_identity()["Arn"]
        finally:
            sts.close()
        confirmed = max(min(settings.request_timeout, context.publish_deadline * 0.8), 1.0)
        clients = [
            self._client(session, "sqs", settings.request_timeout, again),
            self._client(session, "sns", settings.request_timeout, again),
            self._client(session, "sqs", confirmed, once),
            self._client(session, "sns", confirmed, once),
            self._client(session, "sqs", settings.wait + _POLL_GRACE, once),
        ]
        clients[3].meta.events.register_first("request-created.sns.PublishBatch", _encode_form)
        return (arn.split(":")[1], session.region_name, arn.split(":")[4]), clients

    def _session(self) -> boto3.session.Session:
        settings = self._settings
        secret, token = settings.secret_access_key, settings.session_token
        session = boto3.session.Session(
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=None if secret is None else secret.get_secret_value(),
            aws_session_token=None if token is None else token.get_secret_value(),
            region_name=self._region,
            profile_name=settings.profile,
        )
        if settings.role_arn is None:
            return session
        core = botocore.session.Session(profile=settings.profile)
        core.register_component("credential_provider", CredentialResolver([_Role(lambda: self._assume(session))]))
        return boto3.session.Session(botocore_session=core, region_name=session.region_name)

    def _assume(self, session: boto3.session.Session) -> dict[str, str]:
        sts = self._client(session, "sts", self._settings.request_timeout, {"total_max_attempts": 1})
        try:
            name = "".join(each if each.isalnum() and each.isascii() else "-" for each in self._context.service)
            answer = sts.assume_role(RoleArn=self._settings.role_arn, RoleSessionName=f"anybroker-{name}"[:64])
        finally:
            sts.close()
        given = answer["Credentials"]
        return {
            "access_key": given["AccessKeyId"],
            "secret_key": given["SecretAccessKey"],
            "token": given["SessionToken"],
            "expiry_time": given["Expiration"].isoformat(),
        }

    def _client(self, session: boto3.session.Session, service: Any, timeout: float, retries: Any) -> Any:
        settings = self._settings
        certificate = None
        if settings.tls_cert_file is not None:
            certificate = str(settings.tls_cert_file), str(settings.tls_key_file or settings.tls_cert_file)
        return session.client(
            service,
            endpoint_url=settings.endpoint_url,
            verify=None if settings.tls_ca_file is None else str(settings.tls_ca_file),
            config=Config(
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=timeout,
                retries=retries,
                max_pool_connections=_MOST_CONNECTIONS,
                parameter_validation=False,  # checked in wire.py; a quarter of the time of a call
                user_agent="anybroker",  # boto3 would build its own for each call
                tcp_keepalive=True,
                client_cert=certificate,
            ),
        )

    def arn(self, service: str, name: str) -> str:
        """The ARN of a queue or a topic of this account."""
        partition, region, account = self.identity
        return f"arn:{partition}:{service}:{region}:{account}:{name}"

    async def close(self) -> None:
        """Close every connection. Requests under way end in their threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        clients, self._clients = self._clients, []
        for client in clients:
            client.close()
        for logger in _LOGGERS:
            logging.getLogger(logger).removeFilter(self._discreet)


def _encode_form(request: Any, **_: object) -> None:
    """Encode the form of a batch once: botocore does it for the signature and again for the wire, names included."""
    if isinstance(request.data, dict):
        request.data = "&".join([f"{name}={quote_plus(value)}" for name, value in request.data.items()]).encode()


class _Discreet(logging.Filter):
    """Keeps credentials out of botocore's DEBUG log, which has session tokens in requests and a role's keys in
    answers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, but not a text with credentials in it."""
        if _CREDENTIALS.search(record.getMessage()) is not None:
            record.msg, record.args = "(left out: it has credentials in it)", ()
        return True


class _Role(CredentialProvider):
    """The credentials of an assumed role, fetched when they are needed and before they expire."""

    METHOD = "assume-role"
    CANONICAL_NAME = "AssumeRole"

    def __init__(self, fetch: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self._fetch = fetch

    def load(self) -> Any:
        """Asked once by the session."""
        return DeferredRefreshableCredentials(self._fetch, self.METHOD)
