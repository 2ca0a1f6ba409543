"""The adapter's settings, in the URL's query or under ``[adapters.sqs]``."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr

from anybroker.adapter import SECURITY, BrokerUrl
from anybroker.errors import ConfigError
from anybroker.kit.tls import TlsSettings

__all__ = ["MOST_BYTES", "TOPIC_BYTES", "SqsSettings"]

MOST_BYTES: Final = 1_048_576
"""The most that AWS takes in one message, and the default limit of a queue."""
TOPIC_BYTES: Final = 262_144
"""The default limit of a topic."""


def _pairs(value: object) -> object:
    """``orders:billing,payments:audit`` as topic → group."""
    if not isinstance(value, str):
        return value
    pairs = [pair.strip().partition(":") for pair in value.split(",") if pair.strip()]
    if not all(topic and group for topic, _, group in pairs):
        raise ValueError("write topic:group, several with commas between them")
    if len({topic for topic, _, _ in pairs}) < len(pairs):
        raise ValueError("a topic is named twice: without SNS it has one group")
    return {topic: group for topic, _, group in pairs}


class SqsSettings(TlsSettings):
    """What can be set. The region is the URL's host; without one it is boto3's own (``AWS_REGION``, the profile)."""

    endpoint_url: str | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="Where SQS, SNS and STS answer, for emulators and private endpoints; none: AWS.",
    )
    access_key_id: str | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="AWS access key; none: boto3's own chain (environment, profile, container, instance).",
    )
    secret_access_key: SecretStr | None = Field(
        default=None, json_schema_extra=SECURITY, description="The secret to access_key_id."
    )
    session_token: SecretStr | None = Field(
        default=None, json_schema_extra=SECURITY, description="The token of temporary credentials."
    )
    profile: str | None = Field(
        default=None, json_schema_extra=SECURITY, description="Profile of the AWS configuration files."
    )
    role_arn: str | None = Field(
        default=None,
        json_schema_extra=SECURITY,
        description="Role to assume with those credentials, for an hour, again and again.",
    )
    wait: int = Field(
        default=5,
        ge=1,
        le=8,
        description="Seconds of one long poll [WaitTimeSeconds]: an idle member asks once in this time, and a Bus that "
        "closes waits for it, because a poll that is given up still takes messages.",
    )
    pollers: int = Field(
        default=4, ge=1, le=32, description="Polls under way at once for each subscription that has much to do."
    )
    threads: int = Field(default=16, ge=1, le=64, description="Requests under way at once, polls not counted.")
    request_timeout: float = Field(default=5.0, ge=1, le=60, description="Seconds until a request counts as lost.")
    max_message_bytes: int | None = Field(
        default=None,
        ge=65_536,
        le=MOST_BYTES,
        description="Bytes of one message and of one batch, attributes counted [MaximumMessageSize of SNS topics: set "
        "when a topic is made]. None: what each topic or queue takes, as it says itself; a new topic 262,144.",
    )
    content_mode: Literal["structured", "binary"] = Field(
        default="structured",
        description="CloudEvents as one JSON document, or as message attributes (10 at most) and a text body.",
    )
    direct: Annotated[dict[str, str], BeforeValidator(_pairs)] = Field(
        default_factory=dict,
        description="Topics without SNS, each with its only group: topic:group, several with commas. The same in every "
        "program.",
    )

    def check(self, url: BrokerUrl) -> None:
        """ConfigError for settings that contradict each other, or that boto3 does not have."""
        region = url.hosts[0][0] if url.hosts else "us-east-1"
        more = url.username is not None or url.path.strip("/") or len(url.hosts) > 1 or (url.hosts and url.hosts[0][1])
        if more or re.fullmatch("[a-z0-9-]{1,63}", region) is None:
            raise ConfigError(
                "url",
                f"{url} has something other than a region in it",
                "Write sqs://us-east-1?endpoint_url=…, with access_key_id= and secret_access_key= for keys.",
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ConfigError(
                "access_key_id, secret_access_key", "one is set without the other", "Set both, or neither."
            )
        if self.session_token is not None and self.access_key_id is None:
            raise ConfigError("session_token", "is set without access_key_id", "Set the keys that it belongs to.")
        endpoint = self.endpoint_url or "https://aws"
        if re.fullmatch(r"https?://(\[[0-9a-fA-F:]+\]|[^/@?#:]+)(:\d{1,5})?/?", endpoint) is None:
            raise ConfigError("endpoint_url", "is not the URL of a server", "Write http://host:port or https://host.")
        self.tls_context(url, "endpoint_url=https" if endpoint.startswith("http:") else url.scheme)  # reads the files
        if not self.tls_check_hostname or self.tls_key_password is not None:
            raise ConfigError(
                "tls_check_hostname" if not self.tls_check_hostname else "tls_key_password",
                "boto3 does not have this option",
                "Use a certificate for the host's name, and a key without a password.",
            )
