"""The embedded broker: topics and groups in one SQLite file, durable, for several processes of one machine.

``sqlite:///shop.db`` (beside the working folder) or ``sqlite:////var/lib/shop.db`` (absolute).
"""

from .adapter import SqliteAdapter
from .settings import SqliteSettings

__all__ = ["SqliteAdapter", "SqliteSettings"]
