"""Records of a log as JSON, one object a line."""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import text_of

__all__ = ["JsonFormatter"]

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""What every record has."""
_LONGEST: Final = 4096
"""Most characters of one extra field that is not plain text, a number or a truth value already."""
_LARGEST: Final = 2**63
"""Numbers from here on are text: what reads the lines has no such integers, and Python itself may not write them."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, the record's
    ``extra`` fields but for empty ones, and ``exception`` and ``stack`` as text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _PLAIN and name not in line and value is not None and value != "":
                line[name] = _plain(value)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line)


def _plain(value: object) -> object:
    if value is True or value is False or (type(value) is float and math.isfinite(value)):
        return value
    if type(value) is int and abs(value) < _LARGEST:
        return value
    text = text_of(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
