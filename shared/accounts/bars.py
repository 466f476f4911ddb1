"""
Whose login counts no more: users who are banned or deleted.

MySQL decides (`barred_users`); two sets in Redis are the copy that fronts use while MySQL is
away, and each front holds the names in memory, because every write asks. A front looks at both
stores every `LOOK_INTERVAL_S`, so that a ban reaches every front in a few seconds, whoever
made it and whatever died right after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import WatchError

from shared.accounts import users
from shared.connections import MySQLError, Pool, reading, redis_errors
from shared.errors import StoreDown, Transient
from shared.keys import Keys

log = structlog.get_logger()

LOOK_INTERVAL_S = 2.0
_MYSQL_TIMEOUT_S = 2.0
REASONS = ("banned", "deleted")


class Bars:
    """The barred users, as this process knows them."""

    def __init__(self, redis: Redis, keys: Keys, pool: Pool) -> None:
        self._redis = redis
        self._keys = {reason: keys.barred(reason) for reason in REASONS}
        self._pool = pool
        #: Name -> 'banned' or 'deleted'.
        self.names: Mapping[str, str] = {}

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self.look()
            except StoreDown as error:
                log.warning("bars_not_copied", error=str(error))

    async def look(self) -> None:
        """Bring this process and Redis to what MySQL says; without MySQL, to what Redis says.

        Raises `StoreDown` if Redis is away; this process is brought to what MySQL says then too.
        """
        try:
            await self._look_at_both()
        except StoreDown:
            # Accounts are changed without Redis as well, by whoever has LunaTV's cookie.
            known = self.names
            if (stored := await self._stored()) is not None:
                self._learn(stored, known)
            raise

    def _learn(self, names: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Go by *names*, unless somebody was barred since *known* was all that was known."""
        if self.names is known:
            self.names = names

    async def _look_at_both(self) -> None:
        known = self.names
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                # Watched before MySQL is read: a ban of that moment makes EXEC fail, and stays.
                await pipe.watch(*self._keys.values())
                copy = {
                    name.decode(): reason
                    for reason, key in self._keys.items()
                    for name in await cast("Awaitable[set[bytes]]", pipe.smembers(key))
                }
                stored = await self._stored()
                if stored is None:
                    # Redis may have lost its copy: what was known goes on to count.
                    self._learn({**known, **copy}, known)
                    return
                if stored == copy:
                    self._learn(stored, known)
                    return
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.delete(*self._keys.values())
                for name, reason in stored.items():
                    pipe.sadd(self._keys[reason], name)
                try:
                    await pipe.execute()
                except WatchError:
                    return  # somebody was barred just now: the next look sees it
                self._learn(stored, known)

    async def _stored(self) -> dict[str, str] | None:
        """What MySQL says; None while it cannot be read."""
        try:
            async with asyncio.timeout(_MYSQL_TIMEOUT_S), reading(self._pool) as cursor:
                return await users.read_barred(cursor)
        except (Transient, TimeoutError, MySQLError) as error:
            log.warning("bars_read_from_redis", error=repr(error))
            return None

    async def bar(self, username: str, reason: str) -> None:
        """Tell every front at once what MySQL holds already. Raises `StoreDown`."""
        self.names = {**self.names, username: reason}
        await self._tell(username, reason)

    async def lift(self, username: str) -> None:
        """The same of a user who may come in again. Raises `StoreDown`."""
        self.names = {name: why for name, why in self.names.items() if name != username}
        await self._tell(username, None)

    async def _tell(self, username: str, reason: str | None) -> None:
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                for each, key in self._keys.items():
                    if each == reason:
                        pipe.sadd(key, username)
                    else:
                        pipe.srem(key, username)
                await pipe.execute()
