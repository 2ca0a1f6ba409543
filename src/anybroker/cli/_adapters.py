"""``anybroker adapters``."""

from __future__ import annotations

import argparse
from typing import Any

from ..capabilities import Capabilities
from ..config.registry import adapter_class, schemes
from ..errors import ConfigError
from ._output import table, write, write_json

__all__ = ["adapters"]


def adapters(options: argparse.Namespace) -> int:
    """List the installed adapters and what each one can do."""
    listed = [_look(scheme) for scheme in sorted(schemes())]
    if options.json:
        write_json(listed)
        return 0
    table(
        ("scheme", "package", "ready"),
        [(f"{item['scheme']}://", item["package"], "yes" if item["ready"] else item["remedy"]) for item in listed],
    )
    ready = [item for item in listed if item["capabilities"]]
    if ready:
        write()
        names = list(ready[0]["capabilities"])
        table(
            ("capability", *(item["scheme"] for item in ready)),
            [(name, *(item["capabilities"].get(name, "") for item in ready)) for name in names],
        )
    return 0


def _look(scheme: str) -> dict[str, Any]:
    """What is known about one adapter without connecting."""
    item: dict[str, Any] = {
        "scheme": scheme,
        "package": schemes()[scheme].module.partition(":")[0],
        "ready": False,
        "remedy": None,
        "capabilities": {},
        "limits": {},
    }
    try:
        capabilities = getattr(adapter_class(scheme), "capabilities", None)
    except ConfigError as exc:
        item["remedy"] = exc.remedy
    except ImportError as exc:
        item["remedy"] = f"cannot be loaded: {exc}"
    else:
        item["ready"] = True
        if isinstance(capabilities, Capabilities):
            item["capabilities"] = {**capabilities.table(), "acknowledgement": capabilities.acknowledgement.value}
            item["limits"] = {"max_event_bytes": capabilities.max_event_bytes, "max_delay": capabilities.max_delay}
    return item
