"""One target in a separate process, which ``python -m fuzz`` starts: a crash does not end the others, and neither does
libFuzzer, which never returns.

It writes one JSON object per line: its progress, each fault once, and ``done``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from .registry import Target

__all__ = ["atheris_is_there"]

MOST = 4096
"""Most bytes of an input."""
_MEASURED = 64
"""Memory is measured for one of this many inputs."""
_INSTRUMENTED = [
    "anybroker",
    "anybroker_kafka",
    "anybroker_nats",
    "anybroker_rabbitmq",
    "anybroker_sqlite",
    "anybroker_sqs",
]


def atheris_is_there() -> bool:
    """Whether atheris is installed, to guide by coverage."""
    return find_spec("atheris") is not None


class _Run:
    """Counts inputs and faults, and reports them."""

    def __init__(self, options: argparse.Namespace, target: Target) -> None:
        from .bounds import check, where

        self._check, self._where = check, where
        self._run = target.run
        self._measured = _MEASURED if target.measured else 0
        self._inputs: int = options.inputs
        self._end = time.monotonic() + options.seconds
        self._found = Path(options.found)
        self._count = 0
        self._told = time.monotonic()
        self._faults: set[tuple[str, str]] = set()

    def one(self, data: bytes) -> None:
        """One input; ends the process after the last one."""
        self._count += 1
        try:
            self._check(self._run, data, self._measured > 0 and self._count % self._measured == 0)
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - any exception is a fault, and the next input follows
            self._fault(exc, data)
        if self._count % 128 == 0 or self._count >= self._inputs:
            now = time.monotonic()
            if self._count >= self._inputs or now >= self._end:
                self._say("done", inputs=self._count)
                sys.stdout.flush()
                os._exit(0)  # libFuzzer does not return, and has nothing left to do
            if now - self._told > 0.5:
                self._told = now
                self._say("progress", inputs=self._count)

    def _fault(self, exc: BaseException, data: bytes) -> None:
        place = self._where(exc)
        if (place.error, place.at) in self._faults:
            return
        self._faults.add((place.error, place.at))
        self._found.mkdir(parents=True, exist_ok=True)
        path = self._found / blake2b(data, digest_size=8).hexdigest()
        path.write_bytes(data)
        said = str(exc).splitlines() or [""]
        self._say("fault", error=place.error, at=place.at, text=said[0][:300], input=str(path), size=len(data))

    @staticmethod
    def _say(what: str, **more: object) -> None:
        sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
        sys.stdout.flush()


def _blindly(run: _Run, seeds: Sequence[bytes], seed: int) -> NoReturn:
    from .mutate import mutate

    random = Random(seed)
    pool = list(seeds) or [b""]
    for each in seeds:
        run.one(each[:MOST])
    while True:
        data = mutate(random, random.choice(pool), MOST) if random.random() < 0.95 else random.randbytes(60)
        if len(pool) < 5_000 and random.random() < 0.02:
            pool.append(data)
        run.one(data)


def _guided(run: _Run, seeds: Sequence[bytes], options: argparse.Namespace) -> NoReturn:
    atheris: Any = import_module("atheris")
    from .mutate import TOKENS

    corpus = Path(options.corpus)
    corpus.mkdir(parents=True, exist_ok=True)
    for each in seeds:
        (corpus / blake2b(each[:MOST], digest_size=8).hexdigest()).write_bytes(each[:MOST])
    words = corpus.parent / "tokens.txt"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in TOKENS))
    Path(options.found).mkdir(parents=True, exist_ok=True)
    arguments = [
        "fuzz",
        str(corpus),
        f"-seed={options.seed + 1}",
        f"-max_len={MOST}",
        "-len_control=0",
        "-timeout=60",
        "-rss_limit_mb=2048",
        f"-dict={words}",
        f"-artifact_prefix={options.found}/",
    ]
    atheris.Setup(arguments, run.one)
    atheris.Fuzz()
    raise SystemExit("libFuzzer has returned")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    for name in ("--inputs", "--seed"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--module", help="the only one of the targets that is imported")
    for name in ("--engine", "--corpus", "--found"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    targets: dict[str, Target]
    if options.engine == "atheris":
        atheris: Any = import_module("atheris")
        with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
            from .registry import all_targets

            targets = all_targets(options.module)
    else:
        from .registry import all_targets

        targets = all_targets(options.module)
    logging.disable(logging.CRITICAL)  # what is said of odd messages, a million times
    chosen = targets[options.target]
    run = _Run(options, chosen)
    seeds = list(dict.fromkeys(chosen.seeds()))
    if options.engine == "atheris":
        _guided(run, seeds, options)
    _blindly(run, seeds, options.seed)


if __name__ == "__main__":
    main()
