"""CloudEvents 1.0 on the wire: attribute rules, the JSON format, header mappings, the Python SDK's events.

The names are imported when they are first asked for: ``anybroker.event`` needs the attribute rules of this
package, and the formats need ``anybroker.event``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .headers import HeaderBinding, TransportNames
    from .json_format import format_json, format_json_batch, parse_json, parse_json_batch
    from .sdk import from_cloudevent, to_cloudevent
    from .text_body import filter_attributes, format_text, parse_text

__all__ = [
    "HeaderBinding",
    "TransportNames",
    "filter_attributes",
    "format_json",
    "format_json_batch",
    "format_text",
    "from_cloudevent",
    "parse_json",
    "parse_json_batch",
    "parse_text",
    "to_cloudevent",
]

_HOMES = {
    "HeaderBinding": "headers",
    "TransportNames": "headers",
    "filter_attributes": "text_body",
    "format_json": "json_format",
    "format_json_batch": "json_format",
    "format_text": "text_body",
    "from_cloudevent": "sdk",
    "parse_json": "json_format",
    "parse_json_batch": "json_format",
    "parse_text": "text_body",
    "to_cloudevent": "sdk",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
