"""One event published and handled: ``python -m examples.quickstart``."""
