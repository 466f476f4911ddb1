"""
The sink of the stream `plays`: records, viewers, daily sums and content statistics.

The counting rules are architecture section 5; they are applied in `folding`, this
module only reads the stored records and writes the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from shared import events
from shared.errors import StoredRecordIsNewer
from shared.events import Event
from shared.keys import CLEAR_FIELD, Keys, UserKeys
from shared.mysql import Cursor
from shared.published import Checkpoint
from shared.settings import Settings
from shared.streams import written_field
from worker.ahead import ahead, begun
from worker.sinks import Touched
from worker.sinks.folding import FoldedKey, Key, PlayFold, days_in
from worker.sinks.play_rows import row_statements
from worker.sinks.settling import Changes, Settling, StoredRecord, unresolved_keys
from worker.sql import ROWS_PER_STATEMENT, execute_all, select_joined, upsert

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

    def outdated(self, fold: PlayFold) -> list[str]:
        return [username for username, user in fold.users.items() if user.foreign]

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
        changes, known_users = await self._settled(cursor, fold)
        if changes.needs_unfolding:
            raise StoredRecordIsNewer("a stored record is newer than the first of several events")
        return await self.write(cursor, changes, known_users, shard, checkpoint.batch_no)

    async def _settled(self, cursor: Cursor, fold: PlayFold) -> tuple[Changes, set[str]]:
        """What *fold* means over the stored records, and the users who have any.

        While the server looks up one part's records, the part before is settled.
        """
        settling, folded = Settling(fold, self._day_of), fold.in_order()
        before: Sequence[FoldedKey] = ()
        stored: dict[Key, StoredRecord] = {}
        known_users: set[str] = set()
        for start in range(0, len(folded), ROWS_PER_STATEMENT):
            part = folded[start : start + ROWS_PER_STATEMENT]
            async with begun(self.stored(cursor, unresolved_keys(part))) as looking:
                settling.settle(before, stored)
            before, stored = part, looking.result()
            known_users.update([key[0] for key in stored])
        settling.settle(before, stored)
        return settling.changes, known_users

    async def stored(self, cursor: Cursor, keys: Sequence[Key]) -> dict[Key, StoredRecord]:
        """What MySQL holds of *keys*, which are sorted."""
        return {
            (user, source, content_id): StoredRecord(*state)
            for user, source, content_id, *state in await select_joined(cursor, _KEY, keys, _STORED)
        }

    async def viewers(self, cursor: Cursor, keys: Sequence[Key]) -> set[Key]:
        """Those of *keys* of which the user ever had a record."""
        return set(await select_joined(cursor, _KEY, keys, _VIEWERS))

    async def write(
        self, cursor: Cursor, changes: Changes, known_users: set[str], shard: int, batch_no: int
    ) -> int:
        """Write *changes* in a transaction that holds the shard's fence; the rows written.

        *known_users* need no look-up, whoever else is missing is created.
        """
        known: asyncio.Future[set[Key]] = asyncio.get_running_loop().create_future()
        mark = (self.stream, shard, batch_no)
        async with ahead(row_statements(cursor, changes, known, mark)) as statements:
            viewers = await self.viewers(cursor, [key for key, _ in changes.viewers])
            known.set_result(viewers)
            users = dict.fromkeys([key[0] for key, _ in changes.viewers])
            met = known_users.union([key[0] for key in viewers])
            await self._provision(cursor, [name for name in users if name not in met])
            await execute_all(cursor, statements)
        return changes.rows - len(viewers)

    async def unknown_users(self, cursor: Cursor, usernames: Sequence[str]) -> list[str]:
        """Those of *usernames*, which are sorted, that MySQL has not met."""
        rows = [(name,) for name in usernames]
        known = set(await select_joined(cursor, ("u",), rows, _USERS))
        return [name for name in usernames if (name,) not in known]

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
