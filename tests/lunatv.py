"""A LunaTV site's Redis for tests: database 1 of the test's server, in either layout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

import orjson
from redis.asyncio import Redis

from shared.settings import Settings


def site_url(settings: Settings, account: str = "") -> str:
    """The address of the site's Redis; *account* is `user:password@` where it needs one."""
    parts = urlsplit(settings.redis_url)
    host = parts.netloc.rpartition("@")[2]
    own = parts.netloc.removesuffix(host)
    return urlunsplit((parts.scheme, (account or own) + host, "/1", "", ""))


@asynccontextmanager
async def site(settings: Settings) -> AsyncIterator[Redis]:
    async with Redis.from_url(site_url(settings)) as redis:
        yield redis


def watched(save_ms: int | None = 1_700_000_000_000, **fields: Any) -> dict[str, Any]:
    """A record as LunaTV stores it."""
    record = {
        "title": "月光",
        "source_name": "非凡",
        "cover": "https://img/1.jpg",
        "year": "2024",
        "index": 3,
        "total_episodes": 12,
        "play_time": 600,
        "total_time": 1400,
        "search_title": "月光",
        **fields,
    }
    return record if save_ms is None else {**record, "save_time": save_ms}


async def put_flat(site: Redis, user: str, records: dict[str, Any]) -> None:
    """One string per record, as older LunaTVs have it."""
    async with site.pipeline(transaction=False) as pipe:
        for key, record in records.items():
            pipe.set(f"u:{user}:pr:{key}", _bytes(record))
        await pipe.execute()


async def put_hash(site: Redis, user: str, records: dict[str, Any]) -> None:
    """One hash per user, as newer LunaTVs and MoonTVPlus have it."""
    mapping = cast("Any", {key: _bytes(record) for key, record in records.items()})
    await cast("Any", site.hset(f"u:{user}:pr", mapping=mapping))


def _bytes(record: Any) -> bytes:
    return record if isinstance(record, bytes) else orjson.dumps(record)
