"""
A stream that holds less than it once did: count what is gone and go on.

Redis was flushed, or the stream was deleted, or a replica took over that lacked
the tail. Ordinals go on in a new incarnation; what was seen and never applied is
lost, at least that many (protocol 24, 25).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from shared.connections import reading, redis_errors, transaction
from shared.streams import EntryId, StreamInfo, entry_id, read_chunk
from worker import checkpoints
from worker.deps import Deps

log = structlog.get_logger()

_PAGE = 4_000
_SEEN = "SELECT seen_added, seen_last_id FROM stream_checkpoints WHERE stream = %s AND shard = %s"


@dataclass(frozen=True, slots=True)
class _Readable:
    """What can still be read after the checkpoint, and the stream when its end was read."""

    entries: int
    #: Of them those no newer than the last entry seen before the rewind.
    survivors: int
    info: StreamInfo


async def open_incarnation(deps: Deps, stream: str, shard: int) -> None:
    """Begin a new incarnation of the shard at the committed checkpoint.

    Its base is chosen so that entries added = ordinal + what can still be read. Does
    nothing where the committed checkpoint and the stream agree: the worker that saw a
    rewind may have been a stale one. Raises `CheckpointMoved` if another was first.
    """
    old = await checkpoints.load(deps.pool, stream, shard)
    seen_added, seen_last = await _seen(deps, stream, shard)
    readable = await _read_on(deps, stream, shard, old.last, seen_last)
    added = readable.info.added
    if old.base + added >= old.ordinal + readable.entries:
        return
    lost = max(0, seen_added - old.ordinal - readable.survivors)
    new = replace(
        old,
        incarnation=old.incarnation + 1,
        batch_no=old.batch_no + 1,
        base=old.ordinal + lost - (added - readable.entries),
        lost=old.lost + lost,
    )
    async with transaction(deps.pool) as cursor:
        await checkpoints.advance(cursor, stream, shard, old, new, readable.info)
    await _move_ids_past(deps, stream, shard, old.last, readable.info)
    log.error(
        "stream_rewound",
        stream=stream,
        shard=shard,
        incarnation=new.incarnation,
        lost_at_least=lost,
        checkpoint=str(old.last),
        last_entry=str(readable.info.last),
    )


async def _seen(deps: Deps, stream: str, shard: int) -> tuple[int, EntryId]:
    async with reading(deps.pool) as cursor:
        await cursor.execute(_SEEN, (stream, shard))
        added, last = await cursor.fetchone() or (0, "0-0")
    return added, entry_id(last.encode())


async def _read_on(
    deps: Deps, stream: str, shard: int, after: EntryId, seen_last: EntryId
) -> _Readable:
    key = deps.keys.stream(stream, shard)
    entries = survivors = 0
    while True:
        chunk = await read_chunk(deps.redis, key, after, _PAGE)
        ids = [entry_id(identity) for identity, _ in chunk.entries]
        entries += len(ids)
        survivors += sum(1 for each in ids if each <= seen_last)
        if len(ids) < _PAGE:
            return _Readable(entries, survivors, chunk.info)
        after = ids[-1]


async def _move_ids_past(
    deps: Deps, stream: str, shard: int, checkpoint: EntryId, info: StreamInfo
) -> None:
    """Let new entries get ids after *checkpoint*, or reading on from it would not see them."""
    if info.length and info.last < checkpoint:
        with redis_errors():
            await deps.redis.execute_command(  # type: ignore[no-untyped-call]
                "XSETID", deps.keys.stream(stream, shard), str(checkpoint)
            )
