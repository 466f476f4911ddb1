"""Two API processes over the same stores, the states their cache and worker may be in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis

from shared.keys import Keys, shard_of
from shared.mysql import Pool
from shared.published import BatchWork, Checkpoint
from shared.settings import Settings
from tests.fronts import Front, front
from tests.plays import deps_of, drain_all
from worker.batches import Batch
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

USER = "ann"


@dataclass(frozen=True, slots=True)
class Site:
    """Two fronts over the same stores, and what a worker needs."""

    near: Front
    far: Front
    deps: Deps

    @property
    def keys(self) -> Keys:
        return self.deps.keys

    async def forget_cached(self, user: str = USER) -> None:
        shard = shard_of(user, self.deps.settings.shards)
        await self.deps.redis.delete(self.keys.play_records(shard, user).cached)


@asynccontextmanager
async def two_fronts(settings: Settings, redis: Redis, pool: Pool) -> AsyncIterator[Site]:
    """Both started; what they take is drained without waiting for more."""
    eager = replace(settings, flush_interval_ms=0)
    async with front(eager) as near, front(eager) as far:
        yield Site(near, far, deps_of(eager, redis, pool))


class DyingDrain(ShardDrain):
    """A worker that dies after each commit: nothing is published or cleaned up."""

    async def settle(self, checkpoint: Checkpoint, batch: Batch, work: BatchWork) -> None:
        return


async def stopped(_deps: Deps) -> None:
    """No worker."""


async def at_work(deps: Deps) -> None:
    """A worker that drains all there is."""
    await drain_all(deps)


async def dead(deps: Deps) -> None:
    """A worker that commits all there is and does nothing more."""
    for shard in range(deps.settings.shards):
        await DyingDrain(deps, PlaysSink(deps.settings), shard).run(slice_s=60)


@asynccontextmanager
async def a_cold_cache(site: Site) -> AsyncIterator[None]:
    await site.forget_cached()
    yield


@asynccontextmanager
async def a_warm_cache(site: Site) -> AsyncIterator[None]:
    await site.near.records(USER)
    yield


@asynccontextmanager
async def a_slow_reader(site: Site) -> AsyncIterator[None]:
    """A reader that has read MySQL before the write and goes on when it is drained."""
    await site.forget_cached()
    reads = site.far.site.reads
    load, has_read, may_go_on = reads.load, asyncio.Event(), asyncio.Event()

    async def slow_load(username: str) -> dict[bytes, dict[str, Any]]:
        stored = await load(username)
        has_read.set()
        await may_go_on.wait()
        return stored

    reads.load = slow_load
    reader = asyncio.create_task(site.far.records(USER))
    await has_read.wait()
    reads.load = load
    yield
    may_go_on.set()
    await reader


async def positions(front: Front) -> dict[str, int]:
    return {key: fields["play_time"] for key, fields in (await front.records(USER)).items()}
