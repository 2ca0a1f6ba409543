"""Brokers for the contract suite and for people: by URL, as containers, or as processes on this machine.

    python -m anybroker_contract.brokers up kafka

See ``start_brokers`` for where each comes from.
"""

from .api import Broker, Source, Unavailable
from .choose import start_brokers
from .cluster import Cluster, start_cluster
from .errors import BrokerFailed
from .kinds import ALL, KINDS

__all__ = [
    "ALL",
    "KINDS",
    "Broker",
    "BrokerFailed",
    "Cluster",
    "Source",
    "Unavailable",
    "start_brokers",
    "start_cluster",
]
