"""Backpressure: a shard closes at its high-water mark and opens at the low one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from api.backpressure import Backpressure
from shared.errors import Closed
from shared.keys import Keys, shard_of
from shared.mysql import Pool
from shared.settings import Settings
from tests.fronts import Front, front
from tests.plays import STREAM, deps_of, drain_all, record
from tests.waiting import until

HIGH = 10


@pytest.fixture(name="low_settings")
def _low_settings(migrated: Settings) -> Settings:
    return replace(migrated, max_lag_entries=HIGH, flush_interval_ms=0)


@pytest.fixture(name="site")
async def _site(low_settings: Settings) -> AsyncIterator[Front]:
    async with front(low_settings) as site:
        yield site


def users_of(settings: Settings) -> tuple[str, str]:
    """Two users of different shards."""
    names = [f"user{number}" for number in range(50)]
    first = names[0]
    home = shard_of(first, settings.shards)
    return first, next(name for name in names if shard_of(name, settings.shards) != home)


async def save_until_closed(site: Front, user: str) -> int:
    """How many saves were acknowledged before the first 503."""
    for acknowledged in range(20 * HIGH):
        response = await site.save(user, "s+1", record(play_time=acknowledged))
        if response.status_code == 503:
            return acknowledged
        await site.site.backpressure.look()  # as every 250 ms
    raise AssertionError("the shard never closed")


async def test_a_shard_closes_at_its_mark_and_opens_when_it_is_drained(
    site: Front, redis: Redis, pool: Pool
) -> None:
    """503 with Retry-After for POST and DELETE of that shard; other shards and reads go on."""
    user, other = users_of(site.settings)
    acknowledged = await save_until_closed(site, user)
    refused = [
        await site.save(user, "s+1", record()),
        await site.delete(user, "s+1"),
        await site.clear(user),
    ]
    ready = await site.client.get("/readyz")

    assert HIGH == acknowledged
    assert [503] * 3 == [response.status_code for response in refused]
    assert all(int(response.headers["retry-after"]) > 0 for response in refused)
    assert {"error"} == set(refused[0].json())
    assert (503, "closed") == (ready.status_code, ready.json()["status"])
    assert HIGH - 1 == (await site.records(user))["s+1"]["play_time"]
    assert 200 == (await site.save(other, "s+1", record())).status_code

    await drain_all(deps_of(site.settings, redis, pool))

    async def open_again() -> bool:
        return (await site.save(user, "s+1", record())).status_code == 200

    await until(open_again, "the shard takes writes again")
    assert 200 == (await site.client.get("/readyz")).status_code


async def test_a_shard_stays_closed_down_to_the_low_water_mark(site: Front, redis: Redis) -> None:
    """Between the marks it stays as it is, or it would open and close at every entry."""
    user, _ = users_of(site.settings)
    shard = shard_of(user, site.settings.shards)
    key = site.site.keys.checkpoint(STREAM, shard)
    await save_until_closed(site, user)
    low = site.settings.low_water_entries
    states = []
    for lag in (HIGH, low + 1, low, low + 1, HIGH):
        fields = {"batch_no": 1, "ordinal": HIGH - lag, "applied": HIGH - lag}
        await redis.hset(key, mapping=fields)  # type: ignore[misc]
        await site.site.backpressure.look()
        states.append(site.site.backpressure.closed[shard])

    assert [True, True, False, False, True] == states


async def test_all_processes_close_and_open_together(low_settings: Settings, site: Front) -> None:
    """The flag lives in Redis: a process that starts now knows at once."""
    user, _ = users_of(low_settings)
    await save_until_closed(site, user)
    async with front(low_settings) as newcomer:
        assert 503 == (await newcomer.save(user, "s+1", record())).status_code


async def test_retained_entries_are_no_lag(site: Front, redis: Redis, pool: Pool) -> None:
    """Drained entries stay in the stream for a while; they close nothing."""
    user, _ = users_of(site.settings)
    for _ in range(3):
        for number in range(HIGH - 1):
            assert 200 == (await site.save(user, f"s+{number}", record())).status_code
        await drain_all(deps_of(site.settings, redis, pool))
        await site.site.backpressure.look()
    shard = shard_of(user, site.settings.shards)

    assert 3 * (HIGH - 1) == await redis.xlen(site.site.keys.stream(STREAM, shard))
    assert [False, False] == site.site.backpressure.closed


async def test_an_unknown_ordinal_keeps_accepting_and_says_so_once(
    settings: Settings, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trimmed, and no checkpoint published: nobody can tell the lag."""
    keys = Keys(settings.key_prefix)
    stream = keys.stream(STREAM, 0)
    for _ in range(3 * HIGH):
        await redis.xadd(stream, {"d": "x"})
    await redis.xtrim(stream, maxlen=2 * HIGH, approximate=False)
    await redis.set(keys.closed(STREAM, 0), 1)
    watch = Backpressure(redis, keys, STREAM, replace(settings, max_lag_entries=HIGH))
    for _ in range(3):
        await watch.look()

    watch.check_open(0)
    assert 1 == capsys.readouterr().out.count("lag_unknown")
    assert 0 == await redis.exists(keys.closed(STREAM, 0))


async def test_the_mark_holds_before_any_worker_came(settings: Settings, redis: Redis) -> None:
    """Never trimmed is never drained: all entries count, though no checkpoint is published."""
    keys = Keys(settings.key_prefix)
    for _ in range(HIGH):
        await redis.xadd(keys.stream(STREAM, 1), {"d": "x"})
    watch = Backpressure(redis, keys, STREAM, replace(settings, max_lag_entries=HIGH))
    await watch.look()

    watch.check_open(0)
    with pytest.raises(Closed):
        watch.check_open(1)
