"""
One event, one transaction: for rivals that write each event by itself.

Two round trips, which is as few as there can be: the stored record decides what counts.
The viewer's row is locked first, so two events of one key wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from bench.rivals.apps.front import Heartbeat
from shared.mysql import MySQLError, Pool
from shared.records import merge_original_episodes
from shared.times import datetime_text
from worker.sinks.folding import Position, count_save, days_in

_DEADLOCKS = (1205, 1213)
_LOOK = (
    "START TRANSACTION;"
    "INSERT INTO content_viewers (username, source, content_id, first_seen_ms)"
    " VALUES (%s,%s,%s,%s) ON DUPLICATE KEY UPDATE first_seen_ms = first_seen_ms;"
    "SELECT episode_index, play_time, event_ms, original_episodes FROM play_records"
    " WHERE username = %s AND source = %s AND content_id = %s"
)
_COLUMNS = (
    *("username", "source", "content_id", "title", "source_name", "cover", "year"),
    *("episode_index", "total_episodes", "play_time", "total_time", "search_title", "remarks"),
    *("douban_id", "content_type", "save_time", "original_episodes", "event_ms"),
)
_RECORD = (
    f"INSERT INTO play_records ({','.join(_COLUMNS)}) VALUES ({','.join(['%s'] * len(_COLUMNS))})"
    f" ON DUPLICATE KEY UPDATE {','.join(f'{name}=VALUES({name})' for name in _COLUMNS[3:])};"
)
_DAY = (
    "INSERT INTO user_watch_daily (stat_date, username, plays, watch_time) VALUES (%s,%s,%s,%s)"
    " ON DUPLICATE KEY UPDATE plays = plays + VALUES(plays),"
    " watch_time = watch_time + VALUES(watch_time);"
)
_CONTENT = (
    "INSERT INTO content_stats (source, content_id, title, source_name, cover, year, play_count,"
    " total_watch_time, unique_users, last_played_at) VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
    " ON DUPLICATE KEY UPDATE title = VALUES(title), source_name = VALUES(source_name),"
    " cover = VALUES(cover), year = VALUES(year), play_count = play_count + VALUES(play_count),"
    " total_watch_time = total_watch_time + VALUES(total_watch_time),"
    " unique_users = unique_users + VALUES(unique_users),"
    " last_played_at = VALUES(last_played_at);"
)
_AUDIT = "INSERT INTO audit (nonce, ms) VALUES (%s,%s);"


class _Stored:
    """The stored record, as the counting rule takes it."""

    def __init__(self, index: int, play_time: int) -> None:
        self.index, self.play_time = index, play_time


def writer(pool: Pool, time_zone: str) -> Callable[[Heartbeat], Awaitable[None]]:
    """A function that writes one event; a deadlock's victim tries again."""
    day_of = days_in(time_zone)
    audits = "RIVAL_AUDIT" in os.environ

    async def write(event: Heartbeat) -> None:
        while True:
            async with pool.acquire() as connection, connection.cursor() as cursor:
                try:
                    key = event.user, event.source, event.content_id
                    await cursor.execute(_LOOK, (*key, event.ms, *key))
                    await cursor.nextset()
                    is_new = cursor.rowcount == 1
                    await cursor.nextset()
                    found = await cursor.fetchone()
                    text, values = _changes(event, found, is_new=is_new, day_of=day_of)
                    if audits:
                        text, values = text + _AUDIT, [*values, event.record.save_time, event.ms]
                    await cursor.execute(text + "COMMIT", values)
                    while await cursor.nextset():
                        pass
                except MySQLError as error:
                    await connection.rollback()
                    if error.args[0] not in _DEADLOCKS:
                        raise
                else:
                    return

    return write


def _changes(
    event: Heartbeat,
    found: tuple[int, int, int, int] | None,
    *,
    is_new: bool,
    day_of: Callable[[int], str],
) -> tuple[str, list[object]]:
    """The statements that write *event* over the stored record *found*, and their values."""
    record, ms = event.record, event.ms
    prev: Position | None = _Stored(found[0], found[1]) if found else None
    prev_ms = found[2] if found else 0
    if ms < prev_ms:  # a late repetition: the newer record stays
        return "", []
    plays, watch_s = count_save(prev, prev_ms, record, ms)
    original = merge_original_episodes(
        found[3] if found else None, record.original_episodes, record.total_episodes
    )
    text = _RECORD
    values: list[object] = [
        *(event.user, event.source, event.content_id, record.title, record.source_name),
        *(record.cover, record.year, record.index, record.total_episodes, record.play_time),
        *(record.total_time, record.search_title, record.remarks, record.douban_id, record.type),
        None if record.save_time is None else datetime_text(record.save_time),
        *(original, ms),
    ]
    if plays or watch_s:
        text += _DAY
        values += [day_of(ms), event.user, plays, watch_s]
    values += [event.source, event.content_id, record.title, record.source_name, record.cover]
    values += [record.year, plays, watch_s, int(is_new), datetime_text(ms)]
    return text + _CONTENT, values
