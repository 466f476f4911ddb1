"""
What must be true of Redis before a process may use it: fit to keep streams, same shard count.

A user's shard follows from the shard count, so it is fixed at first start and kept
in both stores; a start with another count would scatter users over two shards.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from shared.connections import Cursor, redis_errors
from shared.errors import SettingsError
from shared.keys import Keys

_CREATE = """
INSERT INTO instance_settings (name, value) VALUES ('shards', %s)
ON DUPLICATE KEY UPDATE instance_settings.value = instance_settings.value
"""
_READ = "SELECT value FROM instance_settings WHERE name = 'shards'"


async def check_redis(redis: Redis, keys: Keys, shards: int) -> None:
    """Raise `SettingsError` where this Redis cannot serve; `StoreDown` where it does not answer."""
    with redis_errors():
        about: dict[str, Any] = await redis.info("server")
        memory: dict[str, Any] = await redis.info("memory")
        await redis.set(keys.shard_count, shards, nx=True)
        fixed = int(await redis.get(keys.shard_count) or 0)
    version = str(about.get("redis_version", "0"))
    if int(version.partition(".")[0]) < 7:
        raise SettingsError(
            f"REDIS_URL: Redis {version} has no entries-added; Redis 7.0+ or Valkey is needed"
        )
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys-"):
        raise SettingsError(
            f"REDIS_URL: maxmemory-policy {policy} may evict streams; set it to noeviction"
        )
    _same(fixed, shards, "Redis")


async def check_mysql(cursor: Cursor, shards: int) -> None:
    """Raise `SettingsError` if the database was begun with another shard count."""
    await cursor.execute(_CREATE, (str(shards),))
    await cursor.execute(_READ)
    row = await cursor.fetchone()
    _same(int(row[0]) if row else shards, shards, "MySQL")


def _same(fixed: int, shards: int, store: str) -> None:
    if fixed != shards:
        raise SettingsError(
            f"SHARDS is {shards}, but {store} was begun with {fixed}: it cannot be changed later"
        )
