"""A member of a consumer group: its lanes, and the records that it receives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import TopicPartition

from anybroker.adapter import Commit, Inbound, Lane, LaneListener, Settlement
from anybroker.errors import BrokerError, LeaseLost, Unavailable
from anybroker.printable import logger

from .closing import Closing, ignore_outcome
from .cluster import BEGINNING, Cluster, Positions
from .commits import Commits
from .failures import CLIENT_ERRORS, failure, unavailable
from .fetched import read_as_parsed
from .names import inlet_of, lane_name
from .records import KafkaInbound, Native
from .topic_watch import TopicWatch
from .wire import Wire

__all__ = ["KafkaReceiver"]

_log = logger("anybroker.kafka")

WATCH = 3.0
"""Seconds between two looks at whether the topics are still those that the lanes are of."""
POLL = 0.5
"""Seconds of one ``getmany``: a later ``receive`` takes up what an earlier one did not wait for."""
_REFUSAL_CHECK = 0.1
"""Seconds between two questions whether the group refuses us: aiokafka tells nobody who does not ask."""
_Records = Mapping[TopicPartition, Sequence[KafkaInbound | Native]]


class KafkaReceiver(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka has no types
    """Consumes a topic and the group's inlet together, one lane a partition.

    aiokafka's rebalances are eager: every one takes all lanes away and gives some back, under a new epoch. Each epoch
    starts at the committed positions that were read together with their notes.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        group: str,
        cluster: Cluster,
        wire: Wire,
        listener: LaneListener,
        epochs: Iterator[int],
        closing: Closing,
        *,
        timeout: float,
        drain: float,
        fit: Callable[[], Awaitable[None]] | None = None,
        refused: Callable[[BaseException], None] | None = None,
        watch: float = WATCH,
    ) -> None:
        """``fit``: gives the inlet as many partitions as the topic has, where the adapter may; ``refused`` is told why
        the group did not accept us; ``watch``: seconds between two looks at the topics."""
        self._consumer = consumer
        self._group = group
        self._inlet = inlet_of(group)
        self._cluster = cluster
        self._wire = wire
        self._listener = listener
        self._epochs = epochs
        self._closing = closing
        self._timeout = timeout
        self._drain = drain
        self._refused = refused
        self._commits = Commits(consumer, group, timeout)
        self._watch = TopicWatch(cluster, group, fit)
        self._watch_interval = watch
        self._watcher: asyncio.Task[None] | None = None
        self._lanes: dict[TopicPartition, Lane] = {}
        self._held: dict[Lane, TopicPartition] = {}
        self._assigned = False
        self._stopped = False
        self._closed = False
        self._failure: BrokerError | None = None
        self._poll: asyncio.Task[_Records] | None = None
        self._surplus: dict[TopicPartition, Sequence[KafkaInbound | Native]] = {}
        """What a poll has brought beyond what ``receive`` was asked for."""
        self._changed = asyncio.get_running_loop().create_future()

    async def start(self, topics: tuple[str, ...]) -> None:
        """Connect and ask to join; the lanes come later, through the listener."""
        self._watch.topics = topics
        await self._consumer.start()
        read_as_parsed(self._consumer, self._wire, self._cluster.limit)
        self._consumer.subscribe(list(topics), listener=self)
        self._watcher = asyncio.create_task(self._keep_watching(), name=f"anybroker kafka watch {self._group}")
        self._watcher.add_done_callback(ignore_outcome)

    async def joined(self) -> None:
        """Wait for the group's answer, within the request time-out; raises what it refuses us for."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        while not self._assigned and not self._stopped and loop.time() < end:
            if self._is_refused():
                assert self._failure is not None
                raise self._failure
            await asyncio.wait({self._changed}, timeout=_REFUSAL_CHECK)

    @property
    def hindrance(self) -> str | None:
        """See :class:`anybroker.adapter.TellsHindrance`. aiokafka waits for a broker without a word."""
        return self._watch.hindrance

    async def _keep_watching(self) -> None:
        while True:
            await asyncio.sleep(self._watch_interval)
            if self._is_refused():
                return
            error = await self._watch.look()
            if error is not None:
                self._fail(error)
                return

    def _is_refused(self) -> bool:
        """Whether the group has refused us, or aiokafka's coordination has ended. It keeps the reason for the next
        ``getmany``, and without lanes there is none: nothing would be consumed, and nothing said."""
        coordinator: Any = self._consumer._coordinator
        try:
            coordinator.check_errors()
        except Exception as exc:  # noqa: BLE001 - whatever ended it: another receiver says so, and tries again
            if self._refused is not None:
                self._refused(exc)
            self._fail_with(exc, "joining")
            return True
        return False

    # ------------------------------------------------------------------------------------------------- receiving

    async def receive(self, limit: int, /, *, lanes: Collection[Lane] | None, timeout: float) -> Sequence[Inbound]:
        """See :meth:`anybroker.adapter.Receiver.receive`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self._stopped:
            if self._failure is not None:
                raise self._failure
            tps = self._with_room(lanes)
            if tps:
                records = self._take_surplus(tps, limit)
                if not records and self._poll is None:
                    records = await self._getmany(lanes, tps, limit, 0)
                if records:
                    return self._inbounds(records)
                if self._poll is None and self._assigned:
                    self._poll = asyncio.create_task(self._getmany(lanes, tps, limit, POLL))
                    self._poll.add_done_callback(ignore_outcome)
            left = end - loop.time()
            if left <= 0:
                break
            # A poll that has ended waits for its lanes to have room, and would not wait here.
            poll = self._poll
            waiting = {self._changed} if poll is None or poll.done() else {self._changed, poll}
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return ()

    def _with_room(self, lanes: Collection[Lane] | None) -> Collection[TopicPartition]:
        """The partitions to take from; none while a rebalance is under way."""
        if not self._assigned:
            return ()
        if lanes is None:
            return self._lanes
        held = self._held
        return [held[lane] for lane in lanes if lane in held]

    async def _getmany(
        self, lanes: Collection[Lane] | None, tps: Collection[TopicPartition], limit: int, timeout: float
    ) -> _Records:
        """One call of the client, never cancelled while the receiver lives: that would confuse its idle detection.

        Without partitions it takes from all, and is quicker.
        """
        try:
            records: _Records = await self._consumer.getmany(
                *(() if lanes is None else tps), timeout_ms=int(timeout * 1000), max_records=limit
            )
        except ConsumerStoppedError:
            return {}
        except Exception as exc:
            # Kafka's errors, and whatever a decompressor or a bug of the client raises: another consumer may go on.
            raise self._fail_with(exc, "receiving") from exc
        return records

    def _take_surplus(self, tps: Collection[TopicPartition], limit: int) -> _Records:
        """What an earlier poll has brought, for these partitions, up to the limit; the rest stays for later."""
        if self._poll is not None and self._poll.done():
            poll, self._poll = self._poll, None
            for tp, records in poll.result().items():
                self._surplus[tp] = [*self._surplus.get(tp, ()), *records]
        if not self._surplus:
            return {}
        taken: dict[TopicPartition, Sequence[KafkaInbound | Native]] = {}
        for tp in [tp for tp in self._surplus if tp in tps]:
            records = self._surplus.pop(tp)
            taken[tp] = records[:limit]
            if len(records) > limit:
                self._surplus[tp] = records[limit:]
            limit -= len(taken[tp])
            if limit <= 0:
                break
        return taken

    def _inbounds(self, records: _Records) -> list[Inbound]:
        """The records of lanes that are still ours, each in its lane."""
        inbounds: list[Inbound] = []
        for tp, batch in records.items():
            lane = self._lanes.get(tp)
            if lane is not None:
                by_inlet = tp.topic == self._inlet
                for item in batch:
                    inbound = item if isinstance(item, KafkaInbound) else self._wire.read(tp, item)
                    inbound.lane = lane
                    inbound.inlet = by_inlet
                    inbounds.append(inbound)
        return inbounds

    def _fail_with(self, exc: BaseException, doing: str) -> BrokerError:
        """The client does not repair this: the core opens another receiver."""
        error = unavailable(failure(exc, f"{doing} as a member of {self._group!r}"))
        error.__cause__ = exc
        return self._fail(error)

    def _fail(self, error: BrokerError) -> BrokerError:
        """End this receiver; the first error is what ``receive`` raises."""
        self._failure = self._failure or error
        self._wake()
        return self._failure

    def _wake(self) -> None:
        """Let a waiting ``receive`` look again."""
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        if not changed.done():
            changed.set_result(None)

    # ------------------------------------------------------------------------------------------------ rebalancing

    # aiokafka awaits what these two return, whatever its annotations say.

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: Collection[TopicPartition]
    ) -> None:
        """aiokafka's call before it joins again: the core finishes and settles; our membership lasts meanwhile."""
        self._assigned = False
        lanes = list(self._held)
        try:
            if lanes:
                async with asyncio.timeout(self._drain):
                    await self._listener.revoked(lanes)
        except TimeoutError:
            self._listener.lost(lanes)
        finally:
            self._forget()

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Collection[TopicPartition]
    ) -> None:
        """aiokafka's call after it joined. It only logs what this raises."""
        if self._stopped:
            return
        tps = sorted(assigned)
        try:
            async with asyncio.timeout(self._timeout):
                positions = await self._cluster.positions(self._group, tps) if tps else Positions({}, {}, {})
                begins = await self._cluster.offsets(dict.fromkeys(tps, BEGINNING))
            commits = positions.commits
            self._forget()
            self._commits.begin(positions)
            self._watch.known = positions.topics
            for tp in tps:
                # From where its note says, and not from what aiokafka reads by itself: while a coordinator is loading,
                # it believes that there is no commit.
                self._consumer.seek(tp, commits[tp].offset if tp in commits else begins[tp])
            self._log_starts(tps, positions, begins)
        except CLIENT_ERRORS as exc:
            self._fail_with(exc, "reading the committed positions")
            return
        epoch = next(self._epochs)
        for tp in tps:
            lane = Lane(lane_name(tp), epoch)
            self._lanes[tp] = lane
            self._held[lane] = tp
            self._listener.assigned(lane, commits[tp].metadata if tp in commits else "")
        self._assigned = True
        self._wake()

    def _log_starts(
        self, tps: Collection[TopicPartition], positions: Positions, begins: Mapping[TopicPartition, int]
    ) -> None:
        """Which lanes start elsewhere than where the group has stopped, and why."""
        group, stale, commits = self._group, positions.stale, positions.commits
        if stale:
            old = ", ".join(f"{lane_name(tp)} up to {offset}" for tp, offset in stale.items())
            _log.warning(
                "%r had handled %s, in topics that were made again since: it starts at their beginning", group, old
            )
        if new := ", ".join(lane_name(tp) for tp in tps if tp not in commits and tp not in stale):
            _log.warning("%r has no position in %s: it starts at the oldest event there", group, new)
        for tp in tps:
            if tp in commits and commits[tp].offset < begins[tp]:
                lost = begins[tp] - commits[tp].offset
                _log.warning(
                    "%r goes on at %d in %s: %d offsets before it were deleted by retention, and not handled",
                    group, begins[tp], lane_name(tp), lost,
                )  # fmt: skip

    def _forget(self) -> None:
        """Nothing that was polled until now belongs to the lanes to come; a poll that still waits will bring theirs."""
        self._lanes.clear()
        self._held.clear()
        self._surplus.clear()
        self._commits.end()
        if self._poll is not None and self._poll.done():
            self._poll = None

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. One commit for all lanes; works inside ``revoked`` too."""
        held = self._held
        commits = {held[item.lane]: item for item in batch if isinstance(item, Commit) and item.lane in held}
        errors = await self._commits.store(commits)
        if any(isinstance(error, LeaseLost) for error in errors.values()):
            self._lose_lanes()
        return [self._result(item, errors) for item in batch]

    def _result(self, item: Settlement, errors: Mapping[TopicPartition, BrokerError]) -> BrokerError | None:
        if not isinstance(item, Commit):
            return Unavailable("Kafka settles positions, not single deliveries: a Commit was expected")
        tp = self._held.get(item.lane)
        if tp is None:
            return LeaseLost(f"partition {item.lane.name} has gone to another member of {self._group!r}")
        return errors.get(tp)

    def _lose_lanes(self) -> None:
        """The coordinator has put us out of the group, and its lanes may be with others already."""
        lanes = list(self._held)
        self._assigned = False
        self._forget()
        if lanes:
            self._listener.lost(lanes)

    async def give_back(self, lane: Lane, /) -> None:
        """Nothing: Kafka balances partitions itself."""

    # ------------------------------------------------------------------------------------------------------- end

    async def stop(self) -> None:
        """See :meth:`anybroker.adapter.Receiver.stop`."""
        self._stopped = True
        self._wake()

    async def close(self) -> None:
        """Leave the group, within the request time-out; a coordinator that does not answer is left to the session."""
        await self.stop()
        if not self._closed:
            self._closed = True
            self._commits.close()
            if self._watcher is not None:
                self._watcher.cancel()
            await self._closing.begin(self._leave(), self._timeout)

    async def _leave(self) -> None:
        """What was fetched and not committed stays uncommitted. aiokafka does not call us back here."""
        try:
            await self._consumer.stop()
        finally:
            # They may wait forever for an assignment or a coordinator.
            for task in (self._poll, self._commits.under_way):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
