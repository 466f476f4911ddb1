"""The operator's guide on backup and restore, done to a real MySQL and Redis."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.mysql import Pool
from shared.settings import Settings
from tests.mysql_state import books
from tests.pasts import RedisPast, back_up, incidents, restore
from tests.plays import append, deps_of, drain_all, rows, save
from worker.deps import Deps


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    settings = replace(migrated, shards=1, flush_interval_ms=0, stream_retention_s=3600)
    return deps_of(settings, redis, pool)


async def plays(deps: Deps, user: str, count: int) -> None:
    """So many plays of so many contents: each counts one."""
    saves = [save(user, f"{number:05}") for number in range(count)]
    await append(deps.settings, deps.redis, saves)


async def counted(deps: Deps) -> int:
    [(count,)] = await rows(deps.pool, "SELECT CAST(SUM(play_count) AS SIGNED) FROM content_stats")
    return int(count)


async def test_the_pair_holds_what_was_acknowledged_until_redis_backup(deps: Deps) -> None:
    """
    MySQL's snapshot, then Redis': what lies between is in Redis, and applied once.

    Nobody could testify, so the worker claims no more than it knows.
    """
    await plays(deps, "ann", 3)
    await drain_all(deps)
    await back_up(deps.pool)
    await plays(deps, "bob", 4)
    await drain_all(deps)
    await plays(deps, "cat", 2)
    redis_backup = await RedisPast.of(deps.redis)
    await plays(deps, "dan", 5)
    await drain_all(deps)

    await restore(deps.pool)
    await redis_backup.take_over()
    await drain_all(deps)

    assert [("mysql_restored", 0, False)] == await incidents(deps.pool)
    assert (9, 9, 0, 0) == await books(deps.pool)
    assert 9 == await counted(deps)


async def test_the_other_way_round_nothing_is_applied_twice(deps: Deps) -> None:
    """
    Redis' backup is the older one: its events are in MySQL already, but for those it had pending.
    """
    await plays(deps, "ann", 3)
    await drain_all(deps)
    redis_backup = await RedisPast.of(deps.redis)
    await plays(deps, "bob", 4)
    await drain_all(deps)
    await back_up(deps.pool)
    await plays(deps, "cat", 2)
    await drain_all(deps)

    await restore(deps.pool)
    await redis_backup.take_over()
    await plays(deps, "dan", 1)
    await drain_all(deps)

    assert [("master_changed", 0, False)] == await incidents(deps.pool)
    assert (8, 8, 0, 0) == await books(deps.pool)
    assert 8 == await counted(deps)


async def test_with_the_published_checkpoint_deleted_a_stranger_is_blamed(deps: Deps) -> None:
    """
    Why the guide says to delete nothing: Redis' own word on what MySQL once held is gone.
    """
    await plays(deps, "ann", 3)
    await drain_all(deps)
    await back_up(deps.pool)
    await plays(deps, "bob", 4)
    await drain_all(deps)
    await deps.redis.xtrim(deps.keys.stream("plays", 0), maxlen=1, approximate=False)
    await restore(deps.pool)
    await deps.redis.delete(deps.keys.checkpoint("plays", 0))

    await drain_all(deps)

    assert [("trimmed", 3, True)] == await incidents(deps.pool)
    assert (7, 4, 0, 3) == await books(deps.pool)
