"""
Who drains what: each worker takes the leases of shards that wait, up to its share.

arq carries the jobs between workers; this module knows it only as `enqueue`. A
drain belongs to the process, not to the job that started it, because arq cancels
jobs and nothing may be cancelled inside a transaction (protocol 21 to 23). It goes
on until it is caught up, or until a worker with room should have its shard.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import orjson
import structlog

from shared.errors import MoonwakeError, ShardStopped, StoreDown
from shared.redis import redis_errors
from shared.scripts import run_script
from worker import leases
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.looking import Shard, ShardState, View, look
from worker.pace import Pace
from worker.shares import Standing
from worker.sinks import Sink

log = structlog.get_logger()

TICK_S = 0.25
#: As long as an arq job waits for its drain, which may go on.
SLICE_S = 5.0
#: Shares have to be uneven for so long before a busy shard moves: shards in which little
#: happens come and go.
PATIENCE_S = 1.0
RENEW_S = 1.0
#: A worker not heard of for this long does not count for the shares.
LIVE_MS = 3_000
_FORGET_MS = 60_000
#: Idle shards are trimmed and compared this often.
IDLE_VISIT_S = 15.0

Enqueue = Callable[[str, int, str], Awaitable[None]]


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
    #: Shards this process had looked after once: after a start everything is compared.
    _visited: set[Shard] = field(default_factory=set)
    #: Shards that others held at the last look.
    _leased: set[Shard] = field(default_factory=set)
    _standing: Standing = field(default_factory=lambda: Standing("", 0, {}, 0))
    #: Since when another worker has had too few shards, by this process' clock.
    _uneven_since_s: float | None = None
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
            # Where several look, each may look less often.
            await _happens(self._stopping, TICK_S * min(2, len(self._standing.others) + 1))

    async def tick(self) -> None:
        """Report this worker, and lease and enqueue the shards it has room for."""
        shards = [shard for shard in self._shards() if shard not in self._tasks]
        view = await look(self.deps, shards, self._leased)
        await self._report(view.now_ms, view.workers)
        free = {shard: state for shard, state in view.states.items() if not state.leased}
        self._leased = {*view.leased, *(view.states.keys() - free.keys())}
        waiting = [shard for shard, state in free.items() if self._wants_visit(view, shard, state)]
        self._stand(view, waiting)
        random.shuffle(waiting)
        for shard in waiting:
            if len(self._tasks) >= self.share or self._stopping.is_set():
                return
            if shard not in self._tasks:
                await self._lease(shard)

    def _wants_visit(self, view: View, shard: Shard, state: ShardState) -> bool:
        if state.stopped:
            return False
        due = view.now_ms - state.visited_ms > IDLE_VISIT_S * 1000
        return state.waits or due or shard not in self._visited

    def _stand(self, view: View, waiting: Sequence[Shard]) -> None:
        """Work out this worker's share, and end drains that a worker with fewer should have."""
        going_on = {at: drain for at, drain in self.drains.items() if not drain.is_stopping}
        others = {
            name: about["shards"]
            for name, about in view.workers.items()
            if name != self.worker_id and view.now_ms - about["seen_ms"] < LIVE_MS
        }
        pending = {*waiting, *self._leased, *self._tasks}
        held = {*map(_name, going_on), *chain.from_iterable(others.values())}
        self._standing = Standing(
            self.worker_id,
            len(going_on),
            {name: len(shards) for name, shards in others.items()},
            len(pending),
            unheld=len({_name(shard) for shard in pending} - held),
        )
        self.share = self._standing.share
        surplus = self._standing.surplus
        if self._is_uneven_for_long(surplus):
            for drain in [*going_on.values()][-surplus:]:  # the youngest: they may be short ones
                drain.stop()

    def _is_uneven_for_long(self, surplus: int) -> bool:
        now_s = time.monotonic()
        self._uneven_since_s = (self._uneven_since_s or now_s) if surplus else None
        return self._uneven_since_s is not None and now_s - self._uneven_since_s >= PATIENCE_S

    async def _lease(self, shard: Shard) -> None:
        lease_id = uuid.uuid4().hex
        if await leases.take(self.deps.redis, self.deps.keys.lease(*shard), lease_id):
            self._visited.add(shard)
            await self.enqueue(*shard, lease_id)

    async def _report(self, now_ms: int, workers: Mapping[str, Any]) -> None:
        about = {
            "seen_ms": now_ms,
            "started_ms": int(self._started_s * 1000),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "shards": sorted(map(_name, self._tasks)),
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
        """The job: start to drain a shard, if the lease is still this job's.

        Returns when that is over, or after a slice: then the drain goes on without a job.
        """
        at = (stream, shard)
        if self._stopping.is_set() or at in self._tasks or len(self._tasks) >= self.share:
            # Where another worker has room, the next job may reach it.
            await self._pass_on(at, lease_id, more=self._standing.others_have_room)
            return
        # Nothing is awaited before it counts: jobs come several at a time, and `stop`
        # has to wait for every drain there is.
        pace = self._paces.setdefault(at, Pace(self.deps.settings))
        drain = self.drains[at] = ShardDrain(self.deps, self.sinks[stream], shard, pace)
        task = self._tasks[at] = asyncio.create_task(self._drain(at, lease_id, drain))
        # Cancelled or not: arq's Redis may be away, and nobody else would get the shard.
        await asyncio.wait([task], timeout=SLICE_S)
        if not task.done():
            log.debug("drain_goes_on", stream=stream, shard=shard)

    async def _drain(self, shard: Shard, lease_id: str, drain: ShardDrain) -> None:
        more = False
        try:
            if not await leases.renew(self.deps.redis, self.deps.keys.lease(*shard), lease_id):
                return
            more = await self._drain_leased(shard, lease_id, drain)
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
        await self._pass_on(shard, lease_id, more=more and len(self._tasks) < self.share)

    async def _drain_leased(self, shard: Shard, lease_id: str, drain: ShardDrain) -> bool:
        drained = asyncio.Event()
        renewing = asyncio.create_task(self._keep_lease(shard, lease_id, drain, drained))
        try:
            await self._note_takeover(shard)
            more = await drain.run(math.inf)
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
        """Give the lease back; where *more* is to be done at once, enqueue a successor."""
        try:
            if lease_id:
                await leases.give_back(self.deps.redis, self.deps.keys.lease(*shard), lease_id)
                if more and not self._stopping.is_set() and shard not in self._tasks:
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
        key = self.deps.keys.checkpoint(*shard)
        await run_script(self.deps.redis, "leave", [key], [self.worker_id])

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


def _name(shard: Shard) -> str:
    return f"{shard[0]}:{shard[1]}"


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    """Wait for *event*, at most *within_s*; say whether it happened."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
