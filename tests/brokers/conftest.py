"""A shell that starts a program in the background lets it ignore SIGINT, and so would all that these tests start."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
