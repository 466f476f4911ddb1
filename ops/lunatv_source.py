"""A LunaTV's Redis, read and never written: keys by their prefix, types and values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.errors import InvalidField, StoreDown
from shared.events import INVALID_KEY

_KEYS_PER_SCAN = 1_000
_PER_CALL = 500


@dataclass(slots=True)
class Progress:
    """Roughly how much of the keyspace was looked at; *keys* is 0 where the server cannot say."""

    keys: int = 0
    seen: int = 0


async def key_count(redis: Redis) -> int:
    """How many keys there are; 0 where the server does not know."""
    with _source_errors():
        return int(await redis.dbsize())


async def scan(redis: Redis, prefix: bytes, progress: Progress) -> AsyncIterator[list[bytes]]:
    """Keys that begin with *prefix*, some at a time, in no order, some of them perhaps twice.

    Kvrocks matches nothing but prefixes; what else a name must have is the caller's to see.
    Raises `StoreDown` when the server fails, as everything here does.
    """
    cursor = 0
    while True:
        with _source_errors():
            cursor, keys = await redis.scan(cursor, match=prefix + b"*", count=_KEYS_PER_SCAN)
        progress.seen = min(progress.seen + _KEYS_PER_SCAN, progress.keys)
        for start in range(0, len(keys), _PER_CALL):
            yield keys[start : start + _PER_CALL]
        if cursor == 0:
            return


async def types_of(redis: Redis, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """The type of each of *keys*; b"none" for one that was deleted meanwhile."""
    return dict(zip(keys, await each(redis, "TYPE", keys), strict=True))


async def each(redis: Redis, command: str, keys: Sequence[bytes], *arguments: int) -> list[Any]:
    """The reply to *command* of each of *keys*, in one round trip."""
    if not keys:
        return []
    with _source_errors():
        async with redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.execute_command(command, key, *arguments)
            return await pipe.execute()


async def hash_items(redis: Redis, key: bytes) -> AsyncIterator[tuple[bytes, bytes]]:
    """The fields of a hash of any size; one may come twice."""
    cursor = 0
    while True:
        with _source_errors():
            scan = redis.hscan(key, cursor, count=_PER_CALL)
            cursor, fields = await cast("Awaitable[tuple[int, dict[bytes, bytes]]]", scan)
        for item in fields.items():
            yield item
        if cursor == 0:
            return


async def members_of(redis: Redis, key: bytes, kind: bytes) -> list[tuple[bytes, float | None]]:
    """(member, score) of a sorted set, (member, None) of a set; nothing of another type."""
    with _source_errors():
        if kind == b"zset":
            return list(await redis.zrange(key, 0, -1, withscores=True))
        if kind == b"set":
            members = await cast("Awaitable[set[bytes]]", redis.smembers(key))  # type: ignore[arg-type]
            return [(member, None) for member in members]
    return []


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreDown(f"the Redis to import from: {error}") from error


def text_of(name: bytes) -> str:
    """A key's or a field's name. Raises `InvalidField` where it is no UTF-8."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidField(INVALID_KEY, "key", "UTF-8") from None


def shown(name: bytes) -> str:
    """*name* for people."""
    return name.decode(errors="backslashreplace")
