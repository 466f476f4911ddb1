"""The fence and the order of writes: what keeps workers of one shard, and of several, apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

import worker.sinks.play_rows
import worker.sql
from shared.errors import CheckpointMoved
from shared.mysql import Cursor, Pool, transaction
from shared.settings import Settings
from shared.streams import EntryId, StreamInfo
from tests.mysql_state import books
from tests.plays import STREAM, append, deps_of, drain_all, rows, save
from tests.sessions import until_somebody_waits
from worker import checkpoints
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink
from worker.sql import upserts


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, shards=1), redis, pool)


@pytest.mark.parametrize("column", ["incarnation", "batch_no", "last_ms", "last_seq"])
async def test_the_fence_refuses_a_worker_that_is_wrong_in_any_one_thing(
    deps: Deps, column: str
) -> None:
    """
    After a restore or a repair ids may repeat, or batch numbers: neither alone is enough.
    """
    start = await checkpoints.load(deps.pool, STREAM, 0)
    async with transaction(deps.pool) as cursor:
        await cursor.execute(f"UPDATE stream_checkpoints SET {column} = {column} + 1")
    new = replace(start, batch_no=start.batch_no + 1, last=EntryId(9, 9), applied=1)

    with pytest.raises(CheckpointMoved):
        async with transaction(deps.pool) as cursor:
            await checkpoints.advance(cursor, STREAM, 0, start, new, StreamInfo())

    assert [(0,)] == await rows(deps.pool, "SELECT applied FROM stream_checkpoints")


async def test_the_fence_only_moves_the_shard_it_is_about(deps: Deps) -> None:
    """
    Other shards and other streams stand where they stood.
    """
    start = await checkpoints.load(deps.pool, STREAM, 0)
    await checkpoints.load(deps.pool, STREAM, 1)
    await checkpoints.load(deps.pool, "usage", 0)
    new = replace(start, batch_no=1, last=EntryId(9, 9), applied=1)

    async with transaction(deps.pool) as cursor:
        await checkpoints.advance(cursor, STREAM, 0, start, new, StreamInfo(added=4))

    assert new == await checkpoints.load(deps.pool, STREAM, 0)
    assert [(STREAM, 0, 4)] == await rows(
        deps.pool, "SELECT stream, shard, seen_added FROM stream_checkpoints WHERE batch_no > 0"
    )


async def test_a_worker_that_was_overtaken_reads_the_checkpoint_again_and_goes_on(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The fence is no failure: what the other did not apply is applied in the same slice.
    """
    deps = replace(deps, settings=replace(deps.settings, flush_interval_ms=0))
    await append(deps.settings, deps.redis, [save("ann"), save("bob")])
    advance = checkpoints.advance

    async def be_overtaken(*arguments: Any) -> None:
        monkeypatch.undo()
        await drain_all(deps)
        await append(deps.settings, deps.redis, [save("cat")])
        await advance(*arguments)

    monkeypatch.setattr(checkpoints, "advance", be_overtaken)
    assert not await ShardDrain(deps, PlaysSink(deps.settings), 0).run(slice_s=60)

    assert (3, 3, 0, 0) == await books(deps.pool)
    assert [(3,)] == await rows(
        deps.pool, "SELECT CAST(SUM(play_count) AS SIGNED) FROM content_stats"
    )


async def test_shards_that_write_the_same_contents_never_deadlock(deps: Deps) -> None:
    """
    Their batches meet contents in opposite orders; sorted by key, one only waits.
    """
    contents = [f"{number:02}" for number in range(21)]
    await write(deps, 2, contents)
    async with deps.pool.acquire() as connection, connection.cursor() as cursor:
        # Unsorted, each would have half of the rows when this lock is given up.
        await connection.begin()
        await cursor.execute("SELECT * FROM content_stats WHERE content_id = '10' FOR UPDATE")
        writers = asyncio.gather(write(deps, 0, contents), write(deps, 1, contents[::-1]))
        await until_somebody_waits(cursor, 2)
        await connection.rollback()
        await writers

    assert [(21, 63)] == await rows(
        deps.pool, "SELECT COUNT(*), CAST(SUM(play_count) AS SIGNED) FROM content_stats"
    )


async def write(deps: Deps, shard: int, contents: list[str]) -> None:
    """A batch in which each of *contents*, in that order, is another user's first play."""
    sink = PlaysSink(deps.settings)
    fold = sink.new_fold()
    for number, content in enumerate(contents):
        event = sink.decode(orjson.dumps(save(f"u{shard}-{number:02}", content)))
        fold.add(event, 1_700_000_000_000, 100, foreign=False)
    async with transaction(deps.pool) as cursor:
        old = await checkpoints.lock(cursor, STREAM, shard)
        await sink.apply(cursor, fold, shard, replace(old, batch_no=old.batch_no + 1))


#: How many of a table's first columns are the key that its rows are sorted by.
KEY_COLUMNS = {
    "users": 1,
    "play_records": 3,
    "content_viewers": 3,
    "user_watch_daily": 2,
    "stat_days_touched": 3,
    "content_stats": 2,
}


async def test_every_table_is_written_in_the_order_of_its_key(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Neighbouring rows of other shards are locked in passing: one order for all avoids deadlocks.
    """
    written: dict[str, list[Any]] = {}

    def note(
        cursor: Cursor, table: str, columns: Any, updates: Any, rows: Any
    ) -> AsyncIterator[bytes]:
        written[table] = list(rows)
        return upserts(cursor, table, columns, updates, written[table])

    for module in (worker.sql, worker.sinks.play_rows):
        monkeypatch.setattr(module, "upserts", note)
    sink = PlaysSink(deps.settings)
    fold = sink.new_fold()
    for number in range(12):
        for day in (2, 0, 1):  # each save is a play, a day or two after the last one
            event = sink.decode(orjson.dumps(save(f"u{7 * number % 12:02}", f"{day}")))
            fold.add(event, 1_700_000_000_000 + (3 * number + day) * 86_400_000, 9, foreign=False)
    async with transaction(deps.pool) as cursor:
        await sink.apply(cursor, fold, 0, await checkpoints.lock(cursor, STREAM, 0))

    assert set(KEY_COLUMNS) == set(written)
    for table, columns in KEY_COLUMNS.items():
        keys = [row[:columns] for row in written[table]]
        assert keys == sorted(keys)
        assert len(keys) > 1
