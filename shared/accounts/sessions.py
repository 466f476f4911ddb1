"""
Logins kept by the server: revocable one by one, or all of a user's at once.

Redis holds only the SHA-256 of what the client sends: who reads Redis cannot log in. A session
ends a day after it was last used; a set per user says which sessions there are.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from shared.keys import Keys
from shared.redis import redis_errors
from shared.settings import Settings
from shared.times import now_ms

log = structlog.get_logger()

SESSION_S = 86_400
#: A session in use is prolonged at most once in this time: reads should not all be writes.
PROLONG_MS = 60_000
#: Of one user: a further one ends the oldest, so that nobody fills Redis with logins.
SESSIONS_MAX = 100
#: By how much the clocks of hosts may differ.
_CLOCKS_MS = 60 * 60 * 1_000
_NO_MARK = "-"
#: What `secrets.token_urlsafe` makes of 32 bytes; nothing longer is looked up.
TOKEN_MAX = 43


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of a site, in Redis."""

    redis: Redis
    keys: Keys
    #: The site's owner, and what a session of theirs is marked with: it rests on PASSWORD.
    owner: str
    owner_mark: str

    @classmethod
    def of(cls, redis: Redis, settings: Settings) -> Sessions:
        """Those of the site that *settings* describe."""
        mark = hmac.digest(settings.password.encode(), b"session of the owner", "sha256")
        return cls(redis, Keys(settings.key_prefix), settings.username, mark.hex())

    def _value_of(self, username: str) -> str:
        """What Redis holds of a session: never valid for who became the owner, or was one."""
        return f"{self.owner_mark if username == self.owner else _NO_MARK} {username}"

    async def begin(self, username: str) -> str:
        """The token of a new session, which nobody else knows. Raises `StoreDown`."""
        token = secrets.token_urlsafe(32)
        session_id, index = _id_of(token), self.keys.sessions(username)
        now = now_ms()
        with redis_errors():
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.set(self.keys.session(session_id), self._value_of(username), ex=SESSION_S)
                pipe.zadd(index, {session_id: now + SESSION_S * 1000})
                # Not before they are gone: clocks differ, and who is not in here is not ended.
                pipe.zremrangebyscore(index, "-inf", now - _CLOCKS_MS)
                pipe.expire(index, SESSION_S + _CLOCKS_MS // 1000)
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
        username = _username_in(found)
        if found.decode() != self._value_of(username):
            return None
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
                pipe.expire(index, SESSION_S + _CLOCKS_MS // 1000)
                await pipe.execute()

    async def end(self, token: str) -> None:
        """Log out here. Raises `StoreDown`."""
        session_id = _id_of(token)
        key = self.keys.session(session_id)
        with redis_errors():
            found = await self.redis.getdel(key)
            if found is not None:
                await self.redis.zrem(self.keys.sessions(_username_in(found)), session_id)

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


def _username_in(value: bytes) -> str:
    return value.decode().partition(" ")[2]


def _id_of(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
