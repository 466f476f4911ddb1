"""The dead letters MySQL keeps: found, listed, discarded. Replaying them is `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from shared.mysql import Cursor, Pool, reading
from shared.streams import EntryId, entry_id
from worker.letters import unpack_fields

DEAD, REPLAYED, DISCARDED = "dead", "replayed", "discarded"

_KEY = "stream, shard, incarnation, entry_id"
_ABOUT = (
    f"{_KEY}, username, reason, detail, fields_length, LENGTH(fields), fields_sha256, state,"
    " created_at, resolved_at, resolved_batch_no"
)
_WHERE_KEY = "WHERE stream = %s AND shard = %s AND incarnation = %s AND entry_id = %s"
_FIND = f"SELECT {_ABOUT}, fields FROM dead_letters {_WHERE_KEY}"
_DISCARD = (
    "UPDATE dead_letters SET state = 'discarded', resolved_at = UTC_TIMESTAMP(3)"
    f" {_WHERE_KEY} AND state = 'dead'"
)
_MARK_REPLAYED = (
    "UPDATE dead_letters SET state = 'replayed', resolved_at = UTC_TIMESTAMP(3),"
    " resolved_batch_no = %s, username = %s, detail = %s"
    f" {_WHERE_KEY} AND state = 'dead'"
)


class LetterKey(NamedTuple):
    """Which letter: as text `plays/3/1/1700000000000-0`. Sorts in the order of the entries."""

    stream: str
    shard: int
    incarnation: int
    entry: EntryId

    def __str__(self) -> str:
        return f"{self.stream}/{self.shard}/{self.incarnation}/{self.entry}"


def letter_key(text: str) -> LetterKey:
    """The key in *text*; raises `ValueError` for anything else."""
    stream, shard, incarnation, entry = text.split("/")
    return LetterKey(stream, int(shard), int(incarnation), entry_id(entry.encode()))


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. *kept* of its *length* bytes of raw fields are in MySQL.

    *resolved_batch_no* is the batch of the user's shard in which it was applied.
    """

    key: LetterKey
    username: str | None
    reason: str
    detail: str
    length: int
    kept: int
    sha256: str
    state: str
    created_at: datetime
    resolved_at: datetime | None
    resolved_batch_no: int | None
    #: Raw fields, packed; None in lists.
    raw: bytes | None = None

    @property
    def is_cut(self) -> bool:
        """Is the entry's end missing?"""
        return self.kept < self.length

    @property
    def fields(self) -> list[bytes]:
        """Names and values, one after the other; of a cut letter the last is not whole."""
        return unpack_fields(self.raw or b"")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters; None stands for any."""

    state: str | None = DEAD
    stream: str | None = None
    shard: int | None = None
    reason: str | None = None
    username: str | None = None

    def where(self) -> tuple[str, list[Any]]:
        """The WHERE clause, empty if all will do, and its values."""
        names = ("state", "stream", "shard", "reason", "username")
        given = [name for name in names if getattr(self, name) is not None]
        clause = " AND ".join(f"{name} = %s" for name in given)
        return f"WHERE {clause}" if clause else "", [getattr(self, name) for name in given]


async def newest(pool: Pool, which: Filter, limit: int) -> tuple[list[Letter], int]:
    """The newest *limit* letters, without their fields, and how many there are."""
    where, values = which.where()
    async with reading(pool) as cursor:
        await cursor.execute(f"SELECT COUNT(*) FROM dead_letters {where}", values)
        ((count,),) = await cursor.fetchall()
        await cursor.execute(
            f"SELECT {_ABOUT} FROM dead_letters {where} ORDER BY created_at DESC LIMIT %s",
            [*values, limit],
        )
        return [_letter(row) for row in await cursor.fetchall()], count


async def keys(pool: Pool, which: Filter) -> list[LetterKey]:
    """The keys of all such letters, in the order of their entries."""
    where, values = which.where()
    async with reading(pool) as cursor:
        await cursor.execute(f"SELECT {_KEY} FROM dead_letters {where}", values)
        return sorted(_key(row) for row in await cursor.fetchall())


async def find(pool: Pool, key: LetterKey) -> Letter | None:
    """The letter with its fields."""
    async with reading(pool) as cursor:
        await cursor.execute(_FIND, _key_values(key))
        row = await cursor.fetchone()
    return _letter(row) if row else None


async def discard(pool: Pool, key: LetterKey) -> bool:
    """Give the letter up, if it is dead; in the books it stays dead, so nothing else moves."""
    async with reading(pool) as cursor:
        return await cursor.execute(_DISCARD, _key_values(key)) == 1


async def mark_replayed(
    cursor: Cursor, key: LetterKey, batch_no: int, username: str, detail: str
) -> bool:
    """Claim the letter for this transaction; False if it is no longer dead."""
    values = (batch_no, username, detail, *_key_values(key))
    return await cursor.execute(_MARK_REPLAYED, values) == 1


def _key_values(key: LetterKey) -> tuple[str, int, int, str]:
    return key.stream, key.shard, key.incarnation, str(key.entry)


def _key(row: Sequence[Any]) -> LetterKey:
    stream, shard, incarnation, entry = row[:4]
    return LetterKey(stream, shard, incarnation, entry_id(entry.encode()))


def _letter(row: Sequence[Any]) -> Letter:
    return Letter(_key(row), *row[4:])
