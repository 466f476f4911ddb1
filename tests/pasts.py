"""Redis and MySQL as they were: what a replica that lagged, and a backup, hold."""

from __future__ import annotations

from redis.asyncio import Redis

from shared.mysql import Pool, transaction
from tests.plays import rows

_TABLES = (
    *("play_records", "content_stats", "content_viewers", "user_watch_daily"),
    *("stream_checkpoints", "dead_letters", "incidents", "stat_days_touched"),
)


class RedisPast:
    """Every key of a Redis at one moment: a replica that hears nothing more."""

    def __init__(self, redis: Redis, dumps: dict[bytes, bytes]) -> None:
        self._redis = redis
        self._dumps = dumps

    @classmethod
    async def of(cls, redis: Redis) -> RedisPast:
        dumps = {key: await redis.dump(key) for key in await redis.keys()}
        return cls(redis, {key: dump for key, dump in dumps.items() if dump is not None})

    async def take_over(self) -> None:
        """The replica becomes the master: another replication id, and nothing newer."""
        await self._redis.flushall()
        for key, dump in self._dumps.items():
            await self._redis.restore(key, 0, dump)
        await promote(self._redis)


async def promote(redis: Redis) -> None:
    """Give *redis* another replication id, as every new master gets one."""
    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")  # type: ignore[no-untyped-call]
    await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


async def back_up(pool: Pool) -> None:
    """Keep a copy of every row that a drain writes."""
    async with transaction(pool) as cursor:
        for table in _TABLES:
            await cursor.execute(f"CREATE TABLE backup_{table} AS SELECT * FROM {table}")


async def restore(pool: Pool) -> None:
    """Make the tables what they were, and the copies go."""
    async with transaction(pool) as cursor:
        for table in _TABLES:
            await cursor.execute(f"DELETE FROM {table}")
            await cursor.execute(f"INSERT INTO {table} SELECT * FROM backup_{table}")
        for table in _TABLES:
            await cursor.execute(f"DROP TABLE backup_{table}")


async def incidents(pool: Pool) -> list[tuple[str, int, bool]]:
    """(cause, lost, is that exact?) of every incident, oldest first."""
    found = await rows(pool, "SELECT cause, lost, exact FROM incidents ORDER BY id")
    return [(cause, lost, bool(exact)) for cause, lost, exact in found]
