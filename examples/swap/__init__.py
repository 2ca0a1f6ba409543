"""One program, any broker: ``python -m examples.swap``."""
