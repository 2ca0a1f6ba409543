"""Since when the oldest unfinished event of a lane is unfinished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anybroker.engine.progress import Progress


def test_another_thread_may_ask_while_it_looks() -> None:
    progress = Progress()
    ages: list[float | None] = []

    class Oldest(dict[Any, Any]):
        def items(self) -> Iterator[Any]:  # type: ignore[override]
            for item in list(super().items()):
                ages.append(progress.age)
                yield item

    oldest = Oldest({"a": object(), "b": object()})
    progress.look(oldest)
    assert ages == [None, None]
    progress.look(oldest)
    assert None not in ages[2:], "it has an age all the time"
