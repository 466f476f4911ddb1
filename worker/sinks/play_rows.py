"""The statements that write the rows of a batch of plays, in the order of protocol 14."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator

import orjson

from shared.events import ExtendedPlayRecord, PlayRecord
from shared.mysql import Cursor
from shared.times import datetime_text
from worker.sinks.folding import Content, Key
from worker.sinks.settling import Changes, ContentSums
from worker.sql import Row, upserts

#: A key that may be a user's first record of a content, and its time.
Viewer = tuple[Key, int]

#: Each is a range of the unique key; both servers plan this many quickly.
_DELETES_PER_STATEMENT = 200

_RECORD_COLUMNS = (
    *("username", "source", "content_id", "title", "source_name", "cover", "year"),
    *("episode_index", "total_episodes", "play_time", "total_time", "search_title", "remarks"),
    *("douban_id", "content_type", "save_time", "original_episodes", "extra", "event_ms"),
)
_RECORD_UPDATES = [f"{column} = {{new}}{column}" for column in _RECORD_COLUMNS[3:]]

_CONTENT_COLUMNS = (
    *("source", "content_id", "title", "source_name", "cover", "year"),
    *("play_count", "total_watch_time", "unique_users", "last_played_at"),
)
# Several shards write one content: the newest record names it, whichever commits last.
_CONTENT_UPDATES = [
    *(
        f"{column} = IF({{old}}last_played_at > {{new}}last_played_at,"
        f" {{old}}{column}, {{new}}{column})"
        for column in ("title", "source_name", "cover", "year")
    ),
    *(
        f"{column} = {{old}}{column} + {{new}}{column}"
        for column in ("play_count", "total_watch_time", "unique_users")
    ),
    "last_played_at = GREATEST(COALESCE({old}last_played_at, {new}last_played_at),"
    " {new}last_played_at)",
]


async def row_statements(
    cursor: Cursor, changes: Changes, known_viewers: Awaitable[set[Key]], mark: tuple[str, int, int]
) -> AsyncIterator[bytes]:
    """The statements that write *changes*, in order; they take nothing from the server.

    The *known_viewers* are remembered already: they are asked for when the records are
    rendered. *mark* is the stream, shard and number of the batch.
    """
    for deletion in _deletes(cursor, changes):
        yield deletion
    async for statement in _records(cursor, changes):
        yield statement
    known = await known_viewers
    new_viewers = [viewer for viewer in changes.viewers if viewer[0] not in known]
    async for statement in _viewers(cursor, changes, new_viewers):
        yield statement
    async for statement in _daily(cursor, changes):
        yield statement
    async for statement in _days_touched(cursor, changes, mark):
        yield statement
    async for statement in _contents(cursor, changes):
        yield statement


def _deletes(cursor: Cursor, changes: Changes) -> Iterator[bytes]:
    """Clears and deletes; a record newer than the event stays (protocol 19)."""
    quote = cursor.connection.literal
    conditions = [
        f"(username = {quote(username)} AND event_ms <= {ms})" for username, ms in changes.clears
    ] + [
        f"(username = {quote(key[0])} AND source = {quote(key[1])}"
        f" AND content_id = {quote(key[2])} AND event_ms <= {ms})"
        for key, ms in changes.deletes
    ]
    for start in range(0, len(conditions), _DELETES_PER_STATEMENT):
        some = " OR ".join(conditions[start : start + _DELETES_PER_STATEMENT])
        yield f"DELETE FROM play_records WHERE {some}".encode()


def _records(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    records = (_record_row(*change) for change in changes.upserts)
    return upserts(cursor, "play_records", _RECORD_COLUMNS, _RECORD_UPDATES, records)


def _viewers(cursor: Cursor, changes: Changes, new_viewers: list[Viewer]) -> AsyncIterator[bytes]:
    for key, _ in new_viewers:
        changes.contents[key[1:]].new_viewers += 1
    return upserts(
        cursor,
        "content_viewers",
        ("username", "source", "content_id", "first_seen_ms"),
        ("first_seen_ms = {old}first_seen_ms",),
        ((*key, ms) for key, ms in new_viewers),
    )


def _daily(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    return upserts(
        cursor,
        "user_watch_daily",
        ("stat_date", "username", "plays", "watch_time"),
        ("plays = {old}plays + {new}plays", "watch_time = {old}watch_time + {new}watch_time"),
        ((day, user, *sums) for (day, user), sums in sorted(changes.daily.items())),
    )


def _days_touched(
    cursor: Cursor, changes: Changes, mark: tuple[str, int, int]
) -> AsyncIterator[bytes]:
    """A note of which days the aggregation has to fold again."""
    return upserts(
        cursor,
        "stat_days_touched",
        ("stat_date", "stream", "shard", "batch_no"),
        ("batch_no = {new}batch_no",),
        ((day, *mark) for day in sorted({day for day, _ in changes.daily})),
    )


def _contents(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    """The only rows that shards share: last, so that they are locked for the least time."""
    return upserts(
        cursor,
        "content_stats",
        _CONTENT_COLUMNS,
        _CONTENT_UPDATES,
        (_content_row(content, sums) for content, sums in sorted(changes.contents.items())),
    )


def _content_row(content: Content, sums: ContentSums) -> Row:
    record = sums.record
    return (
        *content,
        record.title,
        record.source_name,
        record.cover,
        record.year,
        sums.plays,
        sums.watch_s,
        sums.new_viewers,
        datetime_text(sums.last_ms),
    )


def _record_row(key: Key, record: PlayRecord, original_episodes: int, event_ms: int) -> Row:
    extra = None
    if type(record) is ExtendedPlayRecord:
        extra = orjson.dumps(record.extra).decode()
    return (
        *key,
        record.title,
        record.source_name,
        record.cover,
        record.year,
        record.index,
        record.total_episodes,
        record.play_time,
        record.total_time,
        record.search_title,
        record.remarks,
        record.douban_id,
        record.type,
        None if record.save_time is None else datetime_text(record.save_time),
        original_episodes,
        extra,
        event_ms,
    )
