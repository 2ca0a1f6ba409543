"""SQS and SNS by ministack, an emulator, in a separate Python environment.

It writes its queues and messages to disk only when it ends gracefully: they are there after ``restart``; after ``kill``
it goes back to what it had at its last graceful end.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from .context import Context
from .image import Image, Settings
from .native import Install, Plan
from .ports import free_port
from .tcp import PROBE_SECONDS
from .tools import plain_environ, python_environment
from .waiting import NotYet

__all__ = ["IMAGE", "REGION", "answers", "find"]

VERSION = "1.5.33"
REQUIREMENT = f"ministack=={VERSION}"
REGION = "us-east-1"
Planner = Callable[[Context, Path, Path], Plan]
"""How to run it: by this Python, in this folder."""


def find(context: Context, planned: Planner | None = None) -> tuple[Install, str]:
    """The pinned version from PyPI, installed once into the cache; raises ``Missing``. ``planned``: not ``plan``."""
    python = python_environment(context, REQUIREMENT) / "bin" / "python"
    return lambda folder: (planned or plan)(context, python, folder), f"ministack {VERSION}"


def plan(context: Context, python: Path, folder: Path, port: int | None = None, host: str = "127.0.0.1") -> Plan:
    """How to run it in this folder, on a free port of 127.0.0.1, which clients know as ``host``."""
    port = free_port() if port is None else port
    return Plan(
        url=_url("127.0.0.1", port),
        argv=(str(python), "-m", "ministack"),
        env=plain_environ(
            context,
            folder,
            **_environ(host, port),
            BIND_HOST="127.0.0.1",
            STATE_DIR=str(folder / "state"),
            S3_DATA_DIR=str(folder / "s3"),
            PYTHONDONTWRITEBYTECODE="1",
        ),
        ready=lambda: answers("127.0.0.1", port),
        survives_kill=False,
    )


def _url(host: str, port: int) -> str:
    # Any keys will do for an emulator; in the URL, other programs have them too.
    return f"sqs://{REGION}?endpoint_url=http://{host}:{port}&access_key_id=any&secret_access_key=any"


def _environ(host: str, port: int) -> dict[str, str]:
    return {
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": host,  # is written into every queue's URL
        "SERVICES": "sqs,sns,sts",
        "PERSIST_STATE": "1",
    }


def answers(host: str, port: int) -> None:
    """One attempt: it lists its queues and its topics. Raises ``OSError`` or ``NotYet``."""
    _post(host, port, "sqs", b"Action=ListQueues&Version=2012-11-05")
    _post(host, port, "sns", b"Action=ListTopics&Version=2010-03-31")


def _post(host: str, port: int, service: str, form: bytes) -> None:
    request = urllib.request.Request(
        f"http://{host}:{port}/",
        data=form,
        headers={
            "Content-Type": "application/x-www-form-urlencoded",
            # Only names the service and the region: the emulator does not check signatures.
            "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, "
            "SignedHeaders=host, Signature=0",
        },
    )
    # Without proxies: the address is loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PROBE_SECONDS) as reply:
            reply.read()
    except HTTPError as error:
        with error:
            raise NotYet(f"{service} answers {error.code}") from error
    except HTTPException as error:
        raise NotYet(f"{service} answers no HTTP") from error


IMAGE = Image(
    tag=f"ministackorg/ministack:{VERSION}",
    url=_url,
    ready=answers,
    settings=lambda host, port: Settings(_environ(host, port)),
    inside=None,  # the port is written into the queues' URLs, so it must be the same on both sides
    survives_kill=False,
)
