"""Everything at once, from a seed: two fronts, strangers, readers, and workers that die."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.keys import shard_of
from shared.mysql import Pool, open_mysql
from shared.settings import Settings
from tests.fronts import Front, front
from tests.mysql_state import assert_mysql_equals, books
from tests.plays import add_foreign, clear, delete, deps_of, drain_all, record, save
from tests.taps import tapped
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

USERS = ("ann", "bob", "cat")
STEPS = 80


@dataclass(frozen=True, slots=True)
class Site:
    """Two fronts and two workers on one pair of stores, and the dice."""

    fronts: tuple[Front, Front]
    workers: tuple[Deps, Deps]
    dice: Random

    async def live(self, user: str) -> None:
        """One viewer's evening: saves, deletes, clears and reads, of ours and of strangers."""
        deps, dice = self.workers[0], self.dice
        for step in range(STEPS):
            await self.pause(4)
            content, at = str(dice.randrange(3)), dice.choice(self.fronts)
            fields: dict[str, Any] = {"play_time": step, "index": dice.choice([1, 1, 1, 2])}
            act = dice.choices(
                ["save", "delete", "clear", "stranger", "forget", "read"], [9, 2, 1, 5, 2, 1]
            )[0]
            if act == "save":
                await at.save(user, f"s+{content}", record(**fields))
            elif act == "delete":
                await at.delete(user, f"s+{content}")
            elif act == "clear":
                await at.clear(user)
            elif act == "stranger":
                given = [save(user, content, **fields), delete(user, content), clear(user)]
                event = dice.choices(given, [4, 1, 1])[0]
                await add_foreign(deps.settings, deps.redis, [("*", event)])
            elif act == "forget":
                await deps.redis.delete(self.cached(user))
            else:
                await at.records(user)

    async def work(self, deps: Deps, over: asyncio.Event) -> None:
        """Drain shards at random; two workers know nothing of each other, and some die."""
        while not over.is_set():
            shard = self.dice.randrange(deps.settings.shards)
            drain = ShardDrain(deps, PlaysSink(deps.settings), shard)
            task = asyncio.create_task(drain.run(slice_s=0.2))
            if self.dice.random() < 0.4:
                await self.pause(20)
                while not task.done():  # a task may need to be told more than once
                    task.cancel()
                    await asyncio.wait([task], timeout=1)
            await asyncio.wait([task])
            assert task.cancelled() or not task.exception()

    async def look(self, over: asyncio.Event) -> None:
        """Keep filling caches while everything moves."""
        while not over.is_set():
            await self.pause(4)
            await self.dice.choice(self.fronts).records(self.dice.choice(USERS))

    async def pause(self, longest_ms: float) -> None:
        await asyncio.sleep(self.dice.random() * longest_ms / 1000)

    def cached(self, user: str) -> str:
        deps = self.workers[0]
        return deps.keys.play_records(shard_of(user, deps.settings.shards), user).cached


@asynccontextmanager
async def site_of(settings: Settings, redis: Redis, pool: Pool, seed: int) -> AsyncIterator[Site]:
    dice = Random(seed)
    chosen = replace(
        settings,
        flush_interval_ms=dice.choice([0, 20]),
        batch_max_entries=dice.choice([1000, 3, 10]),
        stream_retention_s=3600,
    )
    async with (
        front(chosen) as first,
        front(chosen) as second,
        open_mysql(chosen, drain=True) as own_pool,
    ):
        workers = (deps_of(chosen, redis, pool), deps_of(chosen, redis, own_pool))
        yield Site((first, second), workers, dice)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_everything_at_once_stays_exact(
    migrated: Settings, redis: Redis, pool: Pool, seed: int
) -> None:
    """
    Whatever overlaps: MySQL equals the oracle, and every cached copy equals MySQL.
    """
    async with site_of(migrated, redis, pool, seed) as site:
        over = asyncio.Event()
        behind = [
            asyncio.create_task(each)
            for each in (
                *(site.work(deps, over) for deps in site.workers),
                site.look(over),
                site.look(over),
            )
        ]
        await asyncio.gather(*(site.live(user) for user in USERS))
        over.set()
        await asyncio.gather(*behind)
        deps = site.workers[0]
        await drain_all(deps)

        oracle = await tapped(deps)
        await assert_mysql_equals(pool, oracle)
        assert (oracle.applied, oracle.applied, 0, 0) == await books(pool)
        for user in USERS:
            cached = await site.fronts[0].records(user)
            await redis.delete(site.cached(user))
            assert cached == await site.fronts[1].records(user)
