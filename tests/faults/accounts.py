"""What MySQL says of the drain: checkpoints, incidents, dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shared.mysql import Pool
from shared.streams import EntryId, entry_id
from tests.faults.rewinds import Incident
from tests.plays import STREAM, rows

_CHECKPOINTS = """
SELECT shard, incarnation, last_ms, last_seq, base, ordinal, applied, dead, lost
FROM stream_checkpoints WHERE stream = %s
"""
_INCIDENTS = """
SELECT id, shard, incarnation, cause, lost, exact, after_id, before_id,
    CAST(UNIX_TIMESTAMP(detected_at) * 1000 AS UNSIGNED), position_id
FROM incidents WHERE stream = %s ORDER BY id
"""
_LETTERS = "SELECT shard, entry_id FROM dead_letters WHERE stream = %s"


@dataclass(frozen=True, slots=True)
class Account:
    """One row of `stream_checkpoints`."""

    shard: int
    incarnation: int
    last: EntryId
    base: int
    ordinal: int
    applied: int
    dead: int
    lost: int


async def accounts(pool: Pool) -> dict[int, Account]:
    """shard -> its row."""
    found = await rows(pool, _CHECKPOINTS, STREAM)
    return {row[0]: Account(row[0], row[1], EntryId(row[2], row[3]), *row[4:]) for row in found}


async def incidents(pool: Pool) -> list[Incident]:
    """Every loss and every new incarnation that moonwake has written down."""
    return [_incident(*row) for row in await rows(pool, _INCIDENTS, STREAM)]


def _incident(*row: Any) -> Incident:
    number, shard, incarnation, cause, lost, exact, after, before, at_ms, position = row
    return Incident(
        number,
        shard,
        incarnation,
        cause,
        lost,
        bool(exact),
        _id(after),
        _id(before),
        at_ms,
        _id(position),
    )


async def letters(pool: Pool) -> list[tuple[int, EntryId]]:
    """(shard, entry id) of every dead letter."""
    return [(shard, _id(at)) for shard, at in await rows(pool, _LETTERS, STREAM)]


def _id(text: str) -> EntryId:
    return entry_id(text.encode())
