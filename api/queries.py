"""What the front reads from MySQL, and how patiently; one statement each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any, TypeVar

import msgspec
import structlog

from shared.errors import StoreDown, Transient
from shared.mysql import Cursor, MySQLError, Pool, error_text, reading
from shared.records import STORED_COLUMNS, stored_view

log = structlog.get_logger()

TIMEOUT_S = 3.0

T = TypeVar("T")

_RECORDS = f"SELECT {', '.join(STORED_COLUMNS)} FROM play_records WHERE username = %s"
_DAILY = """
SELECT stat_date, total_plays, total_watch_time, unique_users, final
FROM play_stats_daily WHERE stat_date BETWEEN %s AND %s ORDER BY stat_date
"""


async def patiently(load: Callable[[], Awaitable[T]]) -> T:
    """What *load* reads, tried twice: a pooled connection may have died with its server.

    Raises `StoreDown` where MySQL does not answer in TIMEOUT_S or lacks the schema.
    """
    try:
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await load()
            except Transient:
                return await load()
    except (Transient, TimeoutError, MySQLError) as error:
        slow = f"MySQL: no answer in {TIMEOUT_S:g} s"
        fault = slow if isinstance(error, TimeoutError) else error_text(error)
        log.warning("mysql_unreadable", error=fault)
        raise StoreDown(fault) from error


async def select(pool: Pool, query: Callable[[Cursor], Awaitable[T]]) -> T:
    """What *query* reads, or writes in a statement that may be repeated. Raises `StoreDown`."""

    async def load() -> T:
        async with reading(pool) as cursor:
            return await query(cursor)

    return await patiently(load)


async def play_records(pool: Pool, username: str) -> dict[bytes, dict[str, Any]]:
    """A user's records as MySQL holds them: record key -> view. Raises `Transient`."""
    async with reading(pool) as cursor:
        await cursor.execute(_RECORDS, (username,))
        return dict(map(stored_view, await cursor.fetchall()))


class DailyStats(msgspec.Struct, rename="camel"):
    """One day of all users; *final* once the day was over when it was folded."""

    date: str
    total_plays: int
    total_watch_time: int  # seconds
    unique_users: int
    final: bool


async def daily_stats(pool: Pool, first: date, last: date) -> list[DailyStats]:
    """The folded days from *first* through *last*, oldest first. Raises `Transient`."""
    async with reading(pool) as cursor:
        await cursor.execute(_DAILY, (first, last))
        return [
            DailyStats(day.isoformat(), plays, watch_s, users, bool(final))
            for day, plays, watch_s, users, final in await cursor.fetchall()
        ]
