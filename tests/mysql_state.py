"""What MySQL holds, in the oracle's terms."""

from __future__ import annotations

from typing import Any

from shared.connections import Pool
from tests.oracle import Oracle
from tests.plays import rows


async def records(pool: Pool) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """key -> (index, play_time, total_episodes, original_episodes, event_ms)"""
    found = await rows(
        pool,
        "SELECT username, source, content_id, episode_index, play_time, total_episodes,"
        " original_episodes, event_ms FROM play_records",
    )
    return {(row[0], row[1], row[2]): row[3:] for row in found}


async def assert_mysql_equals(pool: Pool, oracle: Oracle) -> None:
    """Records, counters, unique users and days are the oracle's, and the books balance."""
    assert {
        key: (
            fields["index"],
            fields.get("play_time", 0),
            fields.get("total_episodes", 0),
            original,
            ms,
        )
        for key, (fields, original, ms) in oracle.records.items()
    } == await records(pool)
    contents = await rows(
        pool,
        "SELECT source, content_id, play_count, total_watch_time, unique_users FROM content_stats",
    )
    assert oracle.contents == {(row[0], row[1]): list(row[2:]) for row in contents}
    daily = await rows(
        pool,
        "SELECT CAST(stat_date AS CHAR), username, plays, watch_time FROM user_watch_daily",
    )
    assert oracle.daily == {(row[0], row[1]): list(row[2:]) for row in daily}
    viewers = await rows(pool, "SELECT username, source, content_id FROM content_viewers")
    assert oracle.viewers == set(viewers)


async def books(pool: Pool) -> tuple[int, int, int, int]:
    """(ordinal, applied, dead, lost) over all shards."""
    [row] = await rows(
        pool,
        "SELECT "
        + ", ".join(
            f"CAST(COALESCE(SUM({name}), 0) AS SIGNED)"
            for name in ("ordinal", "applied", "dead", "lost")
        )
        + " FROM stream_checkpoints",
    )
    return (row[0], row[1], row[2], row[3])
