"""Bus: the one object of a service. It only wires the parts together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from typing_extensions import TypeForm

from .adapter import Start
from .codec.choice import Codecs
from .codec.port import Codec
from .config.registry import AdapterFactory, check_factory
from .config.settings import DEFAULT_URL, TopicSettings, load_settings, parse_url
from .deadletters.hook import DeadLetterHook, OnDeadLetter
from .engine.core import Core
from .engine.observing import Observer
from .engine.offline import Offline
from .engine.parts import Added, Part
from .engine.signals import Main, run_until_signal
from .engine.sinks import Sink
from .engine.subscriptions import Subscriptions
from .errors import ConfigError, StateError
from .handlers.provide import Provided
from .idempotency import Store
from .looking import LookingBus
from .middleware.function import AnyMiddleware, from_callable
from .middleware.outgoing import PublishMiddleware
from .outbox import Outbox, OutboxRelay
from .outbox.choosing import check_outbox, make_outbox
from .subscription import Subscription, SubscriptionOptions

__all__ = ["AdapterFactory", "Bus"]

_F = TypeVar("_F", bound=Callable[..., object])
_P = TypeVar("_P")
_Part = TypeVar("_Part", bound=Part)


class Bus(LookingBus):
    """Publishes events and runs the handlers of one service.

    :param url: the broker (``scheme://user:password@host:port/path?option=value``), or an object that makes the
        adapter (``MemoryBroker()``). Without it: ``ANYBROKER_URL``, then ``anybroker.toml``, then the embedded broker's
        file in the working folder, named in a warning.
    :param source: CloudEvents ``source`` of what is published: the service's name, the same in all its replicas.
    :param middleware: for every handler; the same kind at a handler replaces it. Functions of your own run around each
        attempt.
    :param publish_middleware: around every publish, outermost first.
    :param outbox: where ``publish(…, within=transaction)`` writes events, as a part of that transaction: an
        :class:`~anybroker.outbox.Outbox` or its URL (``postgresql://host/shop``, ``sqlite:///shop.db``).
    :param relay: bring what is in the outbox to the broker while this Bus runs; any number of processes may. Where
        neither this nor ``consume`` is set, a Bus with an outbox connects to no broker.
    :param sinks: other places for ``publish(…, within=transaction)``.
    :param codecs: what reads and writes data beside JSON (:class:`anybroker.codec.Codec`): objects, or names of
        installed ones. A topic's setting ``codec`` says which one writes; the event's content type which one reads.
    :param consume: False: only publish; subscriptions are declared but not started (a web process).
    :param topics: settings by topic name, as in ``anybroker.toml``.
    :param provision: ``create`` topics and groups at the start, only ``verify`` them, or neither (``off``).
    :param lease: seconds after which what a crashed member held goes to another.
    :param drain: seconds that handlers in flight have at shutdown before they are cancelled.
    :param publish_deadline: seconds by which every publish has ended.
    :param connect_timeout: seconds by which the broker must have answered at the start.
    :param slow_after: seconds after which a handler that still runs is logged (default: half the lease).
    :param max_hops: handlers in a row that may lead to an event (default 50): one with more is dead-lettered, so that
        services that answer each other do not run for ever.
    :param idempotency: the store of handlers with ``@idempotent()``, or its URL (``sqlite:///shop.db``, ``memory://``).
        Without it: memory under a broker in memory, else a file of this machine beside the embedded broker's.
    :param audit: the file to which every change of dead letters is written, one JSON line before it and one after it:
        who, when, which, how many. Without it they are only in the log (``anybroker.audit``).
    :param on_dead_letter: an async function, called with the delivery and what it died of once a dead letter is stored;
        one after the other, and nothing waits for it. Failures are logged and counted (``stats.hooks_failed``).
    :param deduplication_key: a secret, alike in all services that publish to the same topics. Where the broker drops
        copies by id (NATS, SQS), nobody without it can know an event's id there in advance, and publish something else
        under it so that the event itself is dropped.

    ``async with bus:`` connects, provisions and starts; leaving it drains and closes. :meth:`run` does that until
    SIGTERM or SIGINT. Raises ConfigError for wrong settings, before anything is sent.
    """

    def __init__(
        self,
        url: str | AdapterFactory | None = None,
        *,
        source: str | None = None,
        middleware: Sequence[AnyMiddleware] = (),
        publish_middleware: Sequence[PublishMiddleware] = (),
        outbox: str | Outbox | None = None,
        relay: bool = True,
        sinks: Sequence[Sink] = (),
        codecs: Sequence[str | Codec] = (),
        consume: bool = True,
        topics: Mapping[str, TopicSettings | Mapping[str, object]] | None = None,
        provision: Literal["create", "verify", "off"] | None = None,
        lease: float | None = None,
        drain: float | None = None,
        publish_deadline: float | None = None,
        connect_timeout: float | None = None,
        slow_after: float | None = None,
        max_hops: int | None = None,
        idempotency: str | Store | None = None,
        audit: str | None = None,
        on_dead_letter: OnDeadLetter | None = None,
        deduplication_key: str | None = None,
        adapters: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        settings = load_settings(
            {
                "url": url if isinstance(url, str) else None,
                "source": source,
                "topics": topics,
                "provision": provision,
                "lease": lease,
                "drain": drain,
                "publish_deadline": publish_deadline,
                "connect_timeout": connect_timeout,
                "slow_after": slow_after,
                "max_hops": max_hops,
                "idempotency": idempotency if isinstance(idempotency, str) else None,
                "outbox": outbox if isinstance(outbox, str) else None,
                "audit": audit,
                "deduplication_key": deduplication_key,
                "adapters": adapters,
            }
        )
        factory = None if url is None or isinstance(url, str) else check_factory(url)
        if outbox is None or isinstance(outbox, str):
            outbox = None if settings.outbox is None else make_outbox(settings.outbox)
        if outbox is not None:
            sinks = (check_outbox(outbox), *sinks)
            if not consume and not relay:
                factory = Offline()
        subscriptions: Subscriptions[Subscription] = Subscriptions()
        core = Core(
            settings,
            factory,
            settings.idempotency if idempotency is None else idempotency,
            tuple(from_callable(item) for item in middleware),
            Codecs(codecs, settings.topics),
            sinks,
            subscriptions.wanted,
        )
        super().__init__(core, publish_middleware, subscriptions, consume)
        if outbox is not None and relay:
            self.add(OutboxRelay(outbox))
        if on_dead_letter is not None:
            hook = DeadLetterHook(on_dead_letter, self._hook_failed)
            self.observe(hook)
            self.add(hook)

    # --------------------------------------------------------------------------------------------- declaring

    def subscribe(
        self,
        topic: str,
        *,
        group: str,
        type: str | Iterable[str] | None = None,
        ordered: bool | None = None,
        start: Start = "new",
        lanes: int | None = None,
        max_in_flight: int | None = None,
        max_ahead: int | None = None,
        poison_after: int = 100,
        unhandled: Literal["skip", "dead_letter"] = "skip",
        batch: int | None = None,
        within: float = 0.2,
        middleware: Sequence[AnyMiddleware] = (),
        name: str | None = None,
    ) -> Callable[[_F], _F]:
        """Decorate the only handler of a group of a topic; the function stays directly callable.

        For several handlers of one group use :meth:`subscription`, whose parameters these are. ``type``, ``batch``,
        ``within`` and ``name`` are those of :meth:`Subscription.on`. Raises ConfigError, the signature's errors
        included.
        """
        if self._core.state not in ("new", "closed"):
            raise StateError(
                f"subscribe {topic}/{group}: the Bus is {self._core.state}. Subscribe before it starts; or make it "
                "with bus.subscription(…), give it handlers, and await bus.add(subscription)"
            )
        if self._subscriptions.get(topic, group) is not None:
            raise ConfigError(
                f"subscription {topic}/{group}",
                "is there already",
                f"For several handlers: sub = bus.subscription({topic!r}, group={group!r}), then @sub.on for each.",
            )

        def decorate(function: _F) -> _F:
            subscription = self.subscription(
                topic,
                group=group,
                ordered=ordered,
                start=start,
                lanes=lanes,
                max_in_flight=max_in_flight,
                max_ahead=max_ahead,
                poison_after=poison_after,
                unhandled=unhandled,
                middleware=middleware,
            )
            try:
                subscription.on(function, type=type, batch=batch, within=within, name=name)
            except ConfigError:
                self._subscriptions.remove(topic, group)
                raise
            return function

        return decorate

    def subscription(
        self,
        topic: str,
        *,
        group: str,
        ordered: bool | None = None,
        start: Start = "new",
        lanes: int | None = None,
        max_in_flight: int | None = None,
        max_ahead: int | None = None,
        poison_after: int = 100,
        unhandled: Literal["skip", "dead_letter"] = "skip",
        middleware: Sequence[AnyMiddleware] = (),
    ) -> Subscription:
        """The subscription of a group of a topic, to which ``@sub.on`` adds handlers.

        :param ordered: events of one key one at a time and in order (default: as the topic, which is ordered unless
            its configuration says otherwise).
        :param start: where a group that does not exist yet begins: ``new``, ``earliest``, or a moment where the broker
            can.
        :param lanes: in how many lanes the group is kept in order (default: the topic's, 4).
        :param max_in_flight: handlers in flight at once, 100 by default.
        :param max_ahead: events fetched beyond the oldest unfinished one, 10,000 by default.
        :param poison_after: hand-overs by the broker after which an event is dead-lettered unstarted.
        :param unhandled: what happens to an event of a type that no handler takes: ``skip`` (counted) or
            ``dead_letter``.
        :param middleware: for every handler of this subscription.

        Asked for again with the same settings it is the same object; with others it is a ConfigError. One that is made
        while the Bus runs receives nothing until ``await bus.add(subscription)``.
        """
        options = SubscriptionOptions(
            ordered=ordered,
            start=start,
            lanes=lanes,
            max_in_flight=max_in_flight,
            max_ahead=max_ahead,
            poison_after=poison_after,
            unhandled=unhandled,
            middleware=tuple(from_callable(item) for item in middleware),
        )
        subscription = self._subscriptions.get(topic, group)
        if subscription is None:
            if self._core.state in ("starting", "closing"):
                raise StateError(f"subscription {topic}/{group}: the Bus is {self._core.state}; subscribe before")
            subscription = Subscription(self._core, topic, group, options)
            self._subscriptions.add(subscription, late=self._core.state == "started")
        elif subscription.options != options:
            raise ConfigError(
                f"subscription {topic}/{group}", "is there already with other settings", "Give them in one place."
            )
        return subscription

    def provide(
        self,
        kind: TypeForm[_P],
        factory: Callable[[], Provided[_P]],
        *,
        scope: Literal["process", "delivery"] = "process",
    ) -> None:
        """Let handlers ask for this type: the factory returns a value, an awaitable or an (async) context manager.

        ``process``: made at the start, ended at close (StateError while the Bus runs); ``delivery``: for each start.
        """
        self._core.provide(kind, factory, scope)

    # -------------------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> Bus:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect, provision, start the parts and the subscriptions; also again after :meth:`close`, in any event loop.

        Raises ConfigError or BrokerError, and leaves nothing open.
        """
        await self._life.start()

    def add(self, part: _Part) -> Added[_Part]:
        """Have a part, such as a relay, a timer or a server, live and die with the Bus: :class:`anybroker.Part`.

        On a Bus that does not run it is started with the Bus. ``await bus.add(part)`` on a running one starts it now,
        and raises what its start raises; so it does with a :class:`Subscription` of this Bus. Not awaited, a failure is
        logged and in :attr:`problems`. Raises ConfigError for what is not a part.
        """
        return self._life.add(part, self)

    def observe(self, observer: Observer) -> None:
        """Tell it what happens in this Bus, from the next start on: :class:`anybroker.Observer`. There may be several.

        Raises ConfigError for what is not an Observer, StateError while the Bus runs.
        """
        self._life.observe(observer, self)

    def watch(self, topic: str, *, group: str) -> None:
        """Tell observers of this group's lag and dead letters too; it is neither joined nor made. One that is missing
        is in :attr:`problems`, and asked for again. Raises ConfigError, or CapabilityError where none can be asked."""
        self._life.watch(topic, group)

    async def close(self, drain: float | None = None) -> None:
        """Stop fetching, let handlers finish (``drain`` seconds), settle, flush what was published, close.

        Idempotent, and safe to call from several tasks: all wait for the one that closes. Cancelling the waiting does
        not stop the closing. ``StateError`` inside a handler, which it would wait for, and in another event loop.
        """
        await self._life.close(drain)

    def run(self, main: Main | None = None) -> None:
        """Start, and run until SIGTERM or SIGINT; then drain and close.

        A second signal cancels what still runs and closes at once; a third one ends the program where it is, with the
        exit code 128 + its number. ``main`` is an async function of the program's own that is started once the Bus is;
        the Bus goes on when it returns, and closes and raises when it fails, or exits (``sys.exit``).
        """
        asyncio.run(self.run_async(main))

    async def run_async(self, main: Main | None = None) -> None:
        """What :meth:`run` does, in a loop that runs already. Installs the signal handlers while it lasts."""
        await run_until_signal(self, self._life.give_up, main, self._where, self.settings.drain)

    def _where(self) -> str:
        """The broker, for the log; without its password."""
        if self._core.factory is not None:
            return self.adapter.capabilities.adapter
        return str(parse_url(self.settings.url or DEFAULT_URL))
