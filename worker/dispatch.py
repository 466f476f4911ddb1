"""
Who drains what: each worker takes the leases of shards that wait, up to its share.

arq carries the jobs between workers; this module knows it only as `enqueue`. A
drain belongs to the process, not to the job that started it, because arq cancels
jobs and nothing may be cancelled inside a transaction (protocol 21 to 23).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from shared.connections import redis_errors
from shared.errors import MoonwakeError, ShardStopped, StoreDown
from shared.keys import testimonies_of
from shared.published import Checkpoint, published_of
from shared.streams import StreamInfo, now_ms_of, stamp_of, stream_info
from worker import leases
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.pace import Pace
from worker.sinks import Sink

log = structlog.get_logger()

TICK_S = 0.25
SLICE_S = 5.0
RENEW_S = 1.0
#: A worker not heard of for this long does not count for the shares.
LIVE_MS = 3_000
_FORGET_MS = 60_000
#: Idle shards are trimmed and compared this often.
IDLE_VISIT_S = 15.0

Shard = tuple[str, int]
Enqueue = Callable[[str, int, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ShardState:
    """One shard as the dispatcher sees it."""

    info: StreamInfo
    published: Checkpoint | None
    leased: bool
    stopped: bool
    #: Do fronts testify that it lost entries?
    disputed: bool
    #: Of the stream that is there now.
    stamp: str

    @property
    def waits(self) -> bool:
        """Are there entries past the published checkpoint, or does the stream not fit to it?

        By their number: ids need not grow from one master to the next.
        """
        known = self.published
        return (
            known is None
            or self.disputed
            or known.replid not in {"", self.stamp}
            or known.base + self.info.added != known.ordinal
        )


@dataclass(slots=True)
class Dispatcher:
    """The drains of one worker process."""

    deps: Deps
    sinks: dict[str, Sink]
    enqueue: Enqueue
    worker_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    #: How many shards this worker may hold now.
    share: int = 1
    drains: dict[Shard, ShardDrain] = field(default_factory=dict)
    _tasks: dict[Shard, asyncio.Task[None]] = field(default_factory=dict)
    _paces: dict[Shard, Pace] = field(default_factory=dict)
    _visited_s: dict[Shard, float] = field(default_factory=dict)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _started_s: float = field(default_factory=time.time)

    # --- taking shards --------------------------------------------------------------

    async def run(self) -> None:
        """Look for shards that wait until `stop` is called; Redis' absences are waited out."""
        while not self._stopping.is_set():
            try:
                await self.tick()
            except StoreDown as error:
                log.warning("dispatch_failed", error=str(error))
                await _happens(self._stopping, 1.0)
            await _happens(self._stopping, TICK_S)

    async def tick(self) -> None:
        """Report this worker, and lease and enqueue the shards it has room for."""
        now_ms, workers, states = await self._look()
        await self._report(now_ms, workers)
        others = [
            len(about["shards"])
            for name, about in workers.items()
            if name != self.worker_id and now_ms - about["seen_ms"] < LIVE_MS
        ]
        waiting = [shard for shard, state in states.items() if self._wants_visit(shard, state)]
        self.share = max(1, math.ceil(len(waiting) / (len(others) + 1)))
        if len(self.drains) > self.share > min(others, default=self.share):
            next(iter(self.drains.values())).stop()  # a worker with room takes it over
        random.shuffle(waiting)
        for shard in waiting:
            if len(self._tasks) >= self.share or self._stopping.is_set():
                return
            if not states[shard].leased and shard not in self._tasks:
                await self._lease(shard)

    def _wants_visit(self, shard: Shard, state: ShardState) -> bool:
        if state.stopped:
            return False
        visited_s = self._visited_s.get(shard)
        due = visited_s is None or time.monotonic() - visited_s > IDLE_VISIT_S
        return state.waits or state.leased or due

    async def _lease(self, shard: Shard) -> None:
        lease_id = uuid.uuid4().hex
        if await leases.take(self.deps.redis, self.deps.keys.lease(*shard), lease_id):
            self._visited_s[shard] = time.monotonic()
            await self.enqueue(*shard, lease_id)

    async def _look(self) -> tuple[int, dict[str, Any], dict[Shard, ShardState]]:
        """(Redis' time, what each worker last reported, every shard's state)"""
        keys, shards = self.deps.keys, self._shards()
        with redis_errors():
            async with self.deps.redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.hgetall(keys.workers)
                pipe.info("replication")
                for shard in shards:
                    pipe.xinfo_stream(keys.stream(*shard))
                    pipe.xinfo_groups(keys.stream(*shard))
                    pipe.hgetall(keys.checkpoint(*shard))
                    pipe.exists(keys.lease(*shard))
                    pipe.exists(keys.stopped(*shard))
                    pipe.exists(testimonies_of(keys.stream(*shard)))
                now, workers, replication, *replies = await pipe.execute(raise_on_error=False)
        for reply in (workers, *replies[2::6]):
            if isinstance(reply, Exception):
                raise StoreDown(f"Redis: {reply}") from reply
        told = zip(*[iter(replies)] * 6, strict=True)
        states = {
            shard: ShardState(
                info=stream_info(about),
                published=published_of(published),
                leased=bool(leased),
                stopped=bool(stopped),
                disputed=bool(disputed),
                stamp=stamp_of(replication, groups),
            )
            for shard, (about, groups, published, leased, stopped, disputed) in zip(
                shards, told, strict=True
            )
        }
        reports = {name.decode(): orjson.loads(about) for name, about in workers.items()}
        return now_ms_of(now), reports, states

    async def _report(self, now_ms: int, workers: dict[str, Any]) -> None:
        about = {
            "seen_ms": now_ms,
            "started_ms": int(self._started_s * 1000),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "shards": sorted(f"{stream}:{shard}" for stream, shard in self._tasks),
        }
        gone = [name for name, other in workers.items() if now_ms - other["seen_ms"] > _FORGET_MS]
        with redis_errors():
            async with self.deps.redis.pipeline(transaction=False) as pipe:
                pipe.hset(self.deps.keys.workers, self.worker_id, orjson.dumps(about).decode())
                if gone:
                    pipe.hdel(self.deps.keys.workers, *gone)
                await pipe.execute()

    def _shards(self) -> Sequence[Shard]:
        return [(name, shard) for name in self.sinks for shard in range(self.deps.settings.shards)]

    # --- draining -------------------------------------------------------------------

    async def drain(self, stream: str, shard: int, lease_id: str) -> None:
        """The job: drain a shard for a slice, if the lease is still this job's."""
        at = (stream, shard)
        if self._stopping.is_set() or at in self._tasks or len(self._tasks) >= self.share:
            await leases.give_back(self.deps.redis, self.deps.keys.lease(*at), lease_id)
            return
        # Nothing is awaited before it counts: jobs come several at a time, and `stop`
        # has to wait for every drain there is.
        pace = self._paces.setdefault(at, Pace(self.deps.settings))
        drain = self.drains[at] = ShardDrain(self.deps, self.sinks[stream], shard, pace)
        task = self._tasks[at] = asyncio.create_task(self._drain(at, lease_id, drain))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            drain.stop()  # arq stops, or the job took too long
            raise

    async def _drain(self, shard: Shard, lease_id: str, drain: ShardDrain) -> None:
        more = False
        try:
            if not await leases.renew(self.deps.redis, self.deps.keys.lease(*shard), lease_id):
                return
            more = await self._drain_slice(shard, lease_id, drain)
        except ShardStopped as error:
            await self._stop_shard(shard, error)
        except StoreDown as error:
            log.warning("drain_interrupted", stream=shard[0], shard=shard[1], error=str(error))
        except Exception:
            # The lease is left to run out: a fault of ours must not spin.
            log.exception("drain_failed", stream=shard[0], shard=shard[1])
            lease_id = ""
        finally:
            del self.drains[shard]
            del self._tasks[shard]
        await self._pass_on(shard, lease_id, more=more)

    async def _drain_slice(self, shard: Shard, lease_id: str, drain: ShardDrain) -> bool:
        drained = asyncio.Event()
        renewing = asyncio.create_task(self._keep_lease(shard, lease_id, drain, drained))
        try:
            await self._note_takeover(shard)
            more = await drain.run(SLICE_S)
            await self._note_clean_end(shard)
        finally:
            drained.set()
            await renewing
        return more

    async def _keep_lease(
        self, shard: Shard, lease_id: str, drain: ShardDrain, drained: asyncio.Event
    ) -> None:
        """Renew the lease until *drained*; a drain that lost it stops after the batch in hand."""
        while not await _happens(drained, RENEW_S):
            try:
                kept = await leases.renew(self.deps.redis, self.deps.keys.lease(*shard), lease_id)
            except StoreDown:
                continue
            if not kept:
                drain.stop()
                return

    async def _pass_on(self, shard: Shard, lease_id: str, *, more: bool) -> None:
        """Give the lease back; where more waits and there is room, enqueue the successor."""
        try:
            if lease_id:
                await leases.give_back(self.deps.redis, self.deps.keys.lease(*shard), lease_id)
                if more and not self._stopping.is_set() and len(self._tasks) < self.share:
                    await self._lease(shard)
        except MoonwakeError as error:
            log.warning("lease_not_passed_on", error=str(error))

    async def _note_takeover(self, shard: Shard) -> None:
        """Count it when the worker that held this shard did not end cleanly."""
        key = self.deps.keys.checkpoint(*shard)
        with redis_errors():
            async with self.deps.redis.pipeline(transaction=True) as pipe:
                pipe.hget(key, "holder")
                pipe.hset(key, "holder", self.worker_id)
                before, _ = await pipe.execute()
            if before and before != self.worker_id.encode():
                log.warning("shard_taken_over", stream=shard[0], shard=shard[1])
                async with self.deps.redis.pipeline(transaction=False) as pipe:
                    pipe.hincrby(key, "takeovers", 1)
                    await pipe.execute()

    async def _note_clean_end(self, shard: Shard) -> None:
        with redis_errors():
            async with self.deps.redis.pipeline(transaction=False) as pipe:
                pipe.hdel(self.deps.keys.checkpoint(*shard), "holder")
                await pipe.execute()

    async def _stop_shard(self, shard: Shard, error: ShardStopped) -> None:
        log.error("shard_stopped", stream=shard[0], shard=shard[1], error=str(error))
        # Once an operator resumes it, refusals count anew.
        self._paces.pop(shard, None)
        with redis_errors():
            await self.deps.redis.set(self.deps.keys.stopped(*shard), str(error))

    # --- stopping -------------------------------------------------------------------

    async def stop(self) -> None:
        """Take nothing more, finish every batch in hand, then say goodbye."""
        self._stopping.set()
        for drain in self.drains.values():
            drain.stop()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))
        try:
            with redis_errors():
                async with self.deps.redis.pipeline(transaction=False) as pipe:
                    pipe.hdel(self.deps.keys.workers, self.worker_id)
                    await pipe.execute()
        except StoreDown as error:
            log.warning("goodbye_failed", error=str(error))


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for *event*, at most *within_s*; say whether it happened."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
