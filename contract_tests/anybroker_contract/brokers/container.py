"""Brokers as containers, by testcontainers; the library is imported only when it is asked for."""

from __future__ import annotations

import socket
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .api import Broker
from .context import Context
from .errors import Missing
from .image import Image
from .ports import free_port
from .process import Keeper
from .waiting import until_ready

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

__all__ = ["ContainerBroker", "Docker"]

DEFAULT_HOST = "unix:///var/run/docker.sock"

PROBE_SECONDS = 2
"""How long the daemon may take to accept a connection, and then to answer."""

PULL_SILENCE_SECONDS = 60
"""How long a pull may go without any progress; a slow one with progress may take as long as it wants."""

REQUEST_SECONDS = 60
"""How long one request to the daemon may take, in seconds; a graceful stop is the longest."""

GRACE_SECONDS = 30
"""How long a container may take for a graceful end before it is killed."""

GET_DOCKER = "install Docker and pip install 'anybroker[contract]'"


class Docker:
    """The daemon, asked once whether it answers; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why_not: str | None = None
        self._asked = False

    def why_not(self) -> str | None:
        """``None`` when a daemon answers and testcontainers is installed, else why not; 5 s at most."""
        with self._lock:
            if not self._asked:
                self._why_not = _probe()
                self._asked = True
            return self._why_not

    def launch(self, context: Context, image: Image, why: str) -> Broker:
        """Start a container and wait until the broker in it answers.

        Raises ``Missing`` when there is no daemon or the image cannot be got, ``BrokerFailed`` when the broker does
        not answer; nothing of it is left then.
        """
        if (reason := self.why_not()) is not None:
            raise Missing(reason, GET_DOCKER)
        tag = context.setting("IMAGE") or image.tag
        _get_image(context, tag)
        context.check()
        context.say(f"starting a container of {tag}")
        detail = f"{tag}, container"
        # One at a time, because testcontainers starts its Ryuk at the first and would start several.
        return ContainerBroker.launch(context, image, tag, f"{detail} ({why})" if why else detail, self._lock)


class ContainerBroker(Broker):
    """See ``Broker``; a container with its port fixed on the host, so that it is the same after a restart."""

    source = "container"
    can_restart = True

    def __init__(self, context: Context, image: Image, detail: str, keeper: Keeper) -> None:
        self.name = context.name
        self.detail = detail
        self.survives_kill = image.survives_kill
        self._context = context
        self._image = image
        self._keeper = keeper
        self._client: Any = None
        self._container: Any = None

    @classmethod
    def launch(cls, context: Context, image: Image, tag: str, detail: str, lock: threading.Lock) -> ContainerBroker:
        from testcontainers.core.container import DockerContainer

        name = f"anybroker-{context.name}-{uuid.uuid4().hex[:12]}"
        keeper = Keeper(f"anybroker-{context.name}-")
        broker = cls(context, image, detail, keeper)
        try:
            # Before the container exists: if this process is killed in between, it is removed nevertheless, also
            # where Ryuk, which does that otherwise, is switched off.
            keeper.at_end([sys.executable, str(Path(__file__).with_name("remove_container.py")), name])
            with lock:
                container = DockerContainer(tag, docker_client_kw={"timeout": REQUEST_SECONDS}, name=name)
                broker._start_container(container)
            broker._wait()
        except BaseException:
            broker.stop()
            raise
        return broker

    def _start_container(self, container: DockerContainer) -> None:
        from docker.errors import APIError
        from testcontainers.core.config import ConnectionMode
        from testcontainers.core.exceptions import ContainerStartException

        client = container.get_docker_client()
        self._client = client.client
        host = client.host()
        host = "127.0.0.1" if host == "localhost" else host
        port = free_port()
        settings = self._image.settings(host, port)
        container.with_bind_ports(self._image.inside or port, port)
        container.with_envs(**settings.environ)
        if settings.command:
            container.with_command(list(settings.command))
        try:
            container.start()
        except (APIError, ContainerStartException, OSError) as error:
            raise Missing(f"Docker did not start it: {_line(error)}", GET_DOCKER) from error
        self._container = container.get_wrapped_container()
        if client.get_connection_mode() is not ConnectionMode.docker_host:
            # Then this is a container itself, as it seems, with a daemon that publishes ports here or elsewhere.
            try:
                socket.create_connection((host, port), PROBE_SECONDS).close()
            except OSError as error:
                raise Missing(
                    f"Docker publishes its ports elsewhere than on {host}, seen from inside of this container",
                    "set TESTCONTAINERS_HOST_OVERRIDE",
                ) from error
        self._host, self._port = host, port
        self.url = self._image.url(host, port)

    def start(self) -> None:
        self._container.start()
        self._wait()

    def restart(self) -> None:
        self._container.restart(timeout=GRACE_SECONDS)
        self._wait()

    def kill(self) -> None:
        self._container.kill()
        self._container.wait()

    def freeze(self) -> None:
        self._container.pause()

    def thaw(self) -> None:
        self._container.unpause()

    def stop(self) -> None:
        self._keeper.end()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _wait(self) -> None:
        until_ready(
            self.name,
            lambda: self._image.ready(self._host, self._port),
            died=self._death,
            log=self._tail,
            cancelled=self._context.cancelled,
        )

    def _death(self) -> str | None:
        self._container.reload()
        if self._container.status in ("running", "paused", "restarting"):
            return None
        return f"has ended: its container is {self._container.status}"

    def _tail(self) -> str:
        text = self._container.logs(tail=25).decode(errors="replace")
        return "\n".join(f"    {line}" for line in text.splitlines())


def _probe() -> str | None:
    try:
        from docker.errors import DockerException
        from testcontainers.core.docker_client import DockerClient, get_docker_host
    except ImportError:
        return "testcontainers is not installed"
    try:
        _knock(get_docker_host() or DEFAULT_HOST)
    except OSError:
        return "Docker does not answer"
    try:
        client = DockerClient(timeout=PROBE_SECONDS)
    except DockerException:
        return "Docker does not answer"
    client.client.close()
    return None


def _knock(host: str) -> None:
    """Raise ``OSError`` when nobody listens there.

    Before Docker's library is asked, because that leaves a socket unclosed then, and a ``ResourceWarning`` in whichever
    test runs when it is collected.
    """
    parts = urlsplit(host)
    if parts.scheme == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(PROBE_SECONDS)
            door.connect(parts.path)
    elif parts.scheme in ("tcp", "http", "https") and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or 2375), PROBE_SECONDS).close()


def _get_image(context: Context, tag: str) -> None:
    from docker.errors import APIError, DockerException, ImageNotFound
    from requests.exceptions import RequestException
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient(timeout=PULL_SILENCE_SECONDS).client
    try:
        try:
            client.images.get(tag)
        except ImageNotFound:
            context.say(f"pulling {tag}")
        else:
            return
        for progress in client.api.pull(tag, stream=True, decode=True):
            context.check()
            if "error" in progress:
                raise Missing(f"Docker cannot get {tag}: {_line(progress['error'])}", f"docker pull {tag}")
    except (APIError, DockerException, RequestException) as error:
        raise Missing(f"Docker cannot get {tag}: {_line(error)}", f"docker pull {tag}") from error
    finally:
        client.close()


def _line(error: object) -> str:
    """The first line of what went wrong, without the request's address where the daemon explains itself."""
    text = getattr(error, "explanation", None) or str(error)
    return (str(text).splitlines() or [type(error).__name__])[0]
