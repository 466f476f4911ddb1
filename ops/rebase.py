"""
Ids of a stream that run ahead of the clock are brought back: a new incarnation begins at now.

Only on a stream that is drained and still. Redis and MySQL cannot change together, so
the shard is stopped meanwhile: whatever dies in between, no worker reads a stream whose
ids and MySQL's position do not fit, and running it again finishes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import WatchError

from ops.checks.stream_checks import ID_AHEAD_MS
from ops.workers import workers_of
from shared.errors import MoonwakeError
from shared.keys import Keys, UserKeys
from shared.mysql import transaction
from shared.published import Checkpoint, publish
from shared.redis import redis_errors
from shared.streams import EntryId, StreamInfo, entry_id, now_ms_of, stamp_of, stream_info
from worker import checkpoints
from worker.deps import Deps
from worker.sinks import Sink

#: Why the shard is stopped meanwhile; an operator sees it only if the work was cut off.
_CUT_OFF = "moonwake repair-ids did not finish: run it again"
# A record from the future refuses whatever is saved before that time (protocol 19).
_DATE_BACK = (
    "UPDATE play_records SET event_ms = %s WHERE event_ms > %s",
    "UPDATE content_stats SET last_played_at = UTC_TIMESTAMP(3)"
    " WHERE last_played_at > UTC_TIMESTAMP(3)",
)


class NotIdle(MoonwakeError):
    """Somebody is at work on the stream, or entries wait; the message says what to do first."""


@dataclass(frozen=True, slots=True)
class Rebased:
    """A shard whose ids were *ahead_s* seconds ahead and go on after *position*."""

    shard: int
    ahead_s: int
    position: EntryId
    incarnation: int


async def rebase(deps: Deps, sink: Sink) -> list[Rebased]:
    """Bring back every shard of *sink*'s stream whose ids are ahead.

    Raises `NotIdle`, `StoreDown` or `Transient`; repeating it goes on where it ended.
    """
    now_ms = await _now_without_workers(deps)
    shards = range(deps.settings.shards)
    ahead = [shard for shard in shards if await _ahead_ms(deps, sink.stream, shard, now_ms)]
    if ahead:
        async with transaction(deps.pool) as cursor:
            for statement in _DATE_BACK:
                await cursor.execute(statement, (now_ms, now_ms)[: statement.count("%s")])
    return [await _rebase_shard(deps, sink, shard) for shard in ahead]


async def _now_without_workers(deps: Deps) -> int:
    """Redis' time. Raises `NotIdle` while a worker lives."""
    with redis_errors():
        async with deps.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hgetall(deps.keys.workers)
            time, told = await pipe.execute()
    now_ms = now_ms_of(time)
    live = [worker.name for worker in workers_of(told, now_ms) if worker.is_live]
    if live:
        raise NotIdle(f"stop the workers first: {', '.join(live)}")
    return now_ms


async def _ahead_ms(deps: Deps, stream: str, shard: int, now_ms: int) -> int:
    """How far the shard's ids are ahead, in Redis or in MySQL; 0 up to a minute."""
    info, _, _ = await _look(deps.redis, deps.keys.stream(stream, shard))
    committed = await checkpoints.load(deps.pool, stream, shard)
    ahead_ms = max(info.last, committed.last).ms - now_ms
    return ahead_ms if ahead_ms > ID_AHEAD_MS else 0


