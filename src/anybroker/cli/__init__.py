"""The command line: ``anybroker dlq | backlog | adapters | describe | run``.

Exit codes: 0 done, 1 the broker or the operation failed, 2 wrong usage or configuration. Errors are one line on stderr.
"""

from ._main import main

__all__ = ["main"]
