"""
Write records that another program kept before moonwake: no plays, no watched seconds.

Each batch is one transaction under the shard's fence, like a batch of the drain, so the
two never meet. What is stored and as new stays, whatever its source; so this may be
repeated. After the commit the cached copies of *all* users of the batch are dropped, also
of those with nothing to write: what a run that died in between left behind, the next one
makes good.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from shared.cached_copies import forget
from shared.events import PlayRecord
from shared.keys import shard_of
from shared.mysql import reading, transaction
from shared.records import merge_original_episodes
from worker import checkpoints
from worker.deps import Deps
from worker.sinks.folding import Key
from worker.sinks.plays import PlaysSink
from worker.sinks.settling import Changes, StoredRecord


@dataclass(frozen=True, slots=True)
class PastRecord:
    """One record and where it was found."""

    key: Key
    record: PlayRecord
    origin: str

    @property
    def save_ms(self) -> int:
        """When the client saved it; where that is not known anything else is newer."""
        return self.record.save_time or 0


@dataclass(slots=True)
class Outcome:
    """What became of the records of a batch."""

    written: int = 0
    #: What is stored is as new, or newer.
    kept: int = 0
    #: The user had the record here, and deleted it.
    deleted: int = 0
    users_created: int = 0


@dataclass(slots=True)
class Plan:
    """What a dry run would have written so far: hash of the key -> event_ms; and its users."""

    records: dict[int, int] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)


async def write_history(
    deps: Deps, sink: PlaysSink, records: Sequence[PastRecord], now_ms: int, *, restore: bool
) -> Outcome:
    """Write those of *records*, all of one shard, that are newer than what is stored.

    *now_ms* is Redis' time; *restore* brings back what users deleted. Raises `DataRefused`,
    or `Transient` after which it may be repeated, and `StoreDown` when Redis fails.
    """
    names = sorted({past.key[0] for past in records})
    shard = shard_of(names[0], deps.settings.shards)
    keys = sorted({past.key for past in records})
    async with transaction(deps.pool) as cursor:
        fence = await checkpoints.lock(cursor, sink.stream, shard)
        stored = await sink.stored(cursor, keys)
        viewers = set() if restore else await sink.viewers(cursor, keys)
        stored_ms = {key: record.event_ms for key, record in stored.items()}
        chosen, outcome = choose(records, stored_ms, viewers.difference(stored), now_ms)
        unknown = await sink.unknown_users(cursor, _users_of(chosen))
        outcome.users_created = len(unknown)
        changes = _changes_of(chosen, stored, now_ms)
        await sink.write(cursor, changes, set(names).difference(unknown), shard, fence.batch_no)
    met = [sink.user_keys(shard, name) for name in names]
    await forget(deps.redis, met, uuid.uuid4().hex)
    return outcome


async def plan_history(
    deps: Deps,
    sink: PlaysSink,
    records: Sequence[PastRecord],
    now_ms: int,
    plan: Plan,
    *,
    restore: bool,
) -> Outcome:
    """What `write_history` would do after all that *plan* has seen; writes nothing."""
    keys = sorted({past.key for past in records})
    planned = {key: ms for key in keys if (ms := plan.records.get(hash(key))) is not None}
    async with reading(deps.pool) as cursor:
        stored = await sink.stored(cursor, keys)
        viewers = set() if restore else await sink.viewers(cursor, keys)
        stored_ms = {key: record.event_ms for key, record in stored.items()} | planned
        chosen, outcome = choose(records, stored_ms, viewers.difference(stored_ms), now_ms)
        unknown = await sink.unknown_users(cursor, _users_of(chosen))
    outcome.users_created = len(set(unknown) - plan.users)
    plan.users.update(unknown)
    plan.records.update((hash(past.key), min(past.save_ms, now_ms)) for past in chosen)
    return outcome


def choose(
    records: Sequence[PastRecord],
    stored_ms: Mapping[Key, int],
    deleted: Collection[Key],
    now_ms: int,
) -> tuple[list[PastRecord], Outcome]:
    """Those of *records* to write, sorted by key, and what becomes of all.

    A client's clock that is ahead proves nothing: such a record is taken only where
    nothing is stored.
    """
    newest: dict[Key, PastRecord] = {}
    for past in records:
        other = newest.get(past.key)
        if other is None or _rank(past, now_ms) > _rank(other, now_ms):
            newest[past.key] = past
    chosen: list[PastRecord] = []
    outcome = Outcome(kept=len(records) - len(newest))
    for key in sorted(newest):
        past, at_ms = newest[key], stored_ms.get(key)
        if key in deleted:
            outcome.deleted += 1
        elif at_ms is not None and not at_ms < past.save_ms <= now_ms:
            outcome.kept += 1
        else:
            chosen.append(past)
    outcome.written = len(chosen)
    return chosen, outcome


def _rank(past: PastRecord, now_ms: int) -> tuple[bool, int]:
    return past.save_ms <= now_ms, past.save_ms


def _users_of(chosen: Sequence[PastRecord]) -> list[str]:
    return sorted({past.key[0] for past in chosen})


def _changes_of(
    chosen: Sequence[PastRecord], stored: Mapping[Key, StoredRecord], now_ms: int
) -> Changes:
    """The rows of *chosen*: records, viewers and what their contents are called."""
    changes = Changes()
    for past in chosen:
        key, record, ms = past.key, past.record, min(past.save_ms, now_ms)
        prev = stored.get(key)
        original = merge_original_episodes(
            prev.original_episodes if prev else None,
            record.original_episodes,
            record.total_episodes,
        )
        changes.upserts.append((key, record, original, ms))
        changes.note_content(key[1:], record, ms)
        if prev is None:
            changes.viewers.append((key, ms))
    return changes