async def _rebase_shard(deps: Deps, sink: Sink, shard: int) -> Rebased:
    key, stop = deps.keys.stream(sink.stream, shard), deps.keys.stopped(sink.stream, shard)
    with redis_errors():
        await deps.redis.set(stop, _CUT_OFF, nx=True)
    async with transaction(deps.pool) as cursor:
        old = await checkpoints.lock(cursor, sink.stream, shard)
        before, now_ms, _ = await _look(deps.redis, key)
        if before.last.ms - now_ms > ID_AHEAD_MS:
            try:
                await _empty(deps.redis, key, old)
            except NotIdle:
                await _lift_stop(deps.redis, stop)
                raise
        info, _, stamp = await _look(deps.redis, key)
        # What stands in the stream now came after it was emptied, and waits.
        if old.base + info.added != old.ordinal + info.length:
            raise NotIdle(f"the books of {sink.stream}:{shard} do not balance: moonwake status")
        last = info.first.just_before() if info.first else info.last
        new = replace(
            old,
            incarnation=old.incarnation + 1,
            batch_no=old.batch_no + 1,
            last=last,
            floor_ms=0,
            replid=stamp,
        ).with_applied({stamp: last})
        await checkpoints.advance(cursor, sink.stream, shard, old, new, info)
    users = [user async for user in _forget_overlays(deps, sink, shard, now_ms)]
    checkpoint_key = deps.keys.checkpoint(sink.stream, shard)
    await publish(deps.redis, (checkpoint_key, key), new, uuid.uuid4().hex, users)
    await _lift_stop(deps.redis, stop)
    ahead_ms = max(before.last, old.last).ms - now_ms
    return Rebased(shard, ahead_ms // 1000, last, new.incarnation)


async def _lift_stop(redis: Redis, key: str) -> None:
    """Let workers have the shard again, unless it was stopped before for another reason."""
    with redis_errors():
        if await redis.get(key) == _CUT_OFF.encode():
            await redis.delete(key)


async def _look(redis: Redis, key: str) -> tuple[StreamInfo, int, str]:
    """The stream, Redis' time and its stamp."""
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            pipe.xinfo_stream(key)
            pipe.time()
            pipe.info("replication")
            pipe.xinfo_groups(key)
            about, time, *whose = await pipe.execute(raise_on_error=False)
    return stream_info(about), now_ms_of(time), stamp_of(*whose)


async def _empty(redis: Redis, key: str, committed: Checkpoint) -> None:
    """Drop every entry, all of them applied, and let the next id be of now.

    Raises `NotIdle` if one is not, or if somebody appends at that moment.
    """
    with redis_errors():
        async with redis.pipeline(transaction=True) as pipe:
            await pipe.watch(key)
            info = stream_info(await cast("Any", pipe.xinfo_stream(key)))
            now_ms = now_ms_of(await cast("Any", pipe.time()))
            if committed.base + info.added != committed.ordinal:
                waiting = committed.base + info.added - committed.ordinal
                raise NotIdle(
                    f"{waiting} entries of {key} wait: stop whoever writes, let the workers drain"
                )
            pipe.multi()  # type: ignore[no-untyped-call]
            pipe.xtrim(key, maxlen=0, approximate=False)
            pipe.execute_command("XSETID", key, f"{now_ms}-0")
            try:
                await pipe.execute()
            except WatchError as fault:
                raise NotIdle(f"somebody writes to {key}: stop web and other producers") from fault


async def _forget_overlays(
    deps: Deps, sink: Sink, shard: int, now_ms: int
) -> AsyncIterator[UserKeys]:
    """Drop overlay fields from the future, which would count as pending again; whose they were.

    MySQL holds them all, and nobody writes such a field now. One less than a minute ahead
    may be new: it stays, and is settled as soon as the clock has passed it.
    """
    limit_ms = now_ms + ID_AHEAD_MS
    literal_prefix = re.sub(r"([*?\[\]\\])", r"\\\1", deps.keys.prefix)
    pattern = Keys(literal_prefix).play_records(shard, "*").pending
    before, after = deps.keys.play_records(shard, "\0").pending.split("\0")
    with redis_errors():
        async for key in deps.redis.scan_iter(match=pattern, count=1_000):
            fields = await cast("Any", deps.redis.hgetall(key))
            future = [name for name, value in fields.items() if _ms_of(value) > limit_ms]
            if future:
                await cast("Any", deps.redis.hdel(key, *future))
                yield sink.user_keys(shard, key.decode()[len(before) : -len(after)])


def _ms_of(overlay_value: bytes) -> int:
    try:
        return entry_id(overlay_value.partition(b" ")[0]).ms
    except ValueError:
        return 0  # damaged: whoever reads it drops it
