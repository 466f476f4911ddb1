"""What MySQL holds, in the oracle's terms."""

from __future__ import annotations

from typing import Any

from shared.mysql import Pool
from tests.oracle import Oracle
from tests.plays import rows

#: What is compared -> key -> values.
State = dict[str, dict[Any, Any]]


async def records(pool: Pool) -> dict[tuple[str, str, str], tuple[Any, ...]]:
    """key -> (index, play_time, total_episodes, original_episodes, event_ms)"""
    found = await rows(
        pool,
        "SELECT username, source, content_id, episode_index, play_time, total_episodes,"
        " original_episodes, event_ms FROM play_records",
    )
    return {(row[0], row[1], row[2]): row[3:] for row in found}


async def held(pool: Pool) -> State:
    """Records, counters, unique users and days in MySQL."""
    contents = await rows(
        pool,
        "SELECT source, content_id, play_count, total_watch_time, unique_users FROM content_stats",
    )
    daily = await rows(
        pool,
        "SELECT CAST(stat_date AS CHAR), username, plays, watch_time FROM user_watch_daily",
    )
    viewers = await rows(pool, "SELECT username, source, content_id FROM content_viewers")
    return {
        "record": dict(await records(pool)),
        "content": {(row[0], row[1]): list(row[2:]) for row in contents},
        "day": {(row[0], row[1]): list(row[2:]) for row in daily},
        "viewer": {tuple(row): 1 for row in viewers},
    }


def wanted(oracle: Oracle) -> State:
    """The same, as *oracle* has it."""
    return {
        "record": {
            key: (
                fields["index"],
                fields.get("play_time", 0),
                fields.get("total_episodes", 0),
                original,
                ms,
            )
            for key, (fields, original, ms) in oracle.records.items()
        },
        "content": dict(oracle.contents),
        "day": dict(oracle.daily),
        "viewer": dict.fromkeys(oracle.viewers, 1),
    }


async def assert_mysql_equals(pool: Pool, oracle: Oracle) -> None:
    """Records, counters, unique users and days are the oracle's."""
    expected, found = wanted(oracle), await held(pool)
    for kind in expected:  # one by one, or the difference would be hard to read
        assert expected[kind] == found[kind]


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
