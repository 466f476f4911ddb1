"""Cached copies of users' records, made invalid by whoever wrote behind the streams' back."""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from shared.keys import UserKeys
from shared.redis import redis_errors

_USERS_PER_CALL = 500


async def forget(redis: Redis, users: Sequence[UserKeys], token: str) -> None:
    """Drop the cached copies of *users*, who are of one shard; to be called after the commit.

    *token* is a fresh version. It is set before the copy goes: a reader that asked MySQL
    too early cannot fill it again. Raises `StoreDown`.
    """
    with redis_errors():
        for start in range(0, len(users), _USERS_PER_CALL):
            async with redis.pipeline(transaction=True) as pipe:
                for user in users[start : start + _USERS_PER_CALL]:
                    pipe.set(user.version, token)
                    pipe.delete(user.cached)
                await pipe.execute()
