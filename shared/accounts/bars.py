"""
Whose logins count no more, as fronts know it: each holds the names, because every write asks.

MySQL decides (`barred_users`); two sets in Redis are the copy that fronts use while MySQL is
away. A front looks at both every `LOOK_INTERVAL_S`, so that a ban reaches every front in a few
seconds, whoever made it and whatever died or fell silent right after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from time import monotonic
from typing import cast

import structlog
from redis.asyncio import Redis

from shared.accounts import barred
from shared.accounts.barred import REASONS, Reason
from shared.errors import StoreDown, Transient
from shared.keys import Keys
from shared.mysql import MySQLError, Pool, reading
from shared.redis import redis_errors

log = structlog.get_logger()

LOOK_INTERVAL_S = 2.0
#: A store that takes longer counts as away: a look is over before a ban is 5 s old.
_MYSQL_TIMEOUT_S, _REDIS_TIMEOUT_S = 2.0, 1.0
#: The whole list is read so often in any case: what is changed by hand is noted nowhere.
_WHOLE_INTERVAL_S = 60.0
#: Names in one command to Redis.
_NAMES_MAX = 1_000


class Bars:
    """The barred users, as this process knows them."""

    def __init__(self, redis: Redis, keys: Keys, pool: Pool) -> None:
        self._redis = redis
        self._keys = {reason: keys.barred(reason) for reason in REASONS}
        self._revision_key = keys.barred_revision
        self._pool = pool
        #: Name -> 'banned' or 'deleted'.
        self.names: Mapping[str, Reason] = {}
        #: The revision in MySQL that `names` are; None where they may be another's.
        self._revision: int | None = None
        self._whole_at_s = 0.0

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

        Raises `StoreDown` if Redis is away; this process is brought to what MySQL says first.
        """
        whole = monotonic() >= self._whole_at_s
        by_mysql = await self._go_by_mysql(whole=whole)
        with redis_errors():
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                if not by_mysql:
                    await self._go_by_redis()
                elif self._revision is not None:
                    await self._copy(self.names, self._revision, whole=whole)
        if by_mysql and whole:
            self._whole_at_s = monotonic() + _WHOLE_INTERVAL_S

    async def _go_by_mysql(self, *, whole: bool) -> bool:
        """Learn what MySQL says, if it is new or *whole* is asked for; False if MySQL is away."""
        known = self.names
        try:
            async with asyncio.timeout(_MYSQL_TIMEOUT_S), reading(self._pool) as cursor:
                revision = await barred.revision(cursor)
                if revision == self._revision and not whole:
                    return True
                names = await barred.read(cursor)
        except (Transient, TimeoutError, MySQLError) as error:
            log.warning("bars_read_from_redis", error=repr(error))
            return False
        self._learn(names, known, revision)
        return True

    async def _go_by_redis(self) -> None:
        known = self.names
        copy = {
            name.decode(): reason
            for reason, key in self._keys.items()
            for name in await cast("Awaitable[set[bytes]]", self._redis.smembers(key))
        }
        # Redis may have lost its copy: what was known goes on to count.
        self._learn({**known, **copy}, known, None)

    def _learn(
        self, names: Mapping[str, Reason], known: Mapping[str, Reason], revision: int | None
    ) -> None:
        """Go by *names*, unless somebody was barred since *known* was all that was known."""
        if self.names is known:
            self.names, self._revision = names, revision

    async def _copy(self, names: Mapping[str, Reason], revision: int, *, whole: bool) -> None:
        """Write *names* to Redis, if its copy is of another revision or *whole* is asked for.

        It may overtake somebody who tells Redis of a later change. By that one the revision
        in MySQL is another before, so the next look of any front writes the copy again.
        """
        if not whole and await self._is_copied(names, revision):
            return
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(*self._keys.values())
            for reason, key in self._keys.items():
                barred_so = [name for name, why in names.items() if why == reason]
                for start in range(0, len(barred_so), _NAMES_MAX):
                    pipe.sadd(key, *barred_so[start : start + _NAMES_MAX])
            pipe.set(self._revision_key, revision)
            await pipe.execute()

    async def _is_copied(self, names: Mapping[str, Reason], revision: int) -> bool:
        """Is it so by what tells it without reading all: its revision and its length?"""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.get(self._revision_key)
            for key in self._keys.values():
                pipe.scard(key)
            copied, *lengths = await pipe.execute()
        return bool(copied == b"%d" % revision and sum(lengths) == len(names))

    async def bar(self, username: str, reason: Reason) -> None:
        """Tell every front at once what MySQL holds already. Raises `StoreDown`."""
        self.names, self._revision = {**self.names, username: reason}, None
        await self._tell(username, reason)

    async def lift(self, username: str) -> None:
        """The same of a user who may come in again. Raises `StoreDown`."""
        names = {name: why for name, why in self.names.items() if name != username}
        self.names, self._revision = names, None
        await self._tell(username, None)

    async def _tell(self, username: str, reason: Reason | None) -> None:
        with redis_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                for each, key in self._keys.items():
                    if each == reason:
                        pipe.sadd(key, username)
                    else:
                        pipe.srem(key, username)
                # Two who tell may overtake each other: the next look decides.
                pipe.delete(self._revision_key)
                await pipe.execute()
