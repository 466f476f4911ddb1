"""
The sink of the stream `plays`: records, viewers, daily sums and content statistics.

The counting rules are architecture section 5; they are applied in `folding`, this
module only reads the stored records and writes the rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import orjson

from shared import events
from shared.connections import Cursor
from shared.errors import StoredRecordIsNewer
from shared.events import Event, ExtendedPlayRecord, PlayRecord
from shared.keys import CLEAR_FIELD, Keys, UserKeys
from shared.settings import Settings
from shared.streams import Checkpoint, written_field
from worker.sinks import Touched
from worker.sinks.folding import (
    Changes,
    Key,
    PlayFold,
    StoredRecord,
    days_in,
    settle,
    unresolved_keys,
)
from worker.sql import Row, datetime_text, execute_all, join_values, results, upsert, upserts

_KEY = ("u", "s", "c")
_ON_KEY = "ON t.username = k.u AND t.source = k.s AND t.content_id = k.c"
_STORED = (
    "SELECT t.username, t.source, t.content_id, t.episode_index, t.play_time, t.event_ms,"
    " t.original_episodes"
    f" FROM k STRAIGHT_JOIN play_records t FORCE INDEX (uk_user_content) {_ON_KEY}"
)
_VIEWERS = (
    "SELECT t.username, t.source, t.content_id"
    f" FROM k STRAIGHT_JOIN content_viewers t FORCE INDEX (PRIMARY) {_ON_KEY}"
)
_USERS = (
    "SELECT t.username FROM k STRAIGHT_JOIN users t FORCE INDEX (uk_username) ON t.username = k.u"
)
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


class PlaysSink:
    """Turns folded play events into rows."""

    stream = "plays"

    def __init__(self, settings: Settings) -> None:
        self._day_of = days_in(settings.stats_timezone)
        self._owner = settings.username
        self._keys = Keys(settings.key_prefix)

    def decode(self, body: bytes) -> Event:
        return events.decode(body)

    def username(self, event: Event) -> str:
        return event.user

    def new_fold(self) -> PlayFold:
        return PlayFold(self._day_of)

    def user_keys(self, shard: int, username: str) -> UserKeys:
        return self._keys.play_records(shard, username)

    def touched(self, fold: PlayFold) -> Iterator[Touched]:
        for username, user in fold.users.items():
            fields = [written_field(*content) for content in user.keys]
            if user.cleared_ms is not None:
                fields.append(CLEAR_FIELD)
            yield Touched(username, fields, user.foreign)

    async def apply(
        self, cursor: Cursor, fold: PlayFold, shard: int, checkpoint: Checkpoint
    ) -> int:
        """Write *fold*; the order is that of protocol 14. Returns the rows written.

        Raises `StoredRecordIsNewer` when a folded save is older than what is stored.
        """
        stored = await self.stored(cursor, unresolved_keys(fold))
        changes = settle(fold, stored, self._day_of)
        if changes.needs_unfolding:
            raise StoredRecordIsNewer("a stored record is newer than the first of several events")
        known_users = {key[0] for key in stored}
        return await self.write(cursor, changes, known_users, shard, checkpoint.batch_no)

    async def stored(self, cursor: Cursor, keys: Sequence[Key]) -> dict[Key, StoredRecord]:
        """What MySQL holds of *keys*, which are sorted."""
        return await _stored_records(cursor, keys)

    async def viewers(self, cursor: Cursor, keys: Sequence[Key]) -> set[Key]:
        """Those of *keys* of which the user ever had a record."""
        return {key async for key in _select(cursor, _KEY, keys, _VIEWERS)}

    async def write(
        self, cursor: Cursor, changes: Changes, known_users: set[str], shard: int, batch_no: int
    ) -> int:
        """Write *changes* in a transaction that holds the shard's fence; the rows written.

        *known_users* need no look-up, whoever else is missing is created.
        """
        new_viewers = await self._new_viewers(cursor, changes, known_users)
        await _delete(cursor, changes)
        await execute_all(cursor, self._statements(cursor, changes, new_viewers, shard, batch_no))
        return (
            len(changes.upserts)
            + len(changes.deletes)
            + len(changes.clears)
            + len(new_viewers)
            + len(changes.daily)
            + len(changes.contents)
        )

    async def _statements(
        self,
        cursor: Cursor,
        changes: Changes,
        new_viewers: Sequence[tuple[Key, int]],
        shard: int,
        batch_no: int,
    ) -> AsyncIterator[bytes]:
        """Every insert and update, in the order they must be made."""
        async for statement in _upsert_records(cursor, changes):
            yield statement
        async for statement in _insert_viewers(cursor, new_viewers):
            yield statement
        async for statement in _add_daily(cursor, changes):
            yield statement
        days = sorted({day for day, _ in changes.daily})
        marks = [(day, self.stream, shard, batch_no) for day in days]
        async for statement in _touch_days(cursor, marks):
            yield statement
        async for statement in _add_contents(cursor, changes):
            yield statement

    async def unknown_users(self, cursor: Cursor, usernames: Sequence[str]) -> list[str]:
        """Those of *usernames*, which are sorted, that MySQL has not met."""
        rows = [(name,) for name in usernames]
        known = {name async for (name,) in _select(cursor, ("u",), rows, _USERS)}
        return [name for name in usernames if name not in known]

    async def _new_viewers(
        self, cursor: Cursor, changes: Changes, known_users: set[str]
    ) -> list[tuple[Key, int]]:
        """Of the possible viewers those not remembered yet; their users exist afterwards."""
        known = await self.viewers(cursor, [key for key, _ in changes.viewers])
        known_users |= {key[0] for key in known}
        users = {key[0] for key, _ in changes.viewers} - known_users
        await self._provision(cursor, sorted(users))
        new = [(key, ms) for key, ms in changes.viewers if key not in known]
        for key, _ in new:
            changes.contents[key[1:]].new_viewers += 1
        return new

    async def _provision(self, cursor: Cursor, usernames: list[str]) -> None:
        """Create the users of a validly signed cookie that MySQL has not met."""
        # '!' is no hash: no password verifies against it.
        await upsert(
            cursor,
            "users",
            ("username", "password_hash", "role"),
            ("username = {old}username",),
            [
                (name, "!", "owner" if name == self._owner else "user")
                for name in await self.unknown_users(cursor, usernames)
            ],
        )


async def _select(
    cursor: Cursor, columns: Sequence[str], rows: Sequence[Row], join: str
) -> AsyncIterator[Any]:
    async for selected in results(cursor, join_values(cursor, columns, rows, join)):
        for row in selected:
            yield row


async def _stored_records(cursor: Cursor, keys: Sequence[Key]) -> dict[Key, StoredRecord]:
    return {
        (user, source, content_id): StoredRecord(*state)
        async for user, source, content_id, *state in _select(cursor, _KEY, keys, _STORED)
    }


async def _delete(cursor: Cursor, changes: Changes) -> None:
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
        await cursor.execute(f"DELETE FROM play_records WHERE {some}")


def _upsert_records(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    return upserts(
        cursor,
        "play_records",
        _RECORD_COLUMNS,
        _RECORD_UPDATES,
        (_record_row(*change) for change in changes.upserts),
    )


def _insert_viewers(cursor: Cursor, viewers: Iterable[tuple[Key, int]]) -> AsyncIterator[bytes]:
    return upserts(
        cursor,
        "content_viewers",
        ("username", "source", "content_id", "first_seen_ms"),
        ("first_seen_ms = {old}first_seen_ms",),
        ((*key, ms) for key, ms in viewers),
    )


def _add_daily(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    return upserts(
        cursor,
        "user_watch_daily",
        ("stat_date", "username", "plays", "watch_time"),
        ("plays = {old}plays + {new}plays", "watch_time = {old}watch_time + {new}watch_time"),
        ((day, user, *sums) for (day, user), sums in sorted(changes.daily.items())),
    )


def _touch_days(cursor: Cursor, marks: Iterable[Row]) -> AsyncIterator[bytes]:
    """A note of which days the aggregation has to fold again."""
    return upserts(
        cursor,
        "stat_days_touched",
        ("stat_date", "stream", "shard", "batch_no"),
        ("batch_no = {new}batch_no",),
        marks,
    )


def _add_contents(cursor: Cursor, changes: Changes) -> AsyncIterator[bytes]:
    """The only rows that shards share: last, so that they are locked for the least time."""
    return upserts(
        cursor,
        "content_stats",
        _CONTENT_COLUMNS,
        _CONTENT_UPDATES,
        (
            (
                *content,
                sums.record.title,
                sums.record.source_name,
                sums.record.cover,
                sums.record.year,
                sums.plays,
                sums.watch_s,
                sums.new_viewers,
                datetime_text(sums.last_ms),
            )
            for content, sums in sorted(changes.contents.items())
        ),
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
