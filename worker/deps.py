"""What the worker's parts share: settings and open connections, typed and in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.keys import Keys
from shared.mysql import Pool, open_mysql
from shared.redis import open_redis
from shared.settings import Settings

WRITERS_MAX = 2


@dataclass(frozen=True, slots=True)
class Deps:
    """Open connections of one process. *pool* is the drains' (short time-outs)."""

    settings: Settings
    redis: Redis
    pool: Pool
    keys: Keys
    #: Batches written at a time. Shards share the rows of popular contents: all of them
    #: at once would wait for each other inside MySQL, up to its time-out.
    writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITERS_MAX))


@asynccontextmanager
async def open_deps(settings: Settings) -> AsyncIterator[Deps]:
    async with (
        open_redis(settings.redis_url) as redis,
        open_mysql(settings, drain=True) as pool,
    ):
        yield Deps(settings, redis, pool, Keys(settings.key_prefix))
