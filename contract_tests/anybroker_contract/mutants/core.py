"""Flaws of the core itself, put in its place while the broken adapter is in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from importlib import import_module
from inspect import getattr_static
from typing import Any, ClassVar, Literal

from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from anybroker import Delivery, Event, looking, names, printable, publishing
from anybroker.adapter import Adapter, Outbound, Topology
from anybroker.deadletters import letter, queue
from anybroker.delivery import current_delivery
from anybroker.engine import batch, context, copies, intake, outgoing, pump, settle, signals, spans, starting, waiting
from anybroker.engine.publisher import Publisher
from anybroker.errors import Unavailable
from anybroker.observe import flood, logs, metrics

from .breaking import Flaw


class CoreFlaw(Flaw):
    """Replaces functions of a module of the core from the first declare until its last adapter is closed."""

    module: ClassVar[Any]
    replaced: ClassVar[Mapping[str, str]]
    """By the name in the module: the name of the method here that takes its place."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Fails for a name that is not there any more: the tests would be said to notice the flaw, and notice that."""
        super().__init_subclass__(**options)
        for name in cls.replaced:
            getattr_static(cls.module, name)

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._right: dict[str, Any] = {}

    async def declare(self, adapter: Adapter, topology: Topology, mode: Literal["create", "verify"]) -> None:
        """Adapter.declare."""
        if not self._open:
            for name, mine in self.replaced.items():
                self._right[name] = getattr_static(self.module, name)
                setattr(self.module, name, getattr(self, mine))
        self._open.add(id(adapter))
        await adapter.declare(topology, mode)

    async def close_adapter(self, adapter: Adapter) -> None:
        """Adapter.close."""
        self._open.discard(id(adapter))
        if not self._open:
            while self._right:
                name, right = self._right.popitem()
                setattr(self.module, name, right)
        await adapter.close()


class SendsHeadersUnchecked(CoreFlaw):
    """Whatever headers a caller gives go to the adapter as they are."""

    module: ClassVar[Any] = publishing
    replaced: ClassVar[Mapping[str, str]] = {"check_headers": "as_given"}

    def as_given(self, headers: Any) -> dict[Any, Any]:
        """As it was before they were checked."""
        return dict(headers)


class DerivesIdsFromThePosition(CoreFlaw):
    """What a handler publishes gets an id of its position alone."""

    module: ClassVar[Any] = outgoing
    replaced: ClassVar[Mapping[str, str]] = {"_derived_id": "derive"}

    def derive(self, event: Event[Any], cause: Delivery, topic: str, *_: object) -> str:
        """As it was before the data took part."""
        cause.published = cause.published or {}
        position = cause.published[b""] = cause.published.get(b"", 0) + 1
        text = f"{cause.event.source}\0{cause.event.id}\0{cause.group}\0{topic}\0{event.type}\0{event.key}\0{position}"
        return blake2b(text.encode(), digest_size=16).hexdigest()


class SharesOneContext(CoreFlaw):
    """Handlers run in the context of whichever worker they get."""

    module: ClassVar[Any] = pump
    replaced: ClassVar[Mapping[str, str]] = {"start": "start"}

    async def start(self, _: object, handle: Any, delivery: Delivery) -> None:
        """As it was before each start had its own context."""
        current_delivery.set(delivery)
        await handle(delivery)


class KeepsTheCause(CoreFlaw):
    """What a handler leaves behind publishes in the name of the event that is finished."""

    module: ClassVar[Any] = publishing
    replaced: ClassVar[Mapping[str, str]] = {"current_cause": "cause"}

    def cause(self) -> Delivery | None:
        """As it was before a start had an end."""
        return current_delivery.get()


class TakesTheFirstOfABatchForTheCause(CoreFlaw):
    """What a batch handler publishes takes its trace from one event of the batch."""

    module: ClassVar[Any] = batch.BatchCollector
    replaced: ClassVar[Mapping[str, str]] = {"_start": "begin"}

    def __init__(self) -> None:
        super().__init__()
        right = batch.BatchCollector._start

        async def begin(collector: Any, items: Any) -> None:
            """In the name of the first."""
            current_delivery.set(items[0].delivery)
            await right(collector, items)

        self.begin = begin

    begin: Any


