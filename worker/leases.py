"""
Leases: a hint of who should drain a shard, that runs out by itself.

No promise rests on one: the fence in MySQL refuses a stale worker. A lease carries
the id of the job it was taken for; only that job renews it (protocol 21).
"""

from __future__ import annotations

from redis.asyncio import Redis

from shared.redis import redis_errors
from shared.scripts import run_script

LEASE_MS = 3_000


async def take(redis: Redis, key: str, lease_id: str) -> bool:
    """Take the lease if nobody holds it. Raises `StoreDown`."""
    with redis_errors():
        return bool(await redis.set(key, lease_id, nx=True, px=LEASE_MS))


async def renew(redis: Redis, key: str, lease_id: str) -> bool:
    """Keep the lease another `LEASE_MS`; False if it is not ours any more."""
    return await _renew(redis, key, lease_id, LEASE_MS)


async def give_back(redis: Redis, key: str, lease_id: str) -> None:
    await _renew(redis, key, lease_id, 0)


async def _renew(redis: Redis, key: str, lease_id: str, ttl_ms: int) -> bool:
    return bool(await run_script(redis, "renew", [key], [lease_id, ttl_ms]))
