"""
What every process checks at its start: a Redis that can keep what it acknowledges.

A user's shard follows from the shard count, so that is fixed at the first start and
kept in both stores.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.durability import prove
from shared.errors import AckUnmet, SettingsError
from shared.keys import Keys
from shared.mysql import Cursor
from shared.redis import redis_errors

log = structlog.get_logger()

#: The first with entries-added in XINFO STREAM.
REDIS_MIN = (7, 0)

_KEEP = """
INSERT INTO instance_settings (name, value) VALUES ('shards', %s)
ON DUPLICATE KEY UPDATE instance_settings.value = instance_settings.value
"""
_KEPT = "SELECT value FROM instance_settings WHERE name = 'shards'"


async def check_redis(redis: Redis) -> None:
    """Raise `SettingsError` unless this Redis has what moonwake needs; `StoreDown` if it is down.

    Where CONFIG is denied, as hosted servers do, the eviction policy is left to `doctor`.
    """
    with redis_errors():
        server: dict[str, Any] = await redis.info("server")
        policy = await _eviction_policy(redis)
    version = str(server.get("redis_version", "0"))
    if _numbers(version) < REDIS_MIN:
        raise SettingsError(
            f"REDIS_URL: this server is version {version}; Redis 7.0+ or Valkey is needed"
            " (entries-added of XINFO STREAM)"
        )
    if policy not in {"noeviction", ""}:
        raise SettingsError(
            f"REDIS_URL: this server's maxmemory-policy is {policy}, which may evict"
            " acknowledged events; set it to noeviction"
        )


async def check_ack(redis: Redis, keys: Keys, level: str) -> None:
    """Raise `SettingsError` unless Redis keeps what *level* of INGEST_ACK promises.

    What a server does not let us look at is told as a warning. Raises `StoreDown` too.
    """
    try:
        promise = await prove(redis, level, keys.probe)
    except AckUnmet as unmet:
        raise SettingsError(
            f"INGEST_ACK is {level}, but the server of REDIS_URL cannot keep that:"
            f" {unmet.fault}; {unmet.remedy}"
        ) from unmet
    if promise.unchecked:
        log.warning("ack_level_unchecked", level=level, reason=promise.unchecked)


async def fix_shard_count(redis: Redis, keys: Keys, shards: int) -> None:
    """Fix the shard count at the first start, and refuse another ever after.

    Another count would send a user's events to another stream, out of order.
    Raises `SettingsError` or `StoreDown`.
    """
    with redis_errors():
        await redis.set(keys.shard_count, shards, nx=True)
        fixed: bytes = await redis.get(keys.shard_count)
    _compare(shards, int(fixed), f"this Redis was first used with {{}} (key {keys.shard_count})")


async def keep_shard_count(cursor: Cursor, shards: int) -> None:
    """The same for MySQL. Raises `SettingsError`."""
    await cursor.execute(_KEEP, (str(shards),))
    await cursor.execute(_KEPT)
    [kept] = await cursor.fetchone()
    _compare(shards, int(kept), "this database was first used with {} (instance_settings)")


def _compare(shards: int, fixed: int, where: str) -> None:
    if fixed != shards:
        raise SettingsError(
            f"SHARDS is {shards}, but {where.format(fixed)}; the count cannot change afterwards"
        )


async def _eviction_policy(redis: Redis) -> str:
    try:
        reply: dict[str, str] = await redis.config_get("maxmemory-policy")
    except ResponseError:
        return ""
    # Volatile policies evict keys with a TTL only, which no stream has; but what they
    # evict are leases and caches, and memory full of streams still ends in OOM.
    return reply.get("maxmemory-policy", "")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