class TakesEveryExitForItsOwn(CoreFlaw):
    """A handler's own cancellation, or its SystemExit, is taken for the engine's."""

    module: ClassVar[Any] = import_module("anybroker.middleware.retry")
    replaced: ClassVar[Mapping[str, str]] = {"cancelled_from_outside": "always"}

    def always(self, *_: object) -> bool:
        """As it was before they were told apart."""
        return True


class KeepsACancellation(CoreFlaw):
    """A cancellation that a handler asked for hits what comes after it."""

    module: ClassVar[Any] = starting
    replaced: ClassVar[Mapping[str, str]] = {"take_back_cancellation": "nothing"}

    async def nothing(self, *_: object) -> None:
        """As it was before it was taken back."""


class CountsAStartThatIsCutOff(CoreFlaw):
    """A start that the drain time cuts off uses up an attempt."""

    module: ClassVar[Any] = pump
    replaced: ClassVar[Mapping[str, str]] = {"starts_before": "attempt"}

    def attempt(self, delivery: Delivery) -> int:
        """As it was before it counted nothing."""
        return delivery.attempt


class ForgetsWhatCouldNotBeSettled(CoreFlaw):
    """A settlement that failed is not made again."""

    module: ClassVar[Any] = settle.Settler
    replaced: ClassVar[Mapping[str, str]] = {"_sort_out": "forget"}

    def forget(self, *_: object) -> bool:
        """As it was before it was kept."""
        return False


class WritesTextAsItIs(CoreFlaw):
    """What failed is written beside a dead letter whole, with line breaks and whatever else is in it."""

    module: ClassVar[Any] = letter
    replaced: ClassVar[Mapping[str, str]] = {"clip": "whole"}

    def whole(self, text: str, _: int) -> str:
        """As it was raised."""
        return text


class LosesTheStack(CoreFlaw):
    """A dead letter says what failed, and not where."""

    module: ClassVar[Any] = letter
    replaced: ClassVar[Mapping[str, str]] = {"stack_of": "nothing"}

    def nothing(self, _: BaseException) -> None:
        """As it was before there was one."""


class KeepsToItsContentMode(CoreFlaw):
    """A copy of an event is written in the content mode that is set, whether it fits or not."""

    module: ClassVar[Any] = Outbound
    replaced: ClassVar[Mapping[str, str]] = {"may_change_mode": "never"}
    never = False


class ReadsAnEmptyContentType(CoreFlaw):
    """A content type that is null or empty is read as one, and found wrong."""

    module: ClassVar[Any] = import_module("anybroker.cloudevents.headers")
    replaced: ClassVar[Mapping[str, str]] = {"_says_nothing": "never"}

    def never(self, _: object) -> bool:
        """As it was before there was a rule."""
        return False


class OrdersByKeysOfAnyLength(CoreFlaw):
    """A key is what orders an event, however long it is."""

    module: ClassVar[Any] = names
    replaced: ClassVar[Mapping[str, str]] = {"MAX_KEY_BYTES": "endless"}
    endless = 1_000_000_000


class AsksTheStoreForWhatItIsGiven(CoreFlaw):
    """An idempotency store is to remember sources and ids of any length."""

    module: ClassVar[Any] = import_module("anybroker.middleware.idempotent")
    replaced: ClassVar[Mapping[str, str]] = {"_LONGEST_TEXT": "endless"}
    endless = 1_000_000_000


class RemembersEveryName(CoreFlaw):
    """What was found out about an attribute is kept, however long its name is."""

    module: ClassVar[Any] = import_module("anybroker.cloudevents.attributes")
    replaced: ClassVar[Mapping[str, str]] = {"LONGEST_NAME": "endless"}
    endless = 1_000_000_000


class BelievesEveryCount(CoreFlaw):
    """Whatever stands where a dead letter has a count is made a number."""

    module: ClassVar[Any] = letter
    replaced: ClassVar[Mapping[str, str]] = {"count_of": "any_number"}

    def any_number(self, text: str) -> int:
        """As it was."""
        return int(text or "0")


class LogsWhatOthersWrote(CoreFlaw):
    """Names and errors go into the log as they are."""

    module: ClassVar[Any] = printable._Printable
    replaced: ClassVar[Mapping[str, str]] = {"filter": "as_it_is"}

    def as_it_is(self, _: object) -> bool:
        """As it was."""
        return True


