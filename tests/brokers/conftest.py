"""A shell that starts a program in the background lets it ignore SIGINT, and so would all that these tests start."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """The mark of the suite's security tests, which are imported here without its plugin."""
    config.addinivalue_line("markers", "needs_harness(*names): what a test of the contract suite does to the broker")
