"""Amazon SQS and SNS for anybroker: ``sqs://us-east-1``."""

from .adapter import SqsAdapter
from .settings import SqsSettings

__all__ = ["SqsAdapter", "SqsSettings"]