class ReasonsSteerTheTerminal(CoreFlaw):
    """The reason of a dead letter has the error's control characters."""

    module: ClassVar[Any] = printable
    replaced: ClassVar[Mapping[str, str]] = {"printable": "but_for_line_breaks"}

    def but_for_line_breaks(self, text: str) -> str:
        """No line break, since headers have none."""
        return " ".join(text.splitlines())


class BelievesEveryCountOfStarts(CoreFlaw):
    """The number in a header at the inlet is used as the count of handler starts, whatever it is."""

    module: ClassVar[Any] = intake
    replaced: ClassVar[Mapping[str, str]] = {"count_of": "any_number"}

    def any_number(self, value: Any) -> int:
        """As it was before there was a largest one."""
        return int(value) if str(value).isdigit() and len(str(value)) < 10 else 0


class BelievesEveryWait(CoreFlaw):
    """The time in a header at the inlet is waited for, whatever it is."""

    module: ClassVar[Any] = intake
    replaced: ClassVar[Mapping[str, str]] = {"moment_of": "any_moment"}

    def any_moment(self, text: str, _ahead: float) -> float | None:
        """As it was before there was a longest wait; a hundred years are enough to see it."""
        try:
            moment = float(text)
        except ValueError:
            return None
        return min(moment, time.time() + 3e9)


class TellsCopiesApartByTheirIds(CoreFlaw):
    """A copy of an event is called the same as that of another event of its source and id."""

    module: ClassVar[Any] = Publisher
    replaced: ClassVar[Mapping[str, str]] = {"send": "send"}

    def __init__(self) -> None:
        super().__init__()
        right = Publisher.send

        def send(publisher: Any, publishing: Any, deadline: float | None = None) -> Any:
            """As it was before the hop had a place."""
            publishing.hop = "|".join(publishing.hop.split("|")[:4])
            publishing.failure = Unavailable("for the core, it was sent before")
            return right(publisher, publishing, deadline)

        self.send = send

    send: Any


class TakesAnIdForOneDeadLetter(CoreFlaw):
    """An id selects all of its dead letters, no matter who published the events."""

    module: ClassVar[Any] = queue
    replaced: ClassVar[Mapping[str, str]] = {"named": "by_id"}

    def by_id(self, _: str, letters: Any, names: Any) -> list[Any]:
        """As it was before an id could mean several."""
        wanted = set(names)
        return [letter for letter in letters if letter.id in wanted or letter.fingerprint in wanted]


class PassesContextOnAsItCame(CoreFlaw):
    """What a handler publishes takes over whatever its cause says of its trace and of its ids."""

    module: ClassVar[Any] = outgoing
    replaced: ClassVar[Mapping[str, str]] = {"caused": "copy"}

    def copy(self, cause: Delivery, extensions: dict[str, Any], headers: dict[str, str]) -> None:
        """As it was before there were rules."""
        event = cause.event
        extensions.setdefault("causationid", event.id)
        extensions.setdefault("correlationid", event.get("correlationid") or event.id)
        for name in ("traceparent", "tracestate"):
            if name in event:
                extensions.setdefault(name, event[name])
        for name in ("traceparent", "tracestate", "baggage"):
            if name in cause.headers:
                headers.setdefault(name, cause.headers[name])


class CountsNoHops(CoreFlaw):
    """What a handler publishes does not say how many handlers led to it."""

    module: ClassVar[Any] = context
    replaced: ClassVar[Mapping[str, str]] = {"one_hop_more": "nothing"}

    def nothing(self, _cause: Delivery, _extensions: dict[str, Any]) -> None:
        """As it was before hops were counted."""


class ForgetsTheFirstFailure(CoreFlaw):
    """A released copy does not say when its event failed first."""

    module: ClassVar[Any] = copies
    replaced: ClassVar[Mapping[str, str]] = {"first_failure": "never"}

    def never(self, _delivery: Delivery) -> None:
        """As if nothing had failed yet."""


class LinksNothing(CoreFlaw):
    """Spans of starts are children of the publisher's, and link neither it nor the events of a batch."""

    module: ClassVar[Any] = spans
    replaced: ClassVar[Mapping[str, str]] = {"_span_context": "nowhere"}

    def nowhere(self, _: object) -> SpanContext:
        """As it was before there were links."""
        return INVALID_SPAN_CONTEXT


