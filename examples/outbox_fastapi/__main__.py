"""Serve the shop on this machine. SHOP_DATABASE and ANYBROKER_URL say where the orders and the events go."""

from __future__ import annotations

import argparse
import os

import uvicorn

from .app import make_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.outbox_fastapi", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    app = make_app(os.environ.get("SHOP_DATABASE", "sqlite:///shop.db"), os.environ.get("ANYBROKER_URL", "memory://"))
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
