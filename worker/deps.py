"""What the worker's parts share: settings and open connections, typed and in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from redis.asyncio import Redis

from shared.connections import Pool, open_mysql, open_redis
from shared.keys import Keys
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Deps:
    """Open connections of one process. *pool* is the drains' (short time-outs)."""

    settings: Settings
    redis: Redis
    pool: Pool
    keys: Keys


@asynccontextmanager
async def open_deps(settings: Settings) -> AsyncIterator[Deps]:
    async with (
        open_redis(settings.redis_url) as redis,
        open_mysql(settings, drain=True) as pool,
    ):
        yield Deps(settings, redis, pool, Keys(settings.key_prefix))
