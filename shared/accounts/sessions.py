"""
Logins kept by the server: revocable one by one, or all of a user's at once.

Redis holds only the SHA-256 of what the client sends: who reads Redis cannot log in. A session
ends a day after it was last used; a set per user says which sessions there are.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from shared.connections import redis_errors
from shared.keys import Keys
from shared.times import now_ms

log = structlog.get_logger()

SESSION_S = 86_400
#: A session in use is prolonged at most once in this time: reads should not all be writes.
PROLONG_MS = 60_000
#: Of one user: a further one ends the oldest, so that nobody fills Redis with logins.
SESSIONS_MAX = 100
#: What `secrets.token_urlsafe` makes of 32 bytes; nothing longer is looked up.
TOKEN_MAX = 43


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of a site, in Redis."""

    redis: Redis
    keys: Keys

    async def begin(self, username: str) -> str:
        """The token of a new session, which nobody else knows. Raises `StoreDown`."""
        token = secrets.token_urlsafe(32)
        session_id, index = _id_of(token), self.keys.sessions(username)
        now = now_ms()
        with redis_errors():
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.set(self.keys.session(session_id), username, ex=SESSION_S)
                pipe.zadd(index, {session_id: now + SESSION_S * 1000})
                pipe.zremrangebyscore(index, "-inf", now)
                pipe.expire(index, SESSION_S)
                pipe.zrange(index, 0, -SESSIONS_MAX - 1)
                *_, surplus = await pipe.execute()
        await self._end([each.decode() for each in surplus], index)
        return token

    async def username_of(self, token: str) -> str | None:
        """Whose session *token* is, if it still lasts; it is prolonged. Raises `StoreDown`."""
        if len(token) > TOKEN_MAX:
            return None
        session_id = _id_of(token)
        key = self.keys.session(session_id)
        with redis_errors():
            async with self.redis.pipeline(transaction=False) as pipe:
                pipe.get(key)
                pipe.pttl(key)
                found, left_ms = await pipe.execute()
        if found is None:
            return None
        username: str = found.decode()
        if left_ms < SESSION_S * 1000 - PROLONG_MS:
            await self._prolong(session_id, username)
        return username

    async def _prolong(self, session_id: str, username: str) -> None:
        index = self.keys.sessions(username)
        with redis_errors():
            async with self.redis.pipeline(transaction=True) as pipe:
                # None of these brings a session back that was ended meanwhile.
                pipe.expire(self.keys.session(session_id), SESSION_S)
                pipe.zadd(index, {session_id: now_ms() + SESSION_S * 1000}, xx=True)
                pipe.expire(index, SESSION_S)
                await pipe.execute()

    async def end(self, token: str) -> None:
        """Log out here. Raises `StoreDown`."""
        session_id = _id_of(token)
        key = self.keys.session(session_id)
        with redis_errors():
            username = await self.redis.getdel(key)
            if username is not None:
                await self.redis.zrem(self.keys.sessions(username.decode()), session_id)

    async def end_all(self, username: str, *, but: str | None = None) -> int:
        """Log *username* out everywhere, or wherever the token is not *but*; of how many sessions.

        Raises `StoreDown`.
        """
        index = self.keys.sessions(username)
        kept = None if but is None else _id_of(but)
        with redis_errors():
            found = [each.decode() for each in await self.redis.zrange(index, 0, -1)]
        return await self._end([each for each in found if each != kept], index)

    async def _end(self, ids: list[str], index: str) -> int:
        """End these sessions, which are in the set *index*; how many there were."""
        if not ids:
            return 0
        with redis_errors():
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.delete(*map(self.keys.session, ids))
                # By name: a session that begins meanwhile stays in the set.
                pipe.zrem(index, *ids)
                ended, _ = await pipe.execute()
        return int(ended)


def _id_of(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
