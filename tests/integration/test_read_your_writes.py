"""
Promise 4: after an acknowledged write every read of that user shows it.

On another process than the one that took the write, with the cache cold, warm or
being filled by a slow reader, and with the worker stopped, at work, or dead between
its commit and all that follows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.keys import shard_of
from shared.mysql import Pool
from shared.settings import Settings
from tests.fronts import Front
from tests.plays import add_foreign, drain_all, record
from tests.plays import clear as clear_event
from tests.plays import save as save_event
from tests.two_fronts import (
    USER,
    Site,
    a_cold_cache,
    a_slow_reader,
    a_warm_cache,
    at_work,
    dead,
    positions,
    stopped,
    two_fronts,
)
from worker.deps import Deps

#: Of both shards.
CROWD = ("amy", "bob", "cat", "dora", "eve", "fay")


@pytest.fixture(name="site")
async def _site(migrated: Settings, redis: Redis, pool: Pool) -> AsyncIterator[Site]:
    async with two_fronts(migrated, redis, pool) as site:
        yield site


async def save(site: Front) -> Any:
    return await site.save(USER, "s+1", record(play_time=99))


async def delete(site: Front) -> Any:
    return await site.delete(USER, "s+1")


async def clear(site: Front) -> Any:
    return await site.clear(USER)


#: What a user with s+1 and s+2 at position 10 sees after each write: key -> play_time.
WRITES: list[tuple[Callable[[Front], Awaitable[Any]], dict[str, int]]] = [
    (save, {"s+1": 99, "s+2": 10}),
    (delete, {"s+2": 10}),
    (clear, {}),
]


@pytest.mark.parametrize("worker", [stopped, at_work, dead], ids=lambda w: w.__name__)
@pytest.mark.parametrize(
    "cache", [a_cold_cache, a_warm_cache, a_slow_reader], ids=lambda c: c.__name__
)
@pytest.mark.parametrize(("write", "expected"), WRITES, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_write_is_in_every_later_read(
    site: Site,
    write: Callable[[Front], Awaitable[Any]],
    expected: dict[str, int],
    cache: Callable[[Site], Any],
    worker: Callable[[Deps], Awaitable[None]],
) -> None:
    """Whatever the cache held and however far the worker came, another process shows it."""
    for key in ("s+1", "s+2"):
        await site.near.save(USER, key, record())
    await drain_all(site.deps)

    async with cache(site):
        assert 200 == (await write(site.near)).status_code
        await worker(site.deps)
        seen_at_once = await positions(site.far)
    seen_later = await positions(site.far)
    await drain_all(site.deps)
    await site.forget_cached()

    assert expected == seen_at_once
    assert expected == seen_later
    assert expected == await positions(site.near)


@pytest.mark.parametrize("worker", [stopped, at_work, dead], ids=lambda w: w.__name__)
@pytest.mark.parametrize(("write", "expected"), WRITES, ids=lambda v: getattr(v, "__name__", ""))
async def test_a_slow_reader_that_ends_last_leaves_nothing_stale(
    site: Site,
    write: Callable[[Front], Awaitable[Any]],
    expected: dict[str, int],
    worker: Callable[[Deps], Awaitable[None]],
) -> None:
    """Nobody else read meanwhile: what it read before the write must not become the copy."""
    for key in ("s+1", "s+2"):
        await site.near.save(USER, key, record())
    await drain_all(site.deps)

    async with a_slow_reader(site):
        await write(site.near)
        await worker(site.deps)

    assert expected == await positions(site.far)


async def test_an_overlay_left_behind_never_hides_what_came_after_it(
    site: Site, redis: Redis
) -> None:
    """A field at or below the published checkpoint does not count, and a read removes it."""
    await site.near.save(USER, "s+1", record())
    shard = shard_of(USER, site.deps.settings.shards)
    pending = site.keys.play_records(shard, USER).pending
    left_behind = await redis.hgetall(pending)  # type: ignore[misc]
    await drain_all(site.deps)
    # As a worker leaves it that died before its last step; another producer went on.
    await redis.hset(pending, mapping=left_behind)  # type: ignore[misc]
    await add_foreign(site.deps.settings, redis, [("*", clear_event(USER))])
    await drain_all(site.deps)

    assert {} == await site.far.records(USER)
    assert {} == await redis.hgetall(pending)  # type: ignore[misc]


async def test_a_reader_that_began_before_a_stranger_wrote_fills_nothing(site: Site) -> None:
    """An entry of another producer moves the version when it is drained, not when added."""
    async with a_slow_reader(site):
        await add_foreign(site.deps.settings, site.deps.redis, [("*", save_event(USER, "9"))])
        await drain_all(site.deps)

    assert ["s+9"] == list(await site.far.records(USER))


class Stress:
    """Random writes and reads of several users, each checked against what it must be."""

    def __init__(self, site: Site, seed: int) -> None:
        self._site = site
        self._random = random.Random(seed)
        self._over = False
        self.reads = 0

    async def run(self, steps: int) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._live(user, steps)) for user in CROWD]
            group.create_task(self._disturb())
            group.create_task(self._work())
            try:
                await asyncio.wait(tasks)
            finally:
                self._over = True

    async def _live(self, user: str, steps: int) -> None:
        mine: dict[str, int] = {}
        for step in range(steps):
            front, key = self._front(), f"s+{self._random.randrange(3)}"
            choice = self._random.randrange(10)
            if choice < 6:
                mine[key] = step
                response = await front.save(user, key, record(play_time=step))
            elif choice < 9:
                mine.pop(key, None)
                response = await front.delete(user, key)
            else:
                mine.clear()
                response = await front.clear(user)
            assert 200 == response.status_code
            records = await self._front().records(user)
            self.reads += 1
            assert mine == {key: fields["play_time"] for key, fields in records.items()}

    def _front(self) -> Front:
        return self._random.choice((self._site.near, self._site.far))

    async def _disturb(self) -> None:
        """Drop cached copies, and read beside everybody to fill them again."""
        while not self._over:
            user = self._random.choice(CROWD)
            await self._site.forget_cached(user)
            await self._front().records(user)

    async def _work(self) -> None:
        """Drain all the time; every other time die after the commit."""
        while not self._over:
            await self._random.choice((at_work, dead))(self._site.deps)


async def test_everybody_reads_their_own_writes_while_workers_drain_and_die(site: Site) -> None:
    """Six users on two fronts, caches dropped and filled beside them: no stale read."""
    stress = Stress(site, seed=4)
    async with asyncio.timeout(60):
        await stress.run(steps=40)

    assert len(CROWD) * 40 == stress.reads
    assert 0 == sum([await site.deps.redis.hlen(key) async for key in _overlays(site)])  # type: ignore[misc]


async def _overlays(site: Site) -> AsyncIterator[str]:
    await drain_all(site.deps)
    for user in CROWD:
        shard = shard_of(user, site.deps.settings.shards)
        await site.forget_cached(user)
        await site.near.records(user)
        yield site.keys.play_records(shard, user).pending
