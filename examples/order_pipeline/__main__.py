"""``python -m examples.order_pipeline``: run the shop on any broker, let things go wrong, and check the books."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from anybroker import AnybrokerError

from .settings import Demo

ALL = 6919


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order_pipeline",
        description="Real orders through storefront, inventory, payment and shipping, on any broker; with declines, "
        "duplicates, failing handlers, a poison event and a SIGKILL. Exits with 1 if the books are wrong afterwards.",
    )
    parser.add_argument("--orders", type=int, default=1000, metavar="N", help=f"20 to {ALL:,} (default 1,000)")
    parser.add_argument("--all", action="store_const", dest="orders", const=ALL, help=f"all {ALL:,}")
    parser.add_argument("--rate", type=float, default=200.0, help="orders placed a second (default 200)")
    parser.add_argument("--seed", type=int, default=7, help="seed for the choice of faults (default 7)")
    parser.add_argument(
        "--url",
        default=os.environ.get("ANYBROKER_URL"),
        help="the broker (default: ANYBROKER_URL, which keeps a password out of the list of processes, else the "
        "embedded one in a temporary file)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and the progress to stderr")
    parser.add_argument("--observe", action="store_true", help="show what each service says of itself while it runs")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up then (default: by the orders)")
    parser.add_argument(
        "--forgetful-bank",
        action="store_true",
        help="let the bank ignore idempotency keys, to see the checks fail",
    )
    options = parser.parse_args(given)
    if not 20 <= options.orders <= ALL:
        parser.error(f"--orders: from 20 to {ALL}")
    if not 0 < options.rate < float("inf"):
        parser.error("--rate: more than 0")
    return options


def main() -> int:
    """The exit code: 0 if every invariant holds, 1 if not, 2 if the run failed."""
    options = arguments()
    console = Console(stderr=options.json)
    with TemporaryDirectory(prefix="anybroker-demo-") as folder:
        try:
            return asyncio.run(_main(options, console, Path(folder)))
        except AnybrokerError as exc:
            console.print(f"{type(exc).__name__}: {exc}", style="red", highlight=False, markup=False)
            return 2
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print("interrupted: the services are ended")
            return 130


async def _main(options: argparse.Namespace, console: Console, folder: Path) -> int:
    settings = Demo(
        run=f"demo-{secrets.token_hex(3)}",
        folder=folder,
        orders=options.orders,
        rate=options.rate,
        seed=options.seed,
        faults=True,
        forgetful_bank=options.forgetful_bank,
    )
    url = options.url or f"sqlite:///{folder}/broker.db"
    # Short enough to watch: the process that takes over waits for the killed one's lease to end.
    os.environ.setdefault("ANYBROKER_LEASE", "6")
    os.environ.update(settings.environment())
    from .plan import plan  # these read the environment when they are imported
    from .report import Live, print_result, result_of
    from .run import run

    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    patience = options.timeout or 60.0 + 3 * options.orders / options.rate
    with Live(console, plan(), observe=options.observe) as live:
        evidence, broker, how = await run(url, live, patience)
    result = result_of(evidence, broker=broker, seed=options.seed, how_restarted=how)
    print_result(console, result)
    live.say_where()
    if options.json:
        print(json.dumps(result.as_dict(), indent=2))
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
