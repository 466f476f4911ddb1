"""The books of every shard: balanced at every moment, and a check that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.keys import shard_of
from shared.mysql import Pool
from shared.published import read_published
from shared.settings import Settings
from shared.status import PENDING_READ_MAX, ShardStatus, read_committed, read_status
from shared.streams import EntryId, read_range
from tests.fronts import Front, front
from tests.plays import STREAM, add_foreign, deps_of, drain_all, record
from tests.plays import save as save_event


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[Front]:
    async with front(replace(migrated, flush_interval_ms=0)) as site:
        yield site


async def status_of(site: Front, shard: int = 0) -> ShardStatus:
    return (await read_status(site.site.redis, site.site.keys, STREAM, site.settings.shards))[shard]


async def test_the_books_balance_before_during_and_after(
    site: Front, redis: Redis, pool: Pool
) -> None:
    """Added is applied, dead and pending at every moment; pending is counted by reading."""
    deps = deps_of(site.settings, redis, pool)
    shard = shard_of("ann", site.settings.shards)
    seen, after = [], await status_of(site, shard)
    for step in range(3):
        for number in range(5):
            await site.save("ann", f"s+{number}", record(play_time=step))
        bad = {**save_event("ann"), "op": "unheard of"}
        await add_foreign(site.settings, redis, [("*", bad)])
        before = await status_of(site, shard)
        await drain_all(deps)
        after = await status_of(site, shard)
        seen.append((before.lag, before.pending, after.lag, after.checkpoint.dead))
        assert [0, 0] == [before.difference, after.difference]
        assert before.lag_s >= 0.0 == after.lag_s

    assert [(6, 6, 0, 1), (6, 6, 0, 2), (6, 6, 0, 3)] == seen
    committed = (await read_committed(pool, STREAM))[shard]
    assert after.published == committed
    assert (18, 15, 3) == (committed.ordinal, committed.applied, committed.dead)
    assert 18 == after.work.entries


async def test_what_a_stranger_trimmed_shows_as_a_difference(
    site: Front, redis: Redis, pool: Pool
) -> None:
    """The check is real: entries that vanished before they were drained are missing."""
    for number in range(5):
        await site.save("ann", f"s+{number}", record())
    await drain_all(deps_of(site.settings, redis, pool))
    for number in range(5):
        await site.save("ann", f"s+{number}", record())
    shard = shard_of("ann", site.settings.shards)
    await redis.xtrim(site.site.keys.stream(STREAM, shard), maxlen=2, approximate=False)
    status = await status_of(site, shard)

    assert (5, 2, 3) == (status.lag, status.pending, status.difference)


async def test_pending_is_counted_over_pages_and_left_out_above_the_bound(
    site: Front, redis: Redis
) -> None:
    """Above 20,000 entries the lag is told and the difference is not."""
    stream = site.site.keys.stream(STREAM, 0)
    seen = []
    for wanted in (2_000, 4_500, PENDING_READ_MAX + 1):
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(wanted - await redis.xlen(stream)):
                pipe.xadd(stream, {"d": "x"})
            await pipe.execute()
        status = await status_of(site)
        seen.append((status.lag, status.pending, status.difference))

    bound = PENDING_READ_MAX + 1
    assert [(2_000, 2_000, 0), (4_500, 4_500, 0), (bound, None, None)] == seen


async def test_a_read_while_the_checkpoint_moves_makes_no_false_difference(
    site: Front, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries drained and trimmed between two pages: read again, or not told."""
    keys, stream = site.site.keys, site.site.keys.stream(STREAM, 0)
    ids = [EntryId(number, 1) for number in range(1, 6_001)]
    async with redis.pipeline(transaction=False) as pipe:
        for entry in ids:
            pipe.xadd(stream, {"d": "x"}, id=str(entry))
        await pipe.execute()
    drained = 0

    async def drain_some(*given: Any) -> Any:
        nonlocal drained
        drained += 500
        fields = {"batch_no": drained, "last_ms": ids[drained - 1].ms, "last_seq": 1}
        counts = {"ordinal": drained, "applied": drained}
        await redis.hset(keys.checkpoint(STREAM, 0), mapping={**fields, **counts})  # type: ignore[misc]
        await redis.xtrim(stream, minid=str(ids[drained]), approximate=False)
        return await read_range(*given)

    with monkeypatch.context() as patch:
        patch.setattr("shared.status.read_range", drain_some)
        moving = await status_of(site)
    still = await status_of(site)

    assert (None, None) == (moving.pending, moving.difference)
    assert (0, 6_000 - drained) == (still.difference, still.pending)


async def test_a_checkpoint_that_moves_before_the_first_page_makes_no_false_difference(
    site: Front, redis: Redis, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page was read from the old position: it is read again from the new one."""
    for number in range(5):
        await site.save("ann", f"s+{number}", record())
    deps = deps_of(site.settings, redis, pool)
    shard = shard_of("ann", site.settings.shards)

    async def read_then_drain(client: Redis, key: str) -> Any:
        before = await read_published(client, key)
        if key == site.site.keys.checkpoint(STREAM, shard):
            await drain_all(deps)
        return before

    with monkeypatch.context() as patch:
        patch.setattr("shared.status.read_published", read_then_drain)
        status = await status_of(site, shard)

    assert (0, 0, 0) == (status.lag, status.pending, status.difference)
