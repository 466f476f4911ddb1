"""
The checkpoint row of a stream's shard: where MySQL stands, and the fence around it.

The position lives in the transaction with the data (protocol 10, 14): whoever
moves this row owns the batch, everybody else abandons theirs.
"""

from __future__ import annotations

from shared.errors import CheckpointMoved
from shared.mysql import Cursor, Pool, reading
from shared.published import CHECKPOINT_COLUMNS, Checkpoint, checkpoint_of, stamps_text
from shared.streams import StreamInfo

_LOAD = f"SELECT {CHECKPOINT_COLUMNS} FROM stream_checkpoints WHERE stream = %s AND shard = %s"
_CREATE = """
INSERT INTO stream_checkpoints (stream, shard) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE stream_checkpoints.shard = stream_checkpoints.shard
"""
# batch_no always grows, so this row always changes: an UPDATE that changes nothing
# reports rowcount 0, and positions may repeat after a restore.
_UPDATE = """
UPDATE stream_checkpoints
SET incarnation = %s, batch_no = %s, last_ms = %s, last_seq = %s, base = %s,
    applied = %s, dead = %s, lost = %s, ordinal = %s, replid = %s, stamps = %s, floor_ms = %s,
    again_through_id = %s"""
_SEEN = ", seen_added = %s, seen_last_id = %s, seen_at = UTC_TIMESTAMP(3)"
_WHERE_OLD = """
WHERE stream = %s AND shard = %s
  AND incarnation = %s AND batch_no = %s AND last_ms = %s AND last_seq = %s
"""
_LOCK = _LOAD + " FOR UPDATE"


async def load(pool: Pool, stream: str, shard: int) -> Checkpoint:
    """The shard's checkpoint as committed; the row is made where there is none."""
    async with reading(pool) as cursor:
        if checkpoint := await _read(cursor, _LOAD, stream, shard):
            return checkpoint
        await cursor.execute(_CREATE, (stream, shard))
        return Checkpoint()


async def lock(cursor: Cursor, stream: str, shard: int) -> Checkpoint:
    """The checkpoint, its row locked to the end of the transaction.

    Every writer of a stream's tables holds this row, so they never meet elsewhere.
    """
    await cursor.execute(_CREATE, (stream, shard))
    return await _read(cursor, _LOCK, stream, shard) or Checkpoint()


async def advance(
    cursor: Cursor,
    stream: str,
    shard: int,
    old: Checkpoint,
    new: Checkpoint,
    info: StreamInfo | None,
) -> None:
    """Move the row from *old* to *new*: the fence. First statement of every batch.

    *info* is the stream as it was seen, kept for the day Redis loses it (protocol 24);
    None where nobody looked. Raises `CheckpointMoved` if another worker is ahead.
    """
    values: list[int | str] = [new.incarnation, new.batch_no, new.last.ms, new.last.seq, new.base]
    values += (new.applied, new.dead, new.lost, new.ordinal, new.replid)
    values += (stamps_text(new), new.floor_ms, str(new.again_through))
    if info is not None:
        values += (new.base + info.added, str(info.last))
    values += (stream, shard, old.incarnation, old.batch_no, old.last.ms, old.last.seq)
    statement = _UPDATE + (_SEEN if info is not None else "") + _WHERE_OLD
    if await cursor.execute(statement, values) != 1:
        raise CheckpointMoved(f"{stream} shard {shard} is no longer at batch {old.batch_no}")


async def _read(cursor: Cursor, query: str, stream: str, shard: int) -> Checkpoint | None:
    await cursor.execute(query, (stream, shard))
    row = await cursor.fetchone()
    return None if row is None else checkpoint_of(row)
