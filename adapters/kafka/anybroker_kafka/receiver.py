"""A member of a consumer group: records in, committed positions out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    IllegalGenerationError,
    IllegalStateError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from anybroker.adapter import Commit, Inbound, Lane, LaneListener, Settlement
from anybroker.errors import BrokerError, ConfigError, LeaseLost, Unavailable
from anybroker.printable import logger

from .batches import TooLargeBatch
from .closing import Closing, looked_at
from .cluster import BEGINNING, Cluster, Positions
from .failures import CLIENT_ERRORS, failure, said
from .identity import TopicInfo, mark
from .names import inlet_of, lane_name
from .records import KafkaInbound, Native, read_as_parsed
from .unreadable import read_again, stand_in
from .wire import Wire

__all__ = ["KafkaReceiver"]

_log = logger("anybroker.kafka")

WATCH = 3.0
"""Seconds between two looks at whether the topics are still those that the lanes are of."""
POLL = 0.5
"""Seconds of one ``getmany``: a later ``receive`` takes up what an earlier one did not wait for."""
_LOOK = 0.1
"""Seconds between two looks for why the group refuses us: aiokafka tells nobody who does not ask."""
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
        the group did not take us."""
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
        self._fit = fit
        self._refused = refused
        self._watch_every = watch
        self._topics: tuple[str, ...] = ()
        self._known: dict[str, TopicInfo] = {}
        self._settled: dict[TopicPartition, OffsetAndMetadata] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._lanes: dict[TopicPartition, Lane] = {}
        self._held: dict[Lane, TopicPartition] = {}
        self._assigned = False
        self._stopped = False
        self._closed = False
        self._failure: BrokerError | None = None
        self._left: dict[TopicPartition, Sequence[KafkaInbound | Native]] = {}
        self._poll: asyncio.Task[_Records] | None = None
        self._reading: set[asyncio.Task[None]] = set()
        self._committing: asyncio.Task[None] | None = None
        self._changed = asyncio.get_running_loop().create_future()

    async def start(self, topics: tuple[str, ...]) -> None:
        """Connect and ask to join; the lanes come later, through the listener."""
        self._topics = topics
        await self._consumer.start()
        read_as_parsed(self._consumer, self._wire.read, self._cannot_read, self._cluster.limit)
        self._consumer.subscribe(list(topics), listener=self)
        self._watcher = asyncio.create_task(self._watch(), name=f"anybroker kafka watch {self._group}")
        self._watcher.add_done_callback(looked_at)

    async def joined(self) -> None:
        """Wait for the group's answer, within the request time-out; raises what it refuses us for."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout
        while not self._assigned and not self._stopped and loop.time() < end:
            if self._out():
                assert self._failure is not None
                raise self._failure
            await asyncio.wait({self._changed}, timeout=_LOOK)

    async def _watch(self) -> None:
        """Notice what aiokafka does not: it waits without a word for a topic that is gone, and reads one that was made
        again at the old one's offsets. Another receiver says what is missing, and starts where the new topic begins."""
        missed = 0
        while True:
            await asyncio.sleep(self._watch_every)
            if self._out():
                return
            try:
                now = await self._cluster.topics(self._topics)
                gone = [name for name in self._topics if name not in now]
                missed = missed + 1 if gone else 0  # one broker may be late with its metadata
                again = [name for name, topic in now.items() if topic.replaces(self._known.get(name))]
                if missed > 1:
                    self._end(Unavailable(f"Kafka has no topic {', '.join(map(repr, gone))} any more"))
                    return
                if again:
                    self._end(Unavailable(f"the topic {', '.join(map(repr, again))} was deleted and made again"))
                    return
                if self._fit is not None and len({topic.partitions for topic in now.values()}) > 1:
                    await self._fit()
            except CLIENT_ERRORS as exc:
                _log.debug("looking at the topics of %r failed: %s", self._group, said(exc))
            except (BrokerError, ConfigError) as exc:
                _log.warning(
                    "the inlet of %r cannot be given as many partitions as its topic has: %s", self._group, exc
                )

    def _out(self) -> bool:
        """Whether the group has refused us, or aiokafka's coordination has ended. It keeps the reason for the next
        ``getmany``, and without lanes there is none: nothing would be consumed, and nothing said."""
        coordinator: Any = self._consumer._coordinator
        try:
            coordinator.check_errors()
        except Exception as exc:  # noqa: BLE001 - whatever ended it: another receiver says so, and tries again
            if self._refused is not None:
                self._refused(exc)
            self._dead(exc, "joining")
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
                records = self._take(tps, limit)
                if not records and self._poll is None:
                    records = await self._getmany(lanes, tps, limit, 0)
                if records:
                    return self._inbounds(records)
                if self._poll is None and self._assigned:
                    self._poll = asyncio.create_task(self._getmany(lanes, tps, limit, POLL))
                    self._poll.add_done_callback(looked_at)
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
            raise self._dead(exc, "receiving") from exc
        return records

    def _take(self, tps: Collection[TopicPartition], limit: int) -> _Records:
        """What an earlier poll has brought, for these partitions, up to the limit; the rest stays for later."""
        self._collect()
        if not self._left:
            return {}
        taken: dict[TopicPartition, Sequence[KafkaInbound | Native]] = {}
        for tp in [tp for tp in self._left if tp in tps]:
            records = self._left.pop(tp)
            taken[tp] = records[:limit]
            if len(records) > limit:
                self._left[tp] = records[limit:]
            limit -= len(taken[tp])
            if limit <= 0:
                break
        return taken

    def _collect(self) -> None:
        """Keep what a poll that has ended brought."""
        poll = self._poll
        if poll is not None and poll.done():
            self._poll = None
            for tp, records in poll.result().items():
                self._left[tp] = [*self._left.get(tp, ()), *records]

    def _cannot_read(self, tp: TopicPartition, at: int, exc: Exception) -> None:
        """Let aiokafka leave the partition alone until what it cannot read has been read otherwise."""
        lane = self._lanes.get(tp)
        if lane is None or self._closed:
            return
        self._consumer.pause(tp)
        task = asyncio.create_task(self._read_around(tp, lane, at, exc), name=f"anybroker kafka read {tp.topic}")
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        task.add_done_callback(looked_at)

    async def _read_around(self, tp: TopicPartition, lane: Lane, at: int, exc: Exception) -> None:
        """Read that part of the partition, behind what was read before, and let aiokafka go on after it."""
        fetched = b""
        try:
            if isinstance(exc, TooLargeBatch):
                records, following = [self._wire.read_again(tp, stand_in(exc))], exc.batch.next_offset
            else:
                cluster, read = self._cluster, self._wire.read_again
                fetched, aborted = (await cluster.fetch({tp: at})).get(tp, (b"", None))
                records, following = read_again(tp, fetched, aborted, at, cluster.isolation, read, cluster.limit)
        except Exception as error:  # noqa: BLE001 - Kafka's errors, and a codec that is missing
            self._dead(error, "receiving")
            return
        if self._poll is not None:
            await asyncio.wait({self._poll})  # it may hold what is before this
        if self._lanes.get(tp) is not lane or self._failure is not None:
            return
        if following <= at and fetched:
            self._dead(exc, "receiving")
            return
        _log.warning("a record of %s from offset %d on cannot be read: %s", lane_name(tp), at, said(exc))
        self._collect()
        self._left[tp] = [*self._left.get(tp, ()), *records]
        self._consumer.seek(tp, following)
        self._consumer.resume(tp)
        self._wake()

    def _inbounds(self, records: _Records) -> list[Inbound]:
        """What has a lane still, in it."""
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

    def _dead(self, exc: BaseException, doing: str) -> BrokerError:
        """The client does not repair this: the core opens another receiver."""
        error = failure(exc, f"{doing} as a member of {self._group!r}")
        if not isinstance(error, BrokerError):
            error = Unavailable(str(error))
        error.__cause__ = exc
        return self._end(error)

    def _end(self, error: BrokerError) -> BrokerError:
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
                found = await self._cluster.positions(self._group, tps) if tps else Positions({}, {}, {})
                begins = await self._cluster.offsets(dict.fromkeys(tps, BEGINNING))
            commits = found.commits
            self._forget()
            self._known = found.topics
            for tp in tps:
                # From where its note says, and not from what aiokafka reads by itself: of a coordinator that is
                # loading it believes that there is no commit.
                self._consumer.seek(tp, commits[tp].offset if tp in commits else begins[tp])
                if tp in commits:
                    self._settled[tp] = self._marked(tp, commits[tp].offset, commits[tp].metadata)
            self._tell(tps, found, begins)
        except CLIENT_ERRORS as exc:
            self._dead(exc, "reading the committed positions")
            return
        epoch = next(self._epochs)
        for tp in tps:
            lane = Lane(lane_name(tp), epoch)
            self._lanes[tp] = lane
            self._held[lane] = tp
            self._listener.assigned(lane, commits[tp].metadata if tp in commits else "")
        self._assigned = True
        self._wake()

    def _marked(self, tp: TopicPartition, position: int, note: str) -> OffsetAndMetadata:
        """A commit that says which topic it is of: one that comes too late must not be taken for the next one's."""
        topic = self._known.get(tp.topic)
        return OffsetAndMetadata(position, mark(note, "" if topic is None else topic.identity))

    def _tell(self, tps: Collection[TopicPartition], found: Positions, begins: Mapping[TopicPartition, int]) -> None:
        """Where lanes start elsewhere than the group has stopped, and why."""
        group, stale, commits = self._group, found.stale, found.commits
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
        self._settled.clear()
        self._left.clear()
        if self._poll is not None and self._poll.done():
            self._poll = None
        if self._committing is not None:
            self._committing.cancel()  # aiokafka would send it under the new membership, over another one's commit
            self._committing = None

    # -------------------------------------------------------------------------------------------------- settling

    async def settle(self, batch: Sequence[Settlement], /) -> Sequence[BrokerError | None]:
        """See :meth:`anybroker.adapter.Receiver.settle`. One commit for all lanes; works inside ``revoked`` too.

        Only what is not committed already: a commit that says nothing new could be of a topic that is gone.
        """
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        gone: dict[Lane, BrokerError] = {}
        for item in batch:
            if isinstance(item, Commit) and (tp := self._held.get(item.lane)) is not None:
                wanted = self._marked(tp, item.position, item.note)
                if self._settled.get(tp) == wanted:
                    continue
                if self._consumer.partitions_for_topic(tp.topic) is None:
                    # aiokafka would try until there is one of that name, and commit the old one's position to it.
                    gone[item.lane] = Unavailable(f"Kafka has no topic {tp.topic!r} now: its positions are not kept")
                    continue
                offsets[tp] = wanted
        error = await self._commit(offsets) if offsets else None
        if offsets and error is None:
            self._settled |= {tp: wanted for tp, wanted in offsets.items() if tp in self._lanes}
        return [self._verdict(item, error, gone) for item in batch]

    def _verdict(
        self, item: Settlement, error: BrokerError | None, gone: Mapping[Lane, BrokerError]
    ) -> BrokerError | None:
        if not isinstance(item, Commit):
            return Unavailable("Kafka settles positions, not single deliveries: a Commit was expected")
        if item.lane in self._held:
            return gone.get(item.lane, error)
        return LeaseLost(f"partition {item.lane.name} has gone to another member of {self._group!r}")

    async def _commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> BrokerError | None:
        if self._closed:
            return Unavailable(f"the member of {self._group!r} is closed")
        # aiokafka tries for as long as the coordinator is away. An unanswered commit is left to it, and the next one
        # waits behind it: breaking it off could let it arrive after its successor.
        earlier = self._committing
        if earlier is not None:
            await asyncio.wait({earlier}, timeout=self._timeout)
            if not earlier.done():
                return self._unanswered()
        self._committing = task = asyncio.create_task(self._consumer.commit(offsets))
        task.add_done_callback(looked_at)
        await asyncio.wait({task}, timeout=self._timeout)
        if not task.done():
            return self._unanswered()
        if self._committing is task:
            self._committing = None
        if task.cancelled():  # by a rebalance: the lanes are not ours any more
            return None
        try:
            task.result()
        except CLIENT_ERRORS as exc:
            reason = exc.__cause__ if isinstance(exc, CommitFailedError) else exc
            if isinstance(reason, UnknownMemberIdError | IllegalGenerationError | IllegalStateError):
                self._lost()
            error = Unavailable(f"the positions of {self._group!r} were not committed: {said(reason or exc)}")
            error.__cause__ = exc
            return error
        return None

    def _unanswered(self) -> BrokerError:
        return Unavailable(f"Kafka did not confirm the positions of {self._group!r} within {self._timeout:.0f} s")

    def _lost(self) -> None:
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
            if self._watcher is not None:
                self._watcher.cancel()
            await self._closing.begin(self._leave(), self._timeout)

    async def _leave(self) -> None:
        """What was fetched and not committed stays uncommitted. aiokafka does not call us back here."""
        try:
            await self._consumer.stop()
        finally:
            # They may wait for an assignment or a coordinator that never comes.
            for task in (self._poll, self._committing, *self._reading):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
