"""Entries that Redis lost: counted in the books, and what is left is applied."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.errors import CheckpointMoved
from shared.mysql import Pool
from shared.published import read_published
from shared.settings import Settings
from shared.streams import entry_id
from tests.mysql_state import assert_mysql_equals, books
from tests.plays import STREAM, add_foreign, append, deps_of, drain_all, rows, save
from tests.taps import tapped
from worker import checkpoints, rewind
from worker.batches import BatchReader
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.pace import Pace
from worker.sinks.plays import PlaysSink


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    one_shard = replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    return deps_of(one_shard, redis, pool)


def stream_of(deps: Deps) -> str:
    return deps.keys.stream(STREAM, 0)


async def append_many(deps: Deps, events: int, user: str = "ann") -> None:
    """So many plays of so many contents: each counts one play."""
    given = [save(user, f"{number:05}") for number in range(events)]
    await add_foreign(deps.settings, deps.redis, [("*", event) for event in given])


async def drain_one_batch(deps: Deps, entries: int) -> None:
    """Commit the first *entries* entries, and stop."""
    limited = replace(deps, settings=replace(deps.settings, batch_max_entries=entries))
    await ShardDrain(limited, PlaysSink(limited.settings), 0).run(slice_s=0)


async def plays(deps: Deps) -> int:
    [(count,)] = await rows(
        deps.pool, "SELECT CAST(COALESCE(SUM(play_count), 0) AS SIGNED) FROM content_stats"
    )
    return int(count)


# --- a stranger trims --------------------------------------------------------------


async def test_entries_that_a_stranger_trimmed_are_lost_and_counted(deps: Deps) -> None:
    """
    XTRIM by somebody else: exactly so many are missing, the others are applied.
    """
    await append_many(deps, 10)
    await deps.redis.xtrim(stream_of(deps), maxlen=3, approximate=False)

    await drain_all(deps)

    assert (10, 3, 0, 7) == await books(deps.pool)
    assert 3 == await plays(deps)


async def test_entries_that_a_stranger_deleted_in_the_middle_are_counted(deps: Deps) -> None:
    """
    XDEL leaves a gap that no id tells of; the number of entries ever added does.
    """
    await append(deps.settings, deps.redis, [save("bob")])
    await drain_all(deps)
    await append_many(deps, 10)
    entries = await deps.redis.xrange(stream_of(deps))
    await deps.redis.xdel(stream_of(deps), entries[4][0], entries[8][0])

    await drain_all(deps)

    assert (11, 9, 0, 2) == await books(deps.pool)


async def test_applied_entries_that_a_stranger_removed_are_no_loss(deps: Deps) -> None:
    """
    They are in MySQL; only what was never applied can be lost.
    """
    await append_many(deps, 10)
    await drain_all(deps)
    entries = await deps.redis.xrange(stream_of(deps))
    await deps.redis.xdel(stream_of(deps), entries[2][0])
    await deps.redis.xtrim(stream_of(deps), maxlen=4, approximate=False)
    await append_many(deps, 5, "bob")

    await drain_all(deps)

    assert (15, 15, 0, 0) == await books(deps.pool)


async def test_a_loss_in_a_long_backlog_is_counted_once(deps: Deps) -> None:
    """
    It is seen with the first chunk, long before the end; the end finds nothing more.
    """
    await append_many(deps, 4_000)
    await drain_one_batch(deps, 100)
    await deps.redis.xtrim(stream_of(deps), maxlen=3_400, approximate=False)

    await drain_one_batch(deps, 1_000)
    assert (1_600, 1_100, 0, 500) == await books(deps.pool)
    await drain_all(deps)

    assert (4_000, 3_500, 0, 500) == await books(deps.pool)
    assert 3_500 == await plays(deps)


async def test_a_zombies_false_gap_is_not_written_down(deps: Deps) -> None:
    """
    It reads on from a position that others have passed and trimmed, and its fence fails.
    """
    await append_many(deps, 10)
    old = await checkpoints.load(deps.pool, STREAM, 0)
    sink = PlaysSink(deps.settings)
    zombie = BatchReader(deps.redis, sink, stream_of(deps), (0, 1), old)
    await drain_all(deps)
    await deps.redis.xtrim(stream_of(deps), maxlen=1, approximate=False)
    batch = await zombie.next_batch(Pace(deps.settings).limits, asyncio.Event())
    assert 9 == batch.lost

    with pytest.raises(CheckpointMoved):
        await ShardDrain(deps, sink, 0).write_batch(old, batch)

    assert (10, 10, 0, 0) == await books(deps.pool)


# --- Redis is emptied --------------------------------------------------------------


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL"])
async def test_what_was_seen_and_never_applied_is_lost_when_redis_is_emptied(
    deps: Deps, how: str
) -> None:
    """
    A new incarnation begins; what is added afterwards is applied, once, whoever drains.
    """
    await append_many(deps, 5)
    await drain_one_batch(deps, 2)
    if how == "FLUSHALL":
        await deps.redis.flushall()
    else:
        await deps.redis.delete(stream_of(deps))
    await drain_all(deps)
    assert (5, 2, 0, 3) == await books(deps.pool)

    await append(deps.settings, deps.redis, [save("bob"), save("cat")])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save("dan")])
    await drain_all(deps)

    assert (8, 5, 0, 3) == await books(deps.pool)
    assert 5 == await plays(deps)
    committed = await checkpoints.load(deps.pool, STREAM, 0)
    assert 2 == committed.incarnation
    assert committed == await read_published(deps.redis, deps.keys.checkpoint(STREAM, 0))


@pytest.mark.parametrize("added", [1, 30, 4_500])
async def test_a_rewind_that_new_entries_hide_is_noticed_all_the_same(
    deps: Deps, added: int
) -> None:
    """
    Fewer, as many or far more than were lost: nothing of the new ones is taken for lost.
    """
    await append_many(deps, 30)
    await drain_all(deps)
    await deps.redis.flushall()
    await append_many(deps, added, "bob")

    await drain_all(deps)

    assert (30 + added, 30 + added, 0, 0) == await books(deps.pool)
    assert 30 + added == await plays(deps)
    assert 2 == (await checkpoints.load(deps.pool, STREAM, 0)).incarnation


async def test_a_second_rewind_is_counted_like_the_first(deps: Deps) -> None:
    """
    Ordinals only grow, however often Redis begins anew.
    """
    for incarnation in (2, 3):
        await append_many(deps, 5, f"u{incarnation}")
        await drain_one_batch(deps, 2)
        await deps.redis.delete(stream_of(deps))
        await drain_all(deps)
        assert incarnation == (await checkpoints.load(deps.pool, STREAM, 0)).incarnation

    assert (10, 4, 0, 6) == await books(deps.pool)


async def test_what_an_operator_puts_back_is_applied_and_not_lost(deps: Deps) -> None:
    """
    Of the seen entries only those are lost that are not there any more.
    """
    await append_many(deps, 10)
    entries = await deps.redis.xrange(stream_of(deps))
    await drain_one_batch(deps, 2)
    await deps.redis.delete(stream_of(deps))
    for identity, fields in [entries[1], *entries[6:]]:  # one of them is applied already
        await deps.redis.xadd(
            stream_of(deps), dict(zip(fields[::2], fields[1::2], strict=True)), id=identity
        )

    await drain_all(deps)

    assert (10, 6, 0, 4) == await books(deps.pool)
    assert 6 == await plays(deps)


async def test_a_rewind_that_was_dealt_with_is_not_dealt_with_again(deps: Deps) -> None:
    """
    A worker that slept through it finds its old position wrong, and the stream right.
    """
    await append_many(deps, 5)
    await drain_all(deps)
    await deps.redis.flushall()
    await append_many(deps, 2, "bob")
    await drain_all(deps)
    settled = await checkpoints.load(deps.pool, STREAM, 0)

    await rewind.reconcile(deps, STREAM, 0, in_doubt=True)

    assert 2 == settled.incarnation
    assert settled == await checkpoints.load(deps.pool, STREAM, 0)


async def test_a_stranger_that_trims_everything_leaves_no_rewind(deps: Deps) -> None:
    """
    The stream still knows how many it ever held: that loss is exact and no new incarnation.
    """
    await append_many(deps, 6)
    await drain_one_batch(deps, 2)
    await deps.redis.xtrim(stream_of(deps), maxlen=0, approximate=False)

    await drain_all(deps)

    assert (6, 2, 0, 4) == await books(deps.pool)
    assert 1 == (await checkpoints.load(deps.pool, STREAM, 0)).incarnation


async def test_an_exact_recount_agrees_after_a_loss(deps: Deps) -> None:
    """
    What is left in the stream is applied as if the lost ones had never been.
    """
    await append(deps.settings, deps.redis, [save("ann", play_time=n) for n in range(10)])
    entries = await deps.redis.xrange(stream_of(deps))
    await deps.redis.xdel(stream_of(deps), *(identity for identity, _ in entries[3:6]))

    await drain_all(deps)

    await assert_mysql_equals(deps.pool, await tapped(deps))
    assert (10, 7, 0, 3) == await books(deps.pool)
    assert entry_id(entries[-1][0]) == (await checkpoints.load(deps.pool, STREAM, 0)).last
