"""The cached copy: who fills it, who shares a load, what damage does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from api.gate import Visitor
from api.reads import Snapshot
from shared.keys import shard_of
from shared.mysql import Pool
from shared.settings import Settings
from tests.plays import drain_all, record
from tests.two_fronts import (
    USER,
    Site,
    positions,
    two_fronts,
)
from tests.waiting import until


@pytest.fixture(name="site")
async def _site(migrated: Settings, redis: Redis, pool: Pool) -> AsyncIterator[Site]:
    async with two_fronts(migrated, redis, pool) as site:
        yield site


async def test_only_reads_make_a_cached_copy(site: Site, redis: Redis) -> None:
    """An append keeps a copy up to date and never begins one, which would have no end."""
    await site.near.save(USER, "s+1", record())
    cached = site.keys.play_records(shard_of(USER, site.deps.settings.shards), USER).cached

    assert 0 == await redis.exists(cached)
    await site.near.records(USER)
    await site.near.save(USER, "s+1", record())
    assert 0 < await redis.pttl(cached) <= 3_600_000


async def test_no_records_can_be_cached_too(site: Site) -> None:
    """A user without records costs MySQL one read, not one per read."""
    assert {} == await site.near.records(USER)

    async def no_load(_username: str) -> dict[bytes, dict[str, Any]]:
        raise AssertionError("MySQL was read again")

    site.far.site.reads.load = no_load
    assert {} == await site.far.records(USER)


async def test_readers_of_one_version_share_one_load(site: Site) -> None:
    """Fifty readers who miss at the same time ask MySQL once."""
    reads = site.near.site.reads
    load, calls, all_wait = reads.load, 0, asyncio.Event()

    async def counted(username: str) -> dict[bytes, dict[str, Any]]:
        nonlocal calls
        calls += 1
        await all_wait.wait()
        return await load(username)

    reads.load = counted
    await site.near.save(USER, "s+1", record())
    readers = [asyncio.create_task(site.near.records(USER)) for _ in range(50)]
    await until(lambda: calls == 1, "a reader asks MySQL")
    # Whoever missed after a new write must not be given what was read before it.
    await site.near.save(USER, "s+2", record())
    late = asyncio.create_task(site.near.records(USER))
    await until(lambda: calls == 2, "the late reader asks MySQL too")
    all_wait.set()
    seen = await asyncio.gather(*readers)

    assert 2 == calls
    assert all("s+1" in records for records in seen)
    assert {"s+1", "s+2"} == set(await late)


async def test_a_reader_who_goes_away_leaves_the_load_to_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling the first of two readers does not fail the second."""
    reads = site.near.site.reads
    load, loading, may_go_on = reads.load, asyncio.Event(), asyncio.Event()

    async def slow_load(username: str) -> dict[bytes, dict[str, Any]]:
        loading.set()
        await may_go_on.wait()
        return await load(username)

    reads.load = slow_load
    visitor = await site.near.site.gate.visitor(
        [(b"cookie", site.near.cookie(USER)["cookie"].encode())]
    )
    take_snapshot, snapshots = reads._snapshot, 0

    async def counted(visitor: Visitor) -> Snapshot:
        nonlocal snapshots
        snapshot = await take_snapshot(visitor)
        snapshots += 1
        return snapshot

    monkeypatch.setattr(reads, "_snapshot", counted)
    first = asyncio.create_task(reads.play_records(visitor))
    await loading.wait()
    second = asyncio.create_task(reads.play_records(visitor))
    await until(lambda: snapshots == 2, "the second has missed too")
    first.cancel()
    await asyncio.wait([first])
    may_go_on.set()

    assert b"{}" == await second


@pytest.mark.parametrize("damage", ["overlay", "overlay key", "cached", "cached key"])
async def test_damaged_values_are_read_around(site: Site, redis: Redis, damage: str) -> None:
    """Whatever somebody wrote into the overlay or the cached copy, MySQL's records are served."""
    await site.near.save(USER, "s+1", record())
    await drain_all(site.deps)
    await site.near.records(USER)
    shard = shard_of(USER, site.deps.settings.shards)
    user = site.keys.play_records(shard, USER)
    if damage == "overlay":
        await site.forget_cached()
        junk = {"s+1": "junk", "s+2": "9999999999999-1 x s", "s+3": b"9999999999999-1 x s x 1 {"}
        await redis.hset(user.pending, mapping=junk)  # type: ignore[misc]
    elif damage == "overlay key":
        await site.forget_cached()
        await redis.set(user.pending, "junk")
    elif damage == "cached":
        await redis.hset(user.cached, "s+1", "junk")  # type: ignore[misc]
    else:
        await redis.set(user.cached, "junk")

    assert {"s+1": 10} == await positions(site.near)
    assert {"s+1": 10} == await positions(site.far)


async def test_a_damaged_overlay_stops_no_write_and_no_drain(site: Site, redis: Redis) -> None:
    """A save over a damaged field is taken, drained and cleaned up as any other."""
    shard = shard_of(USER, site.deps.settings.shards)
    pending = site.keys.play_records(shard, USER).pending
    await redis.hset(pending, mapping={"s+1": "junk", "clear": "junk"})  # type: ignore[misc]

    assert 200 == (await site.near.save(USER, "s+1", record())).status_code

    await redis.hset(pending, "s+1", "junk")  # type: ignore[misc]
    await drain_all(site.deps)

    assert {"s+1": 10} == await positions(site.near)
    assert {} == await redis.hgetall(pending)  # type: ignore[misc]
