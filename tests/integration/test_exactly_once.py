"""Exactly once: whatever a batch is cut into, wherever a worker dies, whoever else tries."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.asyncio import Redis

import worker.drain
from shared.errors import CheckpointMoved
from shared.mysql import Cursor, Pool, transaction
from shared.published import Checkpoint, read_published
from shared.settings import Settings
from shared.streams import entry_id
from tests.event_strategies import timed_events
from tests.mysql_state import assert_mysql_equals, books
from tests.oracle import Oracle
from tests.plays import add_foreign, append, clear, delete, deps_of, drain_all, rows, save
from tests.taps import tapped
from worker import checkpoints
from worker.batches import BatchReader
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.pace import Pace
from worker.sinks.plays import PlaysSink

_runs = itertools.count()


class Crash(BaseException):
    """A worker's death: nothing in the program may catch it."""


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    one_shard = replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    return deps_of(one_shard, redis, pool)


FIRST = [save("ann", play_time=10), save("bob", play_time=5), save("ann", "2", play_time=1)]
SECOND = [
    save("ann", play_time=25),
    delete("bob"),
    save("cat", play_time=2),
    clear("ann"),
    save("ann", "3", play_time=9, index=2),
]

#: Where a worker can die in a batch: before each step is taken.
STEPS = [
    "worker.checkpoints.advance",
    "worker.sinks.plays.PlaysSink.stored",
    "worker.sinks.plays.PlaysSink.viewers",
    "worker.sinks.play_rows._deletes",
    "worker.sinks.play_rows._records",
    "worker.sinks.play_rows._viewers",
    "worker.sinks.play_rows._daily",
    "worker.sinks.play_rows._days_touched",
    "worker.sinks.play_rows._contents",
    "worker.drain.insert_letters",
    "worker.drain.publish",
    "worker.drain.trim",
    "worker.drain.clear_pending",
]


@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_dead_at_any_step_leaves_every_count_exact(
    deps: Deps, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Whatever step a worker dies before, its successor leaves each event counted once.
    """
    await append(deps.settings, deps.redis, FIRST)
    await drain_all(deps)
    await append(deps.settings, deps.redis, SECOND)

    def die(*_arguments: Any, **_options: Any) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(step, die)
        with pytest.raises(Crash):
            await drain_all(deps)
    await drain_all(deps)

    await assert_settled(deps, await tapped(deps))


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_dead_around_the_commit_leaves_every_count_exact(
    deps: Deps, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A commit that never was is done again; one that nobody heard of is not.
    """
    await append(deps.settings, deps.redis, FIRST)
    await drain_all(deps)
    await append(deps.settings, deps.redis, SECOND)

    @asynccontextmanager
    async def dying(pool: Pool) -> AsyncIterator[Cursor]:
        async with transaction(pool) as cursor:
            yield cursor
            if moment == "before":
                raise Crash
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(worker.drain, "transaction", dying)
        with pytest.raises(Crash):
            await drain_all(deps)
    await drain_all(deps)

    await assert_settled(deps, await tapped(deps))


async def assert_settled(deps: Deps, oracle: Oracle) -> None:
    """MySQL is the oracle's; the checkpoint is published; no overlay field counts any more."""
    await assert_mysql_equals(deps.pool, oracle)
    assert (oracle.applied, oracle.applied, 0, 0) == await books(deps.pool)
    committed = await checkpoints.load(deps.pool, "plays", 0)
    published = await read_published(deps.redis, deps.keys.checkpoint("plays", 0))
    assert committed == published
    for user in ("ann", "bob", "cat"):
        pending = deps.keys.play_records(0, user).pending
        for value in (await deps.redis.hgetall(pending)).values():  # type: ignore[misc]
            assert entry_id(value.split()[0]) <= committed.last


async def test_two_workers_with_different_batches_apply_each_event_once(deps: Deps) -> None:
    """
    Of two workers on one shard one wins; nothing doubles and nobody deadlocks.

    Their batches differ: of equal ones the second would be turned away by a row
    that did not change, and a fence without its condition would go unseen.
    """
    await append(deps.settings, deps.redis, FIRST + SECOND)
    sink, limits = PlaysSink(deps.settings), Pace(deps.settings).limits
    start = await checkpoints.load(deps.pool, "plays", 0)
    batches = [
        await reader_of(deps, sink).next_batch(replace(limits, entries=count), asyncio.Event())
        for count in (3, 8)
    ]

    outcomes = await asyncio.gather(
        *(ShardDrain(deps, sink, 0).write_batch(start, batch) for batch in batches),
        return_exceptions=True,
    )
    await drain_all(deps)

    assert 1 == sum(isinstance(outcome, CheckpointMoved) for outcome in outcomes)
    await assert_mysql_equals(deps.pool, await tapped(deps))


def reader_of(deps: Deps, sink: PlaysSink) -> BatchReader:
    return BatchReader(deps.redis, sink, deps.keys.stream("plays", 0), (0, 1), Checkpoint())


async def test_a_zombie_whose_position_repeats_is_refused_by_the_batch_number(deps: Deps) -> None:
    """
    A batch number alone tells two workers apart whose positions are the same.
    """
    await append(deps.settings, deps.redis, FIRST)
    sink = PlaysSink(deps.settings)
    start = await checkpoints.load(deps.pool, "plays", 0)
    limits = Pace(deps.settings).limits
    batch = await reader_of(deps, sink).next_batch(limits, asyncio.Event())
    async with transaction(deps.pool) as cursor:
        await cursor.execute("UPDATE stream_checkpoints SET batch_no = batch_no + 1")

    with pytest.raises(CheckpointMoved):
        await ShardDrain(deps, sink, 0).write_batch(start, batch)
    assert [] == await rows(deps.pool, "SELECT * FROM play_records")


@hypothesis_settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(timed_events(), st.integers(1, 9))
async def test_random_sequences_in_random_batches_equal_one_at_a_time(
    deps: Deps, timed: list[tuple[int, dict[str, Any]]], entries: int
) -> None:
    """
    The real sink on the real server agrees with the oracle for any sequence and batch size.
    """
    run = next(_runs)
    oracle, entry_ids = Oracle(), []
    start_ms = 1_000_000_000 * (run + 1)  # stream ids only grow from example to example
    for number, (ms, event) in enumerate(timed):
        moved_ms = ms - timed[0][0] + start_ms
        named = {**event, "user": f"{event['user']}{run}", "source": f"s{run}"}
        oracle.apply(named, moved_ms)
        entry_ids.append((f"{moved_ms}-{number}", named))
    await add_foreign(deps.settings, deps.redis, entry_ids)

    limited = replace(deps.settings, batch_max_entries=entries)
    await drain_all(replace(deps, settings=limited))

    await assert_mysql_equals(deps.pool, oracle)
    async with transaction(deps.pool) as cursor:
        for table in ("play_records", "content_stats", "user_watch_daily", "content_viewers"):
            await cursor.execute(f"DELETE FROM {table}")
