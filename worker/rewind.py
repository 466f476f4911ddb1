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

from shared.connections import reading, redis_errors, transaction
from shared.keys import testimonies_of
from shared.published import Checkpoint, published_of
from shared.streams import EntryId, StreamInfo, entry_id, now_ms_of, stamp_of, stream_info
from shared.witness import Testimony, forget_testimonies, testimonies_in
from worker import checkpoints, incidents
from worker.deps import Deps
from worker.hearing import Hearing, hear_late
from worker.incidents import Cause, Incident
from worker.retained import Retained, read_retained

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
    if _is_ahead(view.published, committed):
        # Whoever published it committed it before: it shows now, unless MySQL forgot it.
        committed = await checkpoints.load(deps.pool, stream, shard)
    ended = committed
    if view.published is not None and _is_ahead(view.published, committed):
        ended = view.published
    hearing = Hearing.of(view.testimonies, ended)
    cause = _cause(committed, view, hearing)
    if cause or in_doubt or committed.is_new:
        seen_added, seen_last = await _seen(deps, stream, shard)
        retained = await read_retained(
            deps.redis,
            deps.keys.stream(stream, shard),
            committed.last,
            known=committed.stamps,
            known_later=ended.stamps,
            seen=max(seen_last, hearing.last),
        )
        cause = cause or _cause_in(committed, retained)
        if cause is not None:
            seen_added = max(seen_added, hearing.added)
            loss = _Loss(cause, committed, ended, retained, view.now_ms, seen_added)
            return await _open_incarnation(deps, stream, shard, loss, hearing)
    if view.testimonies:
        return await hear_late(deps, stream, shard, committed, view.testimonies)
    return committed


