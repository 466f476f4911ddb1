"""
Incidents: what Redis lost or may have lost, each with its count (architecture promise 2).

A row is written in the transaction that moves the books, so that the two never differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from shared.mysql import Cursor
from shared.streams import EntryId, entry_id


class Cause(StrEnum):
    """Why entries are gone, or may be."""

    TRIMMED = "trimmed"  # somebody else removed entries
    RECREATED = "recreated"  # FLUSHALL or DEL: the stream began anew
    MASTER_CHANGED = "master_changed"  # a failover or a restart
    MYSQL_RESTORED = "mysql_restored"  # from a backup older than the checkpoint


@dataclass(frozen=True, slots=True)
class Incident:
    """A loss of *lost* entries with ids in (*after*, *before*), or of at least so many.

    The next incarnation began to read at *position*. *seen_added* is how many entries
    the *incarnation* had at least, of which *base* were earlier ones'. *heard* are the
    fronts that testified, *expected* those that must have for the count to be exact.
    """

    incarnation: int
    cause: Cause
    lost: int
    is_exact: bool
    after: EntryId
    before: EntryId
    position: EntryId
    #: Of the server that held the incarnation, and of the one that answers now.
    ended_stamp: str
    stamp: str
    base: int
    seen_added: int
    heard: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    id: int = field(default=0, compare=False)


_COLUMNS = (
    "incarnation, cause, lost, exact, after_id, before_id, position_id, ended_stamp, stamp,"
    " base, seen_added, heard, expected"
)
_INSERT = (
    f"INSERT INTO incidents (stream, shard, {_COLUMNS}) VALUES (" + ", ".join(["%s"] * 15) + ")"
)
_FIND = f"""
SELECT id, {_COLUMNS} FROM incidents
WHERE stream = %s AND shard = %s AND incarnation = %s AND cause <> 'trimmed'
ORDER BY id DESC LIMIT 1
"""
# What a restored database has forgotten is part of what was counted when that was found.
_FIND_RESTORED = f"""
SELECT id, {_COLUMNS} FROM incidents
WHERE stream = %s AND shard = %s AND incarnation > %s AND cause = 'mysql_restored'
ORDER BY id LIMIT 1
"""
_AMEND = """
UPDATE incidents
SET lost = %s, exact = %s, seen_added = %s, heard = %s, expected = %s,
    amended_at = UTC_TIMESTAMP(3)
WHERE id = %s
"""
# What an incarnation lost is part of what the later ones began with.
_SHIFT = """
UPDATE incidents SET base = base + %s, seen_added = seen_added + %s
WHERE stream = %s AND shard = %s AND incarnation > %s
"""


async def insert(cursor: Cursor, stream: str, shard: int, incident: Incident) -> None:
    """Write *incident* down, in the transaction that counts what it lost."""
    values: list[Any] = [stream, shard, incident.incarnation, incident.cause.value, incident.lost]
    values += (incident.is_exact, str(incident.after), str(incident.before))
    values += (str(incident.position), incident.ended_stamp, incident.stamp)
    values += (incident.base, incident.seen_added)
    values += (_names(incident.heard), _names(incident.expected))
    await cursor.execute(_INSERT, values)


async def find_end(cursor: Cursor, stream: str, shard: int, incarnation: int) -> Incident | None:
    """The incident that ended *incarnation*, or that found its end forgotten by MySQL.

    None where none is known.
    """
    for query in (_FIND, _FIND_RESTORED):
        await cursor.execute(query, (stream, shard, incarnation))
        if row := await cursor.fetchone():
            return _incident_of(row)
    return None


def _incident_of(row: Sequence[Any]) -> Incident:
    number, ended, cause, lost, exact, *ids, ended_stamp, stamp, base, seen, heard, expected = row
    after, before, position = (entry_id(text.encode()) for text in ids)
    return Incident(
        incarnation=ended,
        cause=Cause(cause),
        lost=lost,
        is_exact=bool(exact),
        after=after,
        before=before,
        position=position,
        ended_stamp=ended_stamp,
        stamp=stamp,
        base=base,
        seen_added=seen,
        heard=frozenset(orjson.loads(heard)),
        expected=frozenset(orjson.loads(expected)),
        id=number,
    )


async def amend(cursor: Cursor, stream: str, shard: int, old: Incident, new: Incident) -> None:
    """Replace *old* by *new*, which knows more; what it found missing moves later bases too."""
    names = (_names(new.heard), _names(new.expected))
    await cursor.execute(_AMEND, (new.lost, new.is_exact, new.seen_added, *names, old.id))
    if more := new.lost - old.lost:
        await cursor.execute(_SHIFT, (more, more, stream, shard, old.incarnation))


def _names(names: Collection[str]) -> str:
    return orjson.dumps(sorted(names)).decode()
