"""Remove one container by its name; run as a script by the keeper when everything ends."""

from __future__ import annotations

import sys

from docker.errors import NotFound
from testcontainers.core.docker_client import DockerClient


def main(name: str) -> None:
    """Remove it with its volumes, running or not. It is not an error if it does not exist."""
    try:
        DockerClient().client.containers.get(name).remove(force=True, v=True)
    except NotFound:
        return


if __name__ == "__main__":
    main(sys.argv[1])
