"""How everything stands at one moment: what `moonwake status` shows, as data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis.asyncio import Redis

from ops.workers import STREAMS, Worker, workers_of
from shared.errors import Transient
from shared.incidents import Incidents, read_incidents
from shared.keys import Keys
from shared.mysql import MySQLError, Pool, error_text
from shared.published import Checkpoint, published_of
from shared.redis import redis_errors
from shared.settings import Settings
from shared.status import ShardStatus, read_committed, read_status
from shared.streams import EntryId, entry_id, now_ms_of, read_range, stream_info

_MYSQL_TIMEOUT_S = 5.0
_PAGE = 4_000
_Answer = TypeVar("_Answer")

#: Told of a shard how many pending entries were read, and of about how many.
OnRead = Callable[[str, int, int], None]
#: Of each shard, when it was looked at and how many entries had been dealt with by then.
Sample = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a stream. *pending* is None where entries were trimmed while they were read."""

    stream: str
    status: ShardStatus
    pending: int | None
    #: MySQL's checkpoint; None where MySQL does not answer.
    committed: Checkpoint | None
    #: Why it is stopped; None while it is not.
    stopped: str | None
    #: The live worker that drains it at this moment.
    worker: Worker | None
    #: Entries per second since the view before; None in the first.
    rate: float | None

    @property
    def name(self) -> str:
        return f"{self.stream}:{self.status.shard}"

    @property
    def difference(self) -> int | None:
        """Of the books, always 0 unless they are wrong; None where it cannot be told."""
        if self.pending is None or self.status.lag is None:
            return None
        return self.status.added - self.status.checkpoint.ordinal - self.pending

    @property
    def state(self) -> str:
        if self.stopped is not None:
            return "stopped"
        if self.status.closed:
            return "closed"
        if self.worker is not None or self.status.lease:
            return "draining"
        return "idle" if self.status.lag == 0 else "waiting"


@dataclass(frozen=True, slots=True)
class Overview:
    """Every shard and worker at *at_ms* of Redis' clock."""

    at_ms: int
    shards: Sequence[Shard]
    workers: Sequence[Worker]
    #: Empty while MySQL answers.
    mysql_fault: str
    #: None while it does not.
    incidents: Incidents | None

    @property
    def live_workers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_live]

    @property
    def sample(self) -> Sample:
        """For the rates of the next look."""
        return {
            shard.name: (shard.status.now_ms, _done(shard.status.checkpoint))
            for shard in self.shards
        }


async def take_sample(redis: Redis, settings: Settings) -> Sample:
    """What a look needs to tell rates. Raises `StoreDown`."""
    keys = Keys(settings.key_prefix)
    every = [(stream, shard) for stream in STREAMS for shard in range(settings.shards)]
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.time()
            for shard in every:
                pipe.hgetall(keys.checkpoint(*shard))
            time, *published = await pipe.execute()
    checkpoints = [published_of(fields) or Checkpoint() for fields in published]
    return {
        f"{stream}:{shard}": (now_ms_of(time), _done(checkpoint))
        for (stream, shard), checkpoint in zip(every, checkpoints, strict=True)
    }


async def look(
    redis: Redis,
    pool: Pool,
    settings: Settings,
    before: Sample | None = None,
    on_read: OnRead | None = None,
) -> Overview:
    """Read everything; rates are since *before*. Raises `StoreDown` when Redis does not answer."""
    keys = Keys(settings.key_prefix)
    now_ms, workers, stopped = await _processes(redis, keys, settings.shards)
    drained_by = {name: worker for worker in workers if worker.is_live for name in worker.shards}
    shards: list[Shard] = []
    mysql_fault = ""
    for stream in STREAMS:
        statuses = await read_status(redis, keys, stream, settings.shards)
        # After Redis: MySQL is never behind what was published before.
        committed, fault = await _asked(read_committed(pool, stream))
        mysql_fault = mysql_fault or fault
        for status in statuses:
            name = f"{stream}:{status.shard}"
            shards.append(
                Shard(
                    stream=stream,
                    status=status,
                    pending=await _pending(redis, keys, name, status, on_read),
                    committed=_checkpoint_in(committed, status.shard),
                    stopped=stopped.get(name),
                    worker=drained_by.get(name),
                    rate=_rate((before or {}).get(name), status),
                )
            )
    incidents = None
    if not mysql_fault:
        incidents, mysql_fault = await _asked(read_incidents(pool))
    return Overview(now_ms, shards, workers, mysql_fault, incidents)


async def _processes(
    redis: Redis, keys: Keys, shards: int
) -> tuple[int, list[Worker], dict[str, str]]:
    """(Redis' time, the workers, reasons of stopped shards)"""
    every = [(stream, shard) for stream in STREAMS for shard in range(shards)]
    with redis_errors():
        async with redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(keys.workers)
            pipe.mget([keys.stopped(*shard) for shard in every])
            time, told, reasons = await pipe.execute()
    now_ms = now_ms_of(time)
    stopped = {
        f"{stream}:{shard}": reason.decode()
        for (stream, shard), reason in zip(every, reasons, strict=True)
        if reason is not None
    }
    return now_ms, workers_of(told, now_ms), stopped


async def _asked(answer: Awaitable[_Answer]) -> tuple[_Answer | None, str]:
    """(MySQL's answer, empty), or (None, what it says instead)"""
    try:
        async with asyncio.timeout(_MYSQL_TIMEOUT_S):
            return await answer, ""
    except TimeoutError:
        return None, f"no answer in {_MYSQL_TIMEOUT_S:g} s"
    except (Transient, MySQLError) as fault:
        return None, error_text(fault)


def _checkpoint_in(committed: Mapping[int, Checkpoint] | None, shard: int) -> Checkpoint | None:
    return None if committed is None else committed.get(shard, Checkpoint())


async def _pending(
    redis: Redis, keys: Keys, name: str, status: ShardStatus, on_read: OnRead | None
) -> int | None:
    """Entries past the checkpoint, counted by reading however many there are."""
    if status.pending is not None or status.lag is None:
        return status.pending
    key = keys.stream(name.partition(":")[0], status.shard)
    after, first, counted = status.checkpoint.last, None, 0
    while page := await read_range(redis, key, after, status.info.last, _PAGE):
        first = first or entry_id(page[0][0])
        after = entry_id(page[-1][0])
        counted += len(page)
        if on_read is not None:
            on_read(name, counted, status.lag)
    return counted if await _is_still_there(redis, key, first) else None


async def _is_still_there(redis: Redis, key: str, first: EntryId | None) -> bool:
    """Streams lose entries at their beginning alone: while *first* is there, so is the rest."""
    with redis_errors():
        oldest = stream_info(await cast("Any", redis.xinfo_stream(key))).first
    return first is None or (oldest is not None and oldest <= first)


def _rate(before: tuple[int, int] | None, now: ShardStatus) -> float | None:
    if before is None or now.now_ms <= before[0]:
        return None
    return max(0, _done(now.checkpoint) - before[1]) * 1000 / (now.now_ms - before[0])


def _done(checkpoint: Checkpoint) -> int:
    """Entries dealt with; what was lost was never work."""
    return checkpoint.applied + checkpoint.dead
