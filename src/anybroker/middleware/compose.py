"""How a handler's chain is put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..config.settings import nearest
from ..engine.starting import contained
from ..errors import ConfigError
from ..names import one_or_several
from .circuit import circuit
from .concurrency import concurrency
from .dead_letter import dead_letter
from .deadline import deadline
from .function import FunctionMiddleware
from .idempotent import idempotent
from .layer import Chain, Handler, Layer, kind_of, kinds
from .rate_limit import rate_limit
from .retry import retry
from .retry_budget import retry_budget
from .timeout import timeout
from .trace import trace

__all__ = ["Item", "arrange", "compose"]

Item = Layer | FunctionMiddleware

_BUILT_IN: Sequence[type[Layer]] = (
    trace,
    dead_letter,
    retry_budget,
    deadline,
    retry,
    concurrency,
    rate_limit,
    circuit,
    timeout,
    idempotent,
)
_PER_ATTEMPT = "retry"
"""Functions of the Bus, and its layers without a place, are put directly inside of it."""


def arrange(where: str, stack: Sequence[Item], lists: Mapping[str, Sequence[Item]]) -> list[Item]:
    """The middleware of a handler, outermost first.

    :param where: the handler, in errors.
    :param stack: what is written at the handler, outermost first.
    :param lists: what its subscription and its Bus have, by what they are called in errors. A list's layer gives way to
        one of its kind in the stack or in an earlier list.

    Raises ConfigError for two layers of one kind, a place that names no layer, and an order that does not agree with
    the places, or that no order could agree with.
    """
    outside = _outside(where, [item for items in (stack, *lists.values()) for item in items])
    _check_order(where, stack, outside, f"async def {where.rsplit(' ', 1)[-1]}(…)")
    for name, items in lists.items():
        _check_order(name, items, outside, None)
    present = {item.kind for item in stack if isinstance(item, Layer)}
    built_in: list[Layer] = []
    others: list[Item] = []
    for item in (*(item for items in lists.values() for item in items), trace(), dead_letter(), retry()):
        if isinstance(item, FunctionMiddleware):
            others.append(item)
        elif item.kind not in present:
            present.add(item.kind)
            (built_in if item.kind in _PLACES else others).append(item)
    result = list(stack)
    for layer in built_in:
        _insert(result, layer, outside[layer.kind])
    placed = {kind for kind, around in outside.items() if around} | {kind for each in outside.values() for kind in each}
    per_attempt = {*outside[_PER_ATTEMPT], _PER_ATTEMPT}
    for item in reversed(others):  # of two with the same place, the first is the outer one
        _insert(result, item, outside[item.kind] if isinstance(item, Layer) and item.kind in placed else per_attempt)
    return result


def compose(innermost: Handler, chain: Chain, items: Sequence[Item]) -> Handler:
    """The handler with its middleware, as arranged, around it. Raises ConfigError for what the subscription cannot
    have."""
    if chain.handler.asks_for_transaction and not any(getattr(item, "kind", "") == "idempotent" for item in items):
        raise ConfigError(
            chain.handler.where,
            "asks for a transaction, and has no @idempotent(store)",
            "Put @idempotent(store) above it, with the store whose transaction the effect shares.",
        )
    waits_after = any(getattr(item, "waits_after", True) for item in items)
    handler = contained(innermost, chain.giving_up) if waits_after else innermost
    for item in reversed(items):
        handler = item.bind(handler, chain) if isinstance(item, Layer) else item.wrap(handler)
        if not callable(handler):
            raise ConfigError(
                f"middleware {kind_of(item)}",
                f"returned {handler!r} instead of a handler",
                "Return 'async def run(delivery)' from bind().",
            )
    return handler


def _insert(result: list[Item], item: Item, outside: set[str]) -> None:
    """Behind the last layer that belongs outside of it."""
    at = 0
    for index, layer in enumerate(result):
        if isinstance(layer, Layer) and layer.kind in outside:
            at = index + 1
    result.insert(at, item)


def _check_order(where: str, items: Sequence[Item], outside: Mapping[str, set[str]], function: str | None) -> None:
    """Layers stand in the order of their places, each kind once. ``function``: what the items decorate, if they do."""
    layers = [item for item in items if isinstance(item, Layer)]
    names = [layer.kind for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(where, f"has @{name} twice", "Keep one of them.")
    right: list[str] = []
    left = list(names)
    while left:  # the first that no other belongs outside of: those without a place to each other stay as they are
        first = next(name for name in left if not outside[name].intersection(left))
        left.remove(first)
        right.append(first)
    if right != names:
        order = (
            f"middleware=[{', '.join(f'{name}(…)' for name in right)}]"
            if function is None
            else "\n".join((*(f"    @{name}(…)" for name in right), f"    {function}"))
        )
        raise ConfigError(
            where,
            f"its decorators stand in the order {', '.join('@' + name for name in names)}",
            f"The right order, outermost first, is:\n{order}",
        )


def _outside(where: str, items: Iterable[Item]) -> dict[str, set[str]]:
    """By kind, all kinds that belong outside of it: those of the built-ins, and of these items."""
    direct = {kind: set(around) for kind, around in _PLACES.items()}
    for layer in items:
        if isinstance(layer, Layer):
            around = direct.setdefault(layer.kind, set())
            around.update(_named(where, layer, "after"))
            for name in _named(where, layer, "before"):
                direct.setdefault(name, set()).add(layer.kind)
    result: dict[str, set[str]] = {}

    def around_all(kind: str, way: tuple[str, ...]) -> set[str]:
        if kind in way:
            circle = (*way[way.index(kind) :], kind)
            raise ConfigError(
                where,
                f"its middleware stands in a circle: {' inside '.join('@' + name for name in circle)}",
                "Change before or after of one of them.",
            )
        if kind not in result:
            near = direct.get(kind, set())
            result[kind] = near.union(*(around_all(each, (*way, kind)) for each in sorted(near)))
        return result[kind]

    for kind in direct:
        around_all(kind, ())
    return result


def _named(where: str, layer: Layer, side: str) -> tuple[str, ...]:
    """The kinds that a layer names on one side of it."""
    names = one_or_several(f"middleware {layer.kind}, {side}", getattr(layer, side))
    for name in names:
        if name not in kinds:
            raise ConfigError(
                where, f"@{layer.kind} stands {side} {name!r}, which is not a middleware", nearest(name, kinds)
            )
    return names


_PLACES = {layer.kind: set(one_or_several("after", layer.after)) for layer in _BUILT_IN}
