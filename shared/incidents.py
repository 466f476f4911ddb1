"""
What the table `incidents` tells of losses: for `status` and metrics (architecture promise 2).

The workers write it (worker/incidents.py); MySQL's own clock says what is recent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.mysql import Cursor, Pool, reading

#: Every cause that a worker writes down (schema/0005_incidents.sql).
CAUSES = ("trimmed", "recreated", "master_changed", "mysql_restored")
#: How far back incidents are listed, and how far back a loss is called new.
LISTED_DAYS, NEW_HOURS = 7, 24
#: At most so many are listed, the newest: a site of 256 shards writes one each at a failover.
LISTED_MAX = 1_000

_LISTED = f"detected_at > UTC_TIMESTAMP(3) - INTERVAL {LISTED_DAYS} DAY"
_NEW = f"detected_at > UTC_TIMESTAMP(3) - INTERVAL {NEW_HOURS} HOUR"
_LIST = f"""
SELECT id, stream, shard, incarnation, cause, lost, exact, after_id, before_id, stamp,
    detected_at, amended_at
FROM incidents
WHERE {_LISTED} AND (lost > 0 OR NOT exact)
ORDER BY detected_at DESC, id DESC LIMIT {LISTED_MAX}
"""
_TOTALS = f"""
SELECT stream, cause, COUNT(*), SUM(lost), SUM(NOT exact),
    SUM({_NEW} AND lost > 0), SUM(IF({_NEW}, lost, 0)), SUM({_NEW} AND NOT exact)
FROM incidents GROUP BY stream, cause ORDER BY stream, cause
"""
# One restart ends an incarnation of every shard: told once, and only if no shard lost by it.
_HARMLESS = f"""
SELECT cause, COUNT(*), SUM(shards) FROM (
    SELECT cause, COUNT(*) AS shards FROM incidents WHERE {_LISTED}
    GROUP BY cause, LEFT(stamp, 8) HAVING SUM(lost) = 0 AND MIN(exact) = 1
) AS masters GROUP BY cause ORDER BY cause
"""


@dataclass(frozen=True, slots=True)
class Incident:
    """A loss of *lost* entries with ids between *after_id* and *before_id*, or of at least so
    many.
    """

    id: int
    stream: str
    shard: int
    #: The one that ended, or in which entries went missing.
    incarnation: int
    cause: str
    lost: int
    is_exact: bool
    after_id: str
    before_id: str
    #: Of the stream that answered when it was counted (shared/lua/stamp.lua).
    stamp: str
    detected_at: datetime
    #: When a front that testified late changed the count.
    amended_at: datetime | None

    @property
    def count(self) -> str:
        return f"{'exactly' if self.is_exact else 'at least'} {self.lost:,}"


@dataclass(frozen=True, slots=True)
class CauseTotal:
    """All incidents of one stream and cause that were ever written down; the new ones again."""

    stream: str
    cause: str
    incidents: int
    lost: int
    #: Those of them with a count of 'at least'.
    inexact: int
    #: Within the last NEW_HOURS: those that lost entries, how many, and those 'at least'.
    new_losses: int
    new_lost: int
    new_inexact: int


@dataclass(frozen=True, slots=True)
class Harmless:
    """What lost exactly nothing within LISTED_DAYS: on so many masters, counted per shard too."""

    cause: str
    masters: int
    shards: int


@dataclass(frozen=True, slots=True)
class Incidents:
    """*listed* are those that lost something or may have, newest first."""

    listed: Sequence[Incident] = ()
    totals: Sequence[CauseTotal] = ()
    harmless: Sequence[Harmless] = ()


async def read_incidents(pool: Pool) -> Incidents:
    """What is worth knowing of the incidents of all streams. Raises `Transient`."""
    async with reading(pool) as cursor:
        listed = [_incident_of(row) for row in await _select(cursor, _LIST)]
        totals = [_total_of(row) for row in await _select(cursor, _TOTALS)]
        harmless = [
            Harmless(cause, int(masters), int(shards))
            for cause, masters, shards in await _select(cursor, _HARMLESS)
        ]
    return Incidents(listed, totals, harmless)


async def read_incident_totals(pool: Pool) -> Sequence[CauseTotal]:
    """The sums alone. Raises `Transient`."""
    async with reading(pool) as cursor:
        return [_total_of(row) for row in await _select(cursor, _TOTALS)]


async def _select(cursor: Cursor, query: str) -> Sequence[Sequence[Any]]:
    await cursor.execute(query)
    return await cursor.fetchall()


def _incident_of(row: Sequence[Any]) -> Incident:
    number, stream, shard, incarnation, cause, lost, exact, after, before, stamp, *times = row
    detected_at, amended_at = (at and at.replace(tzinfo=UTC) for at in times)
    return Incident(
        id=number,
        stream=stream,
        shard=shard,
        incarnation=incarnation,
        cause=cause,
        lost=lost,
        is_exact=bool(exact),
        after_id=after,
        before_id=before,
        stamp=stamp,
        detected_at=detected_at,
        amended_at=amended_at,
    )


def _total_of(row: Sequence[Any]) -> CauseTotal:
    stream, cause, *sums = row  # SUM gives a DECIMAL
    return CauseTotal(stream, cause, *(int(value) for value in sums))