class RecordsNoException(CoreFlaw):
    """A span says that its start has failed, and not with what."""

    module: ClassVar[Any] = spans
    replaced: ClassVar[Mapping[str, str]] = {"_record": "nothing"}

    def nothing(self, *_: object) -> None:
        """As it was before exceptions were recorded."""


class LeavesCopiesBehind(CoreFlaw):
    """A dead letter and a release have the context of the publisher, and not of the start that failed."""

    module: ClassVar[Any] = spans.Spans
    replaced: ClassVar[Mapping[str, str]] = {"carry": "nothing"}

    def nothing(self, *_: object) -> None:
        """As it was before copies went on from a start."""


class ForgetsTheKeyOfIds(CoreFlaw):
    """What copies are known by anybody can work out."""

    module: ClassVar[Any] = Outbound
    replaced: ClassVar[Mapping[str, str]] = {"deduplication_id": "without_key"}

    def __init__(self) -> None:
        super().__init__()
        right = Outbound.deduplication_id
        self.without_key = lambda outbound, _=b"": right(outbound)

    without_key: Any


class LosesTheTraceback(CoreFlaw):
    """A dead letter is logged without where its handler failed."""

    module: ClassVar[Any] = logs
    replaced: ClassVar[Mapping[str, str]] = {"_traced": "nothing"}

    def nothing(self, _: object) -> None:
        """As it was before anybody was on call."""


class LogsAllOfAFlood(CoreFlaw):
    """Each failure has its line in the log, however many there are."""

    module: ClassVar[Any] = flood.Flood
    replaced: ClassVar[Mapping[str, str]] = {"lets": "always"}

    def always(self, *_: object) -> bool:
        """As it was before there was a bound."""
        return True


class LetsAnExitEndTheLoop(CoreFlaw):
    """``sys.exit`` in a program's main ends the loop at once, and the Bus is not closed in it."""

    module: ClassVar[Any] = signals
    replaced: ClassVar[Mapping[str, str]] = {"_run_main": "bare"}

    async def bare(self, main: Any, stopped: asyncio.Task[Any]) -> None:
        """As it was before it was contained."""
        own = asyncio.create_task(main())
        await asyncio.wait((own, stopped), return_when=asyncio.FIRST_COMPLETED)
        own.result()


class IsReadyWhatever(CoreFlaw):
    """A Bus that is started is ready, whatever is away."""

    module: ClassVar[Any] = looking
    replaced: ClassVar[Mapping[str, str]] = {"look_at": "well"}

    def __init__(self) -> None:
        super().__init__()
        right: Any = vars(looking)["look_at"]

        def well(*given: Any) -> Any:
            """As it would be if nothing ever failed."""
            health = right(*given)
            return replace(health, ready=True, why=()) if health.state == "started" else health

        self.well = well

    well: Any


class CountsARetryAsADeadLetter(CoreFlaw):
    """The metric of dead letters counts the starts that are made again."""

    module: ClassVar[Any] = metrics
    replaced: ClassVar[Mapping[str, str]] = {"_COUNTED": "wrong"}
    wrong: ClassVar[tuple[Any, ...]] = tuple(
        (instrument, "retried" if counter == "dead_lettered" else counter) for instrument, counter in metrics._COUNTED
    )


class MeasuresNoErrors(CoreFlaw):
    """In the metrics a start that failed has no type of error."""

    module: ClassVar[Any] = metrics.BusMetrics
    replaced: ClassVar[Mapping[str, str]] = {"_error_type": "nothing"}

    def nothing(self, _: BaseException) -> None:
        """As if it had not failed."""


class CountsWaiting(CoreFlaw):
    """Waiting for a turn in a middleware uses up an attempt."""

    module: ClassVar[Any] = waiting.Waiting
    replaced: ClassVar[Mapping[str, str]] = {"counted": "always"}
    always: ClassVar[bool] = True


class FetchesForNobody(CoreFlaw):
    """More is fetched although no handler of the subscription can use it."""

    module: ClassVar[Any] = pump.Pump
    replaced: ClassVar[Mapping[str, str]] = {"hold_back": "nothing"}

    def nothing(self, *_: object) -> None:
        """Go on."""
