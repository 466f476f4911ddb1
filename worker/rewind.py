"""
Does the stream still hold what it once held? Where not: count what is gone and go on.

Redis was flushed, a stream deleted, a stale replica took over, or MySQL was restored
from a backup. A new incarnation begins: what can be read and was not applied is read,
everything else that was acknowledged is lost, and counted (protocol 24, 25).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog
from redis.exceptions import ResponseError

from shared.keys import testimonies_of
from shared.mysql import reading, transaction
from shared.published import Checkpoint, published_of
from shared.redis import redis_errors
from shared.streams import (
    BEGINNING,
    EntryId,
    StreamInfo,
    entry_id,
    is_same_master,
    is_same_stream,
    mark_stream,
    now_ms_of,
    stream_info,
)
from shared.witness import Testimony, forget_testimonies, testimonies_in
from worker import checkpoints, incidents
from worker.deps import Deps
from worker.hearing import Hearing, hear_late
from worker.incidents import Cause, Incident
from worker.retained import Before, Retained, read_retained

log = structlog.get_logger()

#: An id further ahead is not the clock of a former master: `doctor` repairs it.
_FLOOR_AHEAD_MS = 60_000
_SEEN = "SELECT seen_added, seen_last_id FROM stream_checkpoints WHERE stream = %s AND shard = %s"


@dataclass(frozen=True, slots=True)
class _View:
    """A shard as Redis had it at one moment."""

    stamp: str
    info: StreamInfo
    now_ms: int
    published: Checkpoint | None
    testimonies: list[Testimony]


async def reconcile(deps: Deps, stream: str, shard: int, *, in_doubt: bool = False) -> Checkpoint:
    """The committed checkpoint, brought into line with the stream.

    *in_doubt*: reading met something that does not fit, so the stream is counted. Raises
    `CheckpointMoved` if another worker was first, `StoreDown` or `Transient`.
    """
    committed = await checkpoints.load(deps.pool, stream, shard)
    view = await _look(deps, stream, shard)
    ended = committed
    if _is_ahead(view.published, committed):
        # Whoever published it committed it before: it shows now, unless MySQL forgot it.
        committed = ended = await checkpoints.load(deps.pool, stream, shard)
    if view.published is not None and _is_ahead(view.published, committed):
        ended = view.published
    hearing = Hearing.of(view.testimonies, ended)
    cause = _cause(committed, view, hearing)
    if cause or in_doubt or committed.is_new:
        seen_added, seen_last = await _seen(deps, stream, shard)
        last = max(seen_last, hearing.last) if hearing.is_complete else None
        before = Before(committed, ended, last)
        retained = await read_retained(deps.redis, deps.keys.stream(stream, shard), before)
        cause = cause or _cause_in(committed, retained)
        if cause is not None:
            loss = _Loss(cause, committed, ended, retained, max(seen_added, hearing.added))
            return await _open_incarnation(deps, stream, shard, loss, hearing, view.now_ms)
    if view.testimonies:
        committed = await hear_late(deps, stream, shard, committed, view.testimonies)
    # Whoever reads on means this stream, also where no batch has said so yet.
    return replace(committed, replid=view.stamp)


async def _look(deps: Deps, stream: str, shard: int) -> _View:
    key = deps.keys.stream(stream, shard)
    stamp = await mark_stream(deps.redis, key)
    with redis_errors():
        async with deps.redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_stream(key)
            pipe.time()
            pipe.hgetall(deps.keys.checkpoint(stream, shard))
            pipe.hgetall(testimonies_of(key))
            about, time, published, told = await pipe.execute(raise_on_error=False)
    return _View(
        stamp=stamp,
        info=stream_info(about),
        now_ms=now_ms_of(time),
        published=published_of(published),
        testimonies=testimonies_in(told),
    )


def _is_ahead(published: Checkpoint | None, committed: Checkpoint) -> bool:
    return published is not None and published.number > committed.number


def _cause(committed: Checkpoint, view: _View, hearing: Hearing) -> Cause | None:
    """Why the stream cannot be read on as it is; None where nothing tells against it."""
    if _is_ahead(view.published, committed):
        return Cause.MYSQL_RESTORED
    # Before the first batch the fronts alone know which stream entries were of.
    known = committed.replid or hearing.stamp
    if known and known != view.stamp:
        return Cause.RECREATED if is_same_master(known, view.stamp) else Cause.MASTER_CHANGED
    if hearing.told or committed.base + view.info.added < committed.ordinal:
        return Cause.RECREATED
    return None


def _cause_in(committed: Checkpoint, retained: Retained) -> Cause | None:
    """The same, told by what the stream retains."""
    if committed.is_new and retained.stamps - {retained.stamp}:
        return Cause.MASTER_CHANGED
    # Fewer were added than are applied or can still be read.
    if committed.base + retained.info.added < committed.ordinal + retained.readable:
        return Cause.RECREATED
    return None


# --- counting -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loss:
    """What a shard lost: the *committed* checkpoint against what the stream retains.

    *ended* is the latest that is known of the incarnation that ended, *seen_added* the
    highest ordinal that anybody saw. Ordinals go on from one incarnation to the next.
    """

    cause: Cause
    committed: Checkpoint
    ended: Checkpoint
    retained: Retained
    seen_added: int

    @property
    def position(self) -> EntryId:
        """Where to read on: right after everything that is applied."""
        first = self.retained.first
        # What comes next may be below the old position: a new master's clock may be behind.
        return self.retained.info.last if first is None else first.just_before()

    @property
    def ended_at(self) -> int:
        """The last ordinal of the incarnation that ended, as far as anybody knows."""
        known = max(self.seen_added, self.ended.ordinal, self.committed.ordinal)
        if not is_same_stream(self.ended.replid or self.retained.stamp, self.retained.stamp):
            return known  # it counts from elsewhere
        not_of_it = self.retained.new + self.retained.returned
        return max(known, self.ended.base + self.retained.info.added - not_of_it)

    @property
    def lost(self) -> int:
        there_were = self.ended_at + self.retained.new
        return max(0, there_were - self.committed.ordinal - self.retained.readable)


async def _open_incarnation(
    deps: Deps, stream: str, shard: int, loss: _Loss, hearing: Hearing, now_ms: int
) -> Checkpoint:
    """Begin a new incarnation: its books balance with what can still be read."""
    old, retained = loss.committed, loss.retained
    again = loss.ended.last if loss.cause is Cause.MYSQL_RESTORED else BEGINNING
    new = replace(
        old,
        incarnation=loss.ended.incarnation + 1,
        batch_no=old.batch_no + 1,
        last=loss.position,
        base=old.ordinal + loss.lost + retained.readable - retained.info.added,
        lost=old.lost + loss.lost,
        replid=retained.stamp,
        floor_ms=max(old.floor_ms, min(old.last.ms, now_ms + _FLOOR_AHEAD_MS)),
        again_through=max(old.again_through, again),
    )
    # A restored MySQL need not know of them: their overlay fields must not wait for ever.
    met = {*loss.ended.stamps, loss.ended.replid, hearing.stamp} - {""}
    new = new.knowing({*retained.stamps, retained.stamp, *met}).waiting_for(
        {*retained.readable_stamps, retained.stamp}
    )
    incident = _incident(loss, hearing, new)
    async with transaction(deps.pool) as cursor:
        await checkpoints.advance(cursor, stream, shard, old, new, retained.info)
        await incidents.insert(cursor, stream, shard, incident)
    _log(stream, shard, incident)
    key = deps.keys.stream(stream, shard)
    # Whatever else was said may change the count: it is heard when the stream is read on.
    await forget_testimonies(deps.redis, key, hearing.told)
    if now_ms <= new.floor_ms:
        await _move_ids_past(deps, key, new.floor_ms)
    return new


def _incident(loss: _Loss, hearing: Hearing, new: Checkpoint) -> Incident:
    ended = loss.ended
    # The stream itself tells what a restored MySQL has forgotten.
    is_told = loss.cause is Cause.MYSQL_RESTORED and ended.replid == new.replid and not hearing.all
    return Incident(
        incarnation=ended.incarnation,
        cause=loss.cause,
        lost=loss.lost,
        is_exact=(hearing.is_complete or is_told) and not loss.retained.foreign,
        after=loss.committed.last,
        before=loss.retained.first or loss.retained.info.last,
        position=new.last,
        ended_stamp=ended.replid or hearing.stamp or loss.retained.old_stamp,
        stamp=new.replid,
        base=ended.base,
        seen_added=loss.ended_at,
        heard=hearing.heard,
        expected=hearing.expected_of(foreign=loss.retained.foreign),
    )


def _log(stream: str, shard: int, incident: Incident) -> None:
    tell = log.error if incident.lost or not incident.is_exact else log.warning
    tell(
        "incarnation_ended",
        stream=stream,
        shard=shard,
        incarnation=incident.incarnation,
        cause=incident.cause.value,
        lost=incident.lost,
        exact=incident.is_exact,
        after=str(incident.after),
        before=str(incident.before),
    )


async def _seen(deps: Deps, stream: str, shard: int) -> tuple[int, EntryId]:
    """Ordinal and id of the stream's last entry, as a batch saw it."""
    async with reading(deps.pool) as cursor:
        await cursor.execute(_SEEN, (stream, shard))
        added, last = await cursor.fetchone() or (0, "0-0")
    return added, entry_id(last.encode())


async def _move_ids_past(deps: Deps, key: str, floor_ms: int) -> None:
    """Let new entries get ids after those of the former master, whose clock was ahead.

    Not needed to read them, but whoever looks at ids finds them in order.
    """
    with redis_errors():
        try:
            await deps.redis.execute_command("XSETID", key, f"{floor_ms + 1}-0")  # type: ignore[no-untyped-call]
        except ResponseError as error:
            log.info("ids_not_moved", key=key, reason=str(error))  # no stream, or they are past it
