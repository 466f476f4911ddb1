"""
Where every shard of a stream stands: lag, books and work done, for metrics and `status`.

The books are kept apart from what they are checked against: pending is counted by
reading the entries, not by subtraction (protocol 11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from shared.keys import Keys
from shared.mysql import Pool, reading
from shared.published import (
    CHECKPOINT_COLUMNS,
    Checkpoint,
    checkpoint_of,
    published_of,
    read_published,
)
from shared.redis import redis_errors, sound
from shared.streams import (
    EntryId,
    RawEntry,
    StreamInfo,
    entry_id,
    now_ms_of,
    read_range,
    stream_info,
)

#: Pending entries that are counted by reading; above that only the lag is told.
PENDING_READ_MAX = 20_000
_PAGE = 2_000
#: Times the reading starts again because the checkpoint moved under it.
_ATTEMPTS = 3

_COMMITTED = f"SELECT shard, {CHECKPOINT_COLUMNS} FROM stream_checkpoints WHERE stream = %s"


@dataclass(frozen=True, slots=True)
class Work:
    """What the workers did on a shard, in total and in the last batch."""

    batches: int = 0
    entries: int = 0
    rows: int = 0
    write_ms: int = 0
    batch_entries: int = 0
    batch_rows: int = 0
    batch_ms: int = 0
    takeovers: int = 0


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard of a stream as Redis knows it at one moment."""

    shard: int
    #: Redis' clock.
    now_ms: int
    info: StreamInfo
    #: None where no worker has published one yet.
    published: Checkpoint | None
    #: Entries past the checkpoint; None while its ordinal is unknown.
    lag: int | None
    #: Age of the oldest of them in seconds, 0.0 where there is none.
    lag_s: float
    #: Entries past the checkpoint, counted by reading; None above PENDING_READ_MAX.
    pending: int | None
    closed: bool
    #: Id of the drain job that holds the shard's lease.
    lease: str | None
    work: Work

    @property
    def checkpoint(self) -> Checkpoint:
        return self.published or Checkpoint()

    @property
    def added(self) -> int:
        """Entries ever added, over all incarnations of the stream."""
        return self.checkpoint.base + self.info.added

    @property
    def difference(self) -> int | None:
        """Entries added less applied, dead, lost and pending: always 0, or the books are wrong.

        None where pending could not be counted.
        """
        if self.pending is None or self.lag is None:
            return None
        return self.added - self.checkpoint.ordinal - self.pending


def lag_of(info: StreamInfo, published: Checkpoint | None) -> int | None:
    """Entries past the published checkpoint; None while its ordinal is unknown.

    A stream that was never trimmed was never drained far: all of it counts, so that
    the mark holds from the first entry on, also where MySQL was never reached.
    """
    if published is not None:
        # Less than none: Redis lost entries, and no worker has looked yet.
        return max(published.base + info.added - published.ordinal, 0)
    return info.added if info.added == info.length else None


async def read_status(redis: Redis, keys: Keys, stream: str, shards: int) -> list[ShardStatus]:
    """Every shard of *stream*. Raises `StoreDown`."""
    return [await _read_shard(redis, keys, stream, shard) for shard in range(shards)]


async def read_committed(pool: Pool, stream: str) -> dict[int, Checkpoint]:
    """The checkpoints that MySQL holds: shard -> checkpoint. Raises `Transient`."""
    async with reading(pool) as cursor:
        await cursor.execute(_COMMITTED, (stream,))
        return {shard: checkpoint_of(row) for shard, *row in await cursor.fetchall()}


async def _read_shard(redis: Redis, keys: Keys, stream: str, shard: int) -> ShardStatus:
    key, checkpoint_key = keys.stream(stream, shard), keys.checkpoint(stream, shard)
    for attempt in range(1, _ATTEMPTS + 1):
        after = (await read_published(redis, checkpoint_key) or Checkpoint()).last
        status, page = await _snapshot(redis, keys, stream, shard, after)
        if status.checkpoint.last == after:
            pending = await _count(redis, key, status, page)
            now = await read_published(redis, checkpoint_key)
            # Nothing above the published checkpoint is ever trimmed: while that stands
            # still every page is of the snapshot's moment. One page is so by itself.
            if len(page) < _PAGE or now == status.published:
                return replace(status, pending=pending)
        if attempt == _ATTEMPTS:
            return status
    raise AssertionError("the last attempt returns")


async def _snapshot(
    redis: Redis, keys: Keys, stream: str, shard: int, after: EntryId
) -> tuple[ShardStatus, Sequence[RawEntry]]:
    """The shard at one moment, and its first page of entries after *after*."""
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_stream(keys.stream(stream, shard))
            pipe.time()
            pipe.hgetall(keys.checkpoint(stream, shard))
            pipe.xrange(keys.stream(stream, shard), f"({after}", "+", count=_PAGE)
            pipe.exists(keys.closed(stream, shard))
            pipe.get(keys.lease(stream, shard))
            replies = await pipe.execute(raise_on_error=False)
    about, time, *others = replies
    published, page, closed, lease = map(sound, others)
    now_ms, info, checkpoint = now_ms_of(time), stream_info(about), published_of(published)
    status = ShardStatus(
        shard=shard,
        now_ms=now_ms,
        info=info,
        published=checkpoint,
        lag=lag_of(info, checkpoint),
        lag_s=max(now_ms - entry_id(page[0][0]).ms, 0) / 1000 if page else 0.0,
        pending=None,
        closed=closed == 1,
        lease=lease.decode() if lease else None,
        work=_work_of(published),
    )
    return status, page


async def _count(
    redis: Redis, key: str, status: ShardStatus, page: Sequence[RawEntry]
) -> int | None:
    """Entries past the checkpoint up to the snapshot's last; None if they are too many."""
    counted = len(page)
    while len(page) == _PAGE:
        if counted >= PENDING_READ_MAX or (status.lag or 0) > PENDING_READ_MAX:
            return None
        page = await read_range(redis, key, entry_id(page[-1][0]), status.info.last, _PAGE)
        counted += len(page)
    return counted


def _work_of(published: Mapping[bytes, Any]) -> Work:
    return Work(**{name: int(published.get(name.encode(), 0)) for name in Work.__slots__})
