"""Hostile messages between good ones on each broker, and what happened to them, as a table.

python -m anybroker_contract.hostile                            every available broker
python -m anybroker_contract.hostile --adapter kafka --json
python -m anybroker_contract.hostile --write docs/hostile.md    renew the table between the markers of that page
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from .._adapters import Adapters, find_harnesses
from .._kit import Kit
from .._table import END, START
from ..matrix import renewed
from .attack import Attack, Outcome
from .messages import hostile_messages

__all__ = ["main"]

MIB = 1024 * 1024


async def _attacked(kit: Kit, times: int, only: str, progress: Progress) -> tuple[list[Outcome], dict[str, str]]:
    """Each message so many times, and what did harm, by name; after which a new Bus uses a new topic."""
    messages = hostile_messages(kit.harness.raw())
    left = [name for name in messages if only in name]
    task = progress.add_task(kit.harness.name, total=len(left))
    outcomes: list[Outcome] = []
    harm: dict[str, str] = {}
    try:
        while left:
            async with Attack(kit, measured=True) as attack, attack.bus:
                await attack.wait_good(await attack.publish_good(100), "before")
                while left:
                    name = left.pop(0)
                    progress.update(task, description=f"{kit.harness.name}: {name}"[:60], advance=1)
                    try:
                        outcomes.append(await attack.send(name, messages[name], times))
                    except AssertionError as exc:
                        harm[name] = str(exc)
                        await attack.bus.close(drain=1)
                        break
    finally:
        await kit.close()
    progress.update(task, description=kit.harness.name)
    return outcomes, harm


def summary(outcomes: Sequence[Outcome]) -> str:
    """One sentence on a run."""
    taken = [outcome for outcome in outcomes if outcome.taken]
    good = sum(outcome.good for outcome in outcomes)
    before, after = outcomes[0].before / MIB, outcomes[-1].after / MIB
    return (
        f"{len(taken)} of {len(outcomes)} messages were taken by the broker; all {good} good events around them were "
        f"handled; resident memory {before:.0f} MiB before, {after:.0f} MiB after"
    )


def page(found: dict[str, list[Outcome]]) -> str:
    """The table in markdown, a row a message and a column a broker, and a sentence a broker."""
    names = list(dict.fromkeys(outcome.name for outcomes in found.values() for outcome in outcomes))
    cells = {adapter: {outcome.name: outcome.became for outcome in outcomes} for adapter, outcomes in found.items()}
    rows = [["message", *found], ["---"] * (len(found) + 1)]
    rows += [[name.replace("|", "\\|"), *(cells[adapter].get(name, "–") for adapter in found)] for name in names]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sentences = "\n".join(f"- {adapter}: {summary(outcomes)}." for adapter, outcomes in found.items())
    return f"{table}\n\n{sentences}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Exit status: 0 nothing did harm; 1 something did; 2 a broker is missing, or wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m anybroker_contract.hostile",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Exit status: 0 nothing did harm; 1 a message did; 2 a broker is unavailable, or the usage was wrong.",
    )
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME", help="repeatable (default: servers)")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="how often each message is sent (default: 1)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only messages with this text in their name")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the table between the markers of this page")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    if options.times < 1:
        parser.error(f"--times {options.times}: at least 1")
    logging.basicConfig(level=logging.CRITICAL)
    console = Console(stderr=True)
    adapters = Adapters(find_harnesses(options.adapter or ["kafka", "rabbitmq", "nats", "sqs"]))
    found: dict[str, list[Outcome]] = {}
    harm: dict[str, dict[str, str]] = {}
    try:
        adapters.start(lambda text: console.print(text, markup=False, highlight=False))
        with Progress(console=console) as progress, tempfile.TemporaryDirectory() as folder:
            for name, harness in adapters.shared.items():
                if name in adapters.unavailable or "raw" not in adapters.can[name]:
                    continue
                kit = Kit(harness, adapters.capabilities[name], Path(folder), size="full", patience=15.0, mutant=None)
                found[name], did = asyncio.run(_attacked(kit, options.times, options.only, progress))
                if did:
                    harm[name] = did
    finally:
        adapters.stop()
    for name, gone in adapters.unavailable.items():
        console.print(f"{name}: {gone.why}", markup=False)
    if options.json:
        rows = {name: [asdict(outcome) for outcome in outcomes] for name, outcomes in found.items()}
        json.dump({"outcomes": rows, "harm": harm}, sys.stdout, indent=2)
    else:
        _show(found, harm)
    if options.write and not harm and not options.only:
        try:
            text = renewed(options.write.read_text(encoding="utf-8"), f"\n{page(found)}\n", START, END)
        except ValueError as exc:
            raise SystemExit(f"{options.write} {exc}") from exc
        options.write.write_text(text, encoding="utf-8")
    return 1 if harm else 2 if adapters.unavailable else 0


def _show(found: dict[str, list[Outcome]], harm: dict[str, dict[str, str]]) -> None:
    console = Console(highlight=False, markup=False)
    for name, outcomes in found.items():
        table = Table("message", "became", "good", "MiB before", "after", title=name)
        for each in outcomes:
            memory = (f"{each.before / MIB:.0f}", f"{each.after / MIB:.0f}")
            table.add_row(each.name, each.became, str(each.good), *memory)
        console.print(table)
        if outcomes:
            console.print(f"{name}: {summary(outcomes)}")
    for name, did in harm.items():
        for what in did.values():
            console.print(f"{name}: HARM: {what}")


if __name__ == "__main__":
    sys.exit(main())
