"""The statements and the configuration of ``docs/outbox-debezium.md``: what users copy is what the tests run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["ROLE", "configuration", "statements"]

PAGE = Path(__file__).parents[2] / "docs" / "outbox-debezium.md"
ROLE = "debezium"


def _block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def statements() -> Sequence[str]:
    """What has to be executed in the database."""
    return [statement.strip() for statement in _block("sql").split(";") if statement.strip()]


def configuration(url: str) -> dict[str, str]:
    """The connector's, with the address of this database, and nothing else changed."""
    found: dict[str, str] = json.loads(_block("json"))
    address = urlsplit(url)
    here = {
        "database.hostname": str(address.hostname),
        "database.port": str(address.port),
        "database.dbname": address.path.strip("/"),
    }
    assert found.keys() > here.keys()
    return {**found, **here}