async def _look(deps: Deps, stream: str, shard: int) -> _View:
    key = deps.keys.stream(stream, shard)
    with redis_errors():
        async with deps.redis.pipeline(transaction=True) as pipe:
            pipe.info("replication")
            pipe.xinfo_stream(key)
            pipe.time()
            pipe.hgetall(deps.keys.checkpoint(stream, shard))
            pipe.hgetall(testimonies_of(key))
            replication, about, time, published, told = await pipe.execute(raise_on_error=False)
    return _View(
        stamp=stamp_of(replication),
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
    if committed.replid not in {"", view.stamp}:
        return Cause.MASTER_CHANGED
    if committed.base + view.info.added < committed.ordinal:
        return Cause.RECREATED
    if hearing.told:
        # Before the first batch the fronts alone know which master entries were of.
        return Cause.RECREATED if hearing.stamps == {view.stamp} else Cause.MASTER_CHANGED
    return None


def _cause_in(committed: Checkpoint, retained: Retained) -> Cause | None:
    """The same, told by what the stream retains."""
    # Fewer were added than are applied or can still be read.
    if committed.base + retained.info.added < committed.ordinal + retained.later:
        return Cause.RECREATED
    if committed.is_new and retained.stamps - {retained.stamp}:
        return Cause.MASTER_CHANGED
    return None


# --- counting -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Loss:
    """What a shard lost: the *committed* checkpoint against what the stream retains.

    *ended* is the latest that is known of the incarnation that ended. Everything is
    counted in ordinals, which go on from one incarnation to the next.
    """

    cause: Cause
    committed: Checkpoint
    ended: Checkpoint
    retained: Retained
    now_ms: int
    #: The highest ordinal that anybody saw.
    seen_added: int

    @property
    def begins_anew(self) -> bool:
        """Is nothing of the stream applied, whatever its ids say, as the clock went back?

        Whoever had applied one of its entries had moved the checkpoint to that. With a clock
        that is not behind, entries below the checkpoint were applied once and put back.
        """
        last = self.committed.last
        is_behind = self.retained.info.last < last and self.now_ms <= last.ms
        return self.cause is Cause.RECREATED and (is_behind or self.retained.entries == 0)

    @property
    def is_clear(self) -> bool:
        """Is the committed ordinal all of the incarnation that ended?"""
        retained = self.retained
        nothing_applied = retained.later == retained.entries == retained.info.added
        return self.cause is not Cause.RECREATED or self.begins_anew or nothing_applied

    @property
    def position(self) -> EntryId:
        """Where to read on: right after everything that is applied."""
        retained, last = self.retained, self.committed.last
        if self.cause is Cause.RECREATED and not self.begins_anew:
            return last
        first = retained.first if self.begins_anew else retained.first_new
        if first is not None:
            return min(last, first.just_before())
        if self.cause is Cause.MYSQL_RESTORED:
            return last
        # What comes next may be below: a new master's clock may be behind.
        return min(last, retained.info.last)

    @property
    def readable(self) -> int:
        """Entries past the position."""
        retained = self.retained
        if self.cause is Cause.RECREATED:
            return retained.entries if self.begins_anew else retained.later
        return retained.waiting + retained.new

    @property
    def _new(self) -> int:
        """Those of the readable entries that the incarnation that ended did not have."""
        retained = self.retained
        if self.cause is Cause.RECREATED:
            return retained.entries if self.begins_anew else retained.later - retained.seen
        return retained.latest

    @property
    def ended_at(self) -> int:
        """The last ordinal of the incarnation that ended, as far as anybody knows."""
        known = max(self.seen_added, self.ended.ordinal, self.committed.ordinal)
        if self.cause is Cause.RECREATED:
            return known
        survived = self.ended.base + self.retained.info.added - self._new
        return max(known, survived)

    @property
    def lost(self) -> int:
        return max(0, self.ended_at + self._new - self.committed.ordinal - self.readable)


async def _open_incarnation(
    deps: Deps, stream: str, shard: int, loss: _Loss, hearing: Hearing
) -> Checkpoint:
    """Begin a new incarnation: its books balance with what can still be read."""
    old, retained = loss.committed, loss.retained
    new = replace(
        old,
        incarnation=loss.ended.incarnation + 1,
        batch_no=old.batch_no + 1,
        last=loss.position,
        base=old.ordinal + loss.lost + loss.readable - retained.info.added,
        lost=old.lost + loss.lost,
        replid=retained.stamp,
        stamps=old.knowing({*retained.stamps, retained.stamp}),
        floor_ms=max(old.floor_ms, min(old.last.ms, loss.now_ms + _FLOOR_AHEAD_MS)),
    )
    incident = _incident(loss, hearing, new)
    async with transaction(deps.pool) as cursor:
        await checkpoints.advance(cursor, stream, shard, old, new, retained.info)
        await incidents.insert(cursor, stream, shard, incident)
    _log(stream, shard, incident)
    key = deps.keys.stream(stream, shard)
    await forget_testimonies(deps.redis, key, hearing.all)
    if loss.now_ms <= new.floor_ms:
        await _move_ids_past(deps, key, new.floor_ms)
    return new


def _incident(loss: _Loss, hearing: Hearing, new: Checkpoint) -> Incident:
    ended = loss.ended
    # The stream itself tells what a restored MySQL has forgotten.
    is_told = loss.cause is Cause.MYSQL_RESTORED and ended.replid == new.replid
    return Incident(
        incarnation=ended.incarnation,
        cause=loss.cause,
        lost=loss.lost,
        is_exact=is_told or (hearing.is_complete and loss.is_clear),
        after=loss.committed.last,
        before=loss.retained.first_new or loss.retained.info.last,
        position=new.last,
        ended_stamp=ended.replid or hearing.stamp or loss.retained.old_stamp,
        stamp=new.replid,
        base=ended.base,
        seen_added=loss.ended_at,
        heard=hearing.heard,
        expected=hearing.expected,
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
    """Of the stream as the last batch saw it: the ordinal and the id of its last entry."""
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
