"""A web service that stores an order and publishes it in one transaction: ``python -m examples.outbox_fastapi``."""
