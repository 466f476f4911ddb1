"""
A stream that holds less than it once did: count what is gone and go on.

Redis was flushed, or the stream was deleted, or a replica took over that lacked
the tail. Ordinals go on in a new incarnation; what was seen and never applied is
lost, at least that many (protocol 24, 25).
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from shared.connections import reading, transaction
from shared.streams import EntryId, StreamInfo, entry_id, read_chunk
from worker import checkpoints
from worker.deps import Deps

log = structlog.get_logger()

_PAGE = 4_000
_SEEN = "SELECT seen_added FROM stream_checkpoints WHERE stream = %s AND shard = %s"


async def open_incarnation(deps: Deps, stream: str, shard: int) -> None:
    """Begin a new incarnation of the shard at the committed checkpoint.

    Its base is chosen so that entries added = ordinal + what can still be read.
    Raises `CheckpointMoved` if another worker did so first.
    """
    old = await checkpoints.load(deps.pool, stream, shard)
    readable, info = await _count_after(deps, stream, shard, old.last)
    async with reading(deps.pool) as cursor:
        await cursor.execute(_SEEN, (stream, shard))
        row = await cursor.fetchone()
    seen_added = row[0] if row else 0
    lost = max(0, seen_added - old.ordinal)
    new = replace(
        old,
        incarnation=old.incarnation + 1,
        batch_no=old.batch_no + 1,
        base=old.ordinal + lost - (info.added - readable),
        lost=old.lost + lost,
    )
    async with transaction(deps.pool) as cursor:
        await checkpoints.advance(cursor, stream, shard, old, new, info)
    log.error(
        "stream_rewound",
        stream=stream,
        shard=shard,
        incarnation=new.incarnation,
        lost_at_least=lost,
        checkpoint=str(old.last),
        last_entry=str(info.last),
    )


async def _count_after(
    deps: Deps, stream: str, shard: int, after: EntryId
) -> tuple[int, StreamInfo]:
    """How many entries lie after *after*, and the stream at the moment its end was read."""
    key = deps.keys.stream(stream, shard)
    readable = 0
    while True:
        chunk = await read_chunk(deps.redis, key, after, _PAGE)
        readable += len(chunk.entries)
        if len(chunk.entries) < _PAGE:
            return readable, chunk.info
        after = entry_id(chunk.entries[-1][0])
