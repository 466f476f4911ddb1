"""The SELECTs that the front needs; all rows of one reader, one statement each."""

from __future__ import annotations

from datetime import date
from typing import Any

from shared.connections import Pool, reading
from shared.records import STORED_COLUMNS, stored_view

_RECORDS = f"SELECT {', '.join(STORED_COLUMNS)} FROM play_records WHERE username = %s"
_DAILY = """
SELECT stat_date, total_plays, total_watch_time, unique_users, final
FROM play_stats_daily WHERE stat_date BETWEEN %s AND %s ORDER BY stat_date
"""


async def play_records(pool: Pool, username: str) -> dict[bytes, dict[str, Any]]:
    """A user's records as MySQL holds them: record key -> view. Raises `Transient`."""
    async with reading(pool) as cursor:
        await cursor.execute(_RECORDS, (username,))
        return dict(map(stored_view, await cursor.fetchall()))


async def daily_stats(pool: Pool, first: date, last: date) -> list[dict[str, Any]]:
    """The folded days from *first* through *last*, oldest first. Raises `Transient`."""
    async with reading(pool) as cursor:
        await cursor.execute(_DAILY, (first, last))
        return [
            {
                "date": day.isoformat(),
                "totalPlays": plays,
                "totalWatchTime": watch_s,
                "uniqueUsers": users,
                "final": bool(final),
            }
            for day, plays, watch_s, users, final in await cursor.fetchall()
        ]
