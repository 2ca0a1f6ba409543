"""A server for the tests: ``fake_server.py PORT FOLDER``; answers "up" to who connects.

It starts a daemon the way epmd does (fork, new session, fork), which holds FOLDER/alive open as the server does:
a reader that sees the end of that pipe knows that both are gone. Keeps a count of its starts in FOLDER/starts.
"""

import os
import signal
import socket
import sys
from pathlib import Path

port, folder = int(sys.argv[1]), Path(sys.argv[2])

if (pipe := folder / "alive").exists():
    os.open(pipe, os.O_WRONLY)

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    os._exit(0)
os.wait()

with (folder / "starts").open("a") as starts:
    starts.write(".")

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.create_server(("127.0.0.1", port)) as server:
    print("listening", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"up\r\n")
