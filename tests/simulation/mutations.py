"""
Guards of the product, each of which can be taken away: schedules must notice.

A mutation patches one module for as long as its context is open. *caught* is False for
a guard that saves work only: taking it away must harm nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from shared import published, streams
from shared.errors import CheckpointMoved, Transient
from shared.mysql import transaction
from shared.published import Checkpoint
from shared.scripts import script
from tests.simulation import redis_scripts
from tests.simulation.redis_server import RedisServer, to_bytes
from worker import batches, checkpoints, drain, incidents, leases, rewind, takeover
from worker.batches import Batch, BatchReader
from worker.drain import ShardDrain
from worker.letters import insert_letters

Apply = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A guard taken away, and whether anybody is to notice."""

    name: str
    apply: Apply
    caught: bool = True
    #: Looked for among schedules with a disaster of this name, where it is missed soonest.
    among: str = ""

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            self.apply(stack)
            yield


def _replace(holder: Any, name: str, value: Any) -> Apply:
    def apply(stack: ExitStack) -> None:
        stack.enter_context(patch.object(holder, name, value))

    return apply


def _where(old: str, new: str) -> Apply:
    text = checkpoints._WHERE_OLD
    assert old in text
    return _replace(checkpoints, "_WHERE_OLD", text.replace(old, new))


def _script(name: str, work: redis_scripts.Script) -> Apply:
    def apply(stack: ExitStack) -> None:
        stack.enter_context(patch.dict(redis_scripts.SCRIPTS, {script(name): work}))

    return apply


# --- the fence ----------------------------------------------------------------------

_advance = checkpoints.advance


async def _advance_anyway(*args: Any) -> None:
    try:
        await _advance(*args)
    except CheckpointMoved:
        return


def _past(old: Checkpoint, batch: Batch) -> Checkpoint:
    """The checkpoint after *batch*, as the drain makes it."""
    return replace(
        old,
        batch_no=old.batch_no + 1,
        last=batch.last,
        applied=old.applied + batch.entries - len(batch.letters),
        dead=old.dead + len(batch.letters),
        lost=old.lost + batch.lost,
        replid=batch.stamp,
    ).with_applied(batch.stamps)


async def _write_outside(self: ShardDrain, old: Checkpoint, batch: Batch) -> Any:
    """The fence commits by itself, before the rows."""
    new, stream, shard = _past(old, batch), self._sink.stream, self._shard
    async with transaction(self._deps.pool) as cursor:
        await checkpoints.advance(cursor, stream, shard, old, new, batch.info)
    async with transaction(self._deps.pool) as cursor:
        rows = await self._sink.apply(cursor, batch.fold, shard, new)
        await insert_letters(cursor, stream, shard, new.incarnation, batch.letters)
        if batch.lost:
            await incidents.insert(cursor, stream, shard, drain._trimmed(old, batch))
    return new, rows


_write_batch = ShardDrain.write_batch


async def _believe_in_the_commit(self: ShardDrain, old: Checkpoint, batch: Batch) -> Any:
    """An unknown outcome is taken for a commit."""
    try:
        return await _write_batch(self, old, batch)
    except Transient:
        return _past(old, batch), 0


async def _try_again(self: ShardDrain, old: Any, batch: Any) -> Any:
    """An unknown outcome is taken for a failure: the same batch once more, whoever is ahead."""
    try:
        return await _write_batch(self, old, batch)
    except Transient:
        current = await checkpoints.load(self._deps.pool, self._sink.stream, self._shard)
        return await _write_batch(self, current, batch)


# --- after the commit ---------------------------------------------------------------

_settle, _commit = ShardDrain.settle, ShardDrain._commit


async def _trim_first(self: ShardDrain, checkpoint: Any, batch: Any, work: Any) -> None:
    await self._trim(checkpoint, batch)
    await _settle(self, checkpoint, batch, work)


async def _trim_before_commit(self: ShardDrain, old: Any, batch: Any) -> Any:
    await self._trim(_past(old, batch), batch)
    return await _commit(self, old, batch)


async def _publish_before_commit(self: ShardDrain, old: Checkpoint, batch: Batch) -> Any:
    names = (self._published, self._key)
    await published.publish(self._deps.redis, names, _past(old, batch), "early")
    return await _commit(self, old, batch)


async def _clear_before_commit(self: ShardDrain, old: Checkpoint, batch: Batch) -> Any:
    users = [
        (self._sink.user_keys(self._shard, user.username), user.written)
        for user in self._sink.touched(batch.fold)
    ]
    await published.clear_pending(self._deps.redis, _past(old, batch), users)
    return await _commit(self, old, batch)


async def _no_takeover(*_: Any) -> bool:
    return False


def _publish_anyway(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    published_before = redis.hgetall(keys[0])
    for name in (b"incarnation", b"batch_no"):
        if name in published_before:
            redis.data[keys[0]].pop(name)
    return redis_scripts.publish(redis, keys, args)


def _clear_anyway(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> str:
    at = 3
    for key in keys:
        count = int(args[at])
        redis.hdel(key, *args[at + 1 : at + 1 + count])
        at += count + 1
    return "OK"


def _clear_whatever_the_stamp(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> str:
    return redis_scripts.clear_pending(redis, keys, [*args[:2], "", *args[3:]])


def _trim_anyway(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    return redis.xtrim(keys[0], minid=str(args[1]), approximate=False)


# --- reading ------------------------------------------------------------------------

_missing, _read = BatchReader._missing, BatchReader._read


def _missing_nothing(self: BatchReader, chunk: Any, *, at_tail: bool) -> int:
    del self, chunk, at_tail
    return 0


async def _read_apart(redis: Any, stream: str, after: Any, count: int) -> Any:
    """The entries first, the stream's figures a moment later."""
    entries = await streams.read_range(redis, stream, after, None, count)
    figures = await streams.read_chunk(redis, stream, after, count)
    return replace(figures, entries=entries)


async def _deaf(self: BatchReader, batch: Any) -> None:
    """Another master is not noticed while reading."""
    self._stamp = ""
    await _read(self, batch)


def _counts_everything(self: BatchReader, chunk: Any, *, at_tail: bool) -> int:
    del at_tail
    return _missing(self, chunk, at_tail=True)


# --- rewinds ------------------------------------------------------------------------

_cause = rewind._cause


def _same_master(committed: Any, view: Any, hearing: Any) -> Any:
    return _cause(replace(committed, replid=""), view, hearing)


async def _never_in_doubt(deps: Any, stream: str, shard: int, *, in_doubt: bool = False) -> Any:
    del in_doubt
    return await checkpoints.load(deps.pool, stream, shard)


def _restore_unseen(published_now: Any, committed: Any) -> bool:
    del published_now, committed
    return False


async def _always(*_: Any) -> bool:
    return True


def _no_leases(stack: ExitStack) -> None:
    stack.enter_context(patch.object(leases, "take", _always))
    stack.enter_context(patch.object(leases, "renew", _always))


def _give_back_anyones(redis: RedisServer, keys: Sequence[str], args: Sequence[Any]) -> int:
    """A lease is renewed and given back by whoever asks."""
    if to_bytes(args[1]) == b"0":
        return redis.delete(keys[0])
    return redis.pexpire(keys[0], int(args[1]))


async def _no_letters(*_: Any) -> None:
    return None


MUTATIONS: Sequence[Mutation] = (
    Mutation("a moved checkpoint stops nobody", _replace(checkpoints, "advance", _advance_anyway)),
    Mutation("the fence commits by itself", _replace(ShardDrain, "write_batch", _write_outside)),
    Mutation(
        "an unknown outcome is a commit",
        _replace(ShardDrain, "write_batch", _believe_in_the_commit),
    ),
    Mutation("an unknown outcome is a failure", _replace(ShardDrain, "write_batch", _try_again)),
    Mutation("dead letters are not kept", _replace(drain, "insert_letters", _no_letters)),
    Mutation("publish has no condition", _script("publish", _publish_anyway)),
    Mutation(
        "published before the commit", _replace(ShardDrain, "_commit", _publish_before_commit)
    ),
    Mutation("trimmed before the commit", _replace(ShardDrain, "_commit", _trim_before_commit)),
    Mutation("trimmed before it is published", _replace(ShardDrain, "settle", _trim_first)),
    Mutation(
        "the overlay goes before the commit", _replace(ShardDrain, "_commit", _clear_before_commit)
    ),
    Mutation("the clean-up compares nothing", _script("clear_pending", _clear_anyway)),
    Mutation("a takeover publishes nothing", _replace(takeover, "publish_committed", _no_takeover)),
    Mutation("gaps are not counted", _replace(BatchReader, "_missing", _missing_nothing)),
    Mutation("a gap before the tail counts", _replace(BatchReader, "_missing", _counts_everything)),
    Mutation("read and counted at two moments", _replace(batches, "read_chunk", _read_apart)),
    Mutation("rewinds are not looked for", _replace(rewind, "reconcile", _never_in_doubt)),
    Mutation(
        "reading on from another master",
        _replace(BatchReader, "_read", _deaf),
        among="failover",
    ),
    Mutation(
        "a restored MySQL is not noticed",
        _replace(rewind, "_is_ahead", _restore_unseen),
        among="mysql restored",
    ),
    # Fronts testify, and the stream falls short: it is counted all the same, only later and
    # not exactly.
    Mutation("a new master is not noticed", _replace(rewind, "_cause", _same_master), False),
    # An append goes on above the ids that were seen before: these two stand behind that.
    Mutation("trimming for a former master", _script("trim", _trim_anyway), False, "failover"),
    Mutation(
        "the clean-up knows no stamps",
        _script("clear_pending", _clear_whatever_the_stamp),
        False,
        "failover",
    ),
    Mutation("leases stop nobody", _no_leases, caught=False),
    Mutation("a lease is anybody's", _script("renew", _give_back_anyones), caught=False),
    Mutation(
        "the fence without the batch number",
        _where("batch_no = %s", "(batch_no = %s OR TRUE)"),
        among="failover",
    ),
    # The batch number stands behind these two.
    Mutation(
        "the fence without the position",
        _where("last_ms = %s AND last_seq = %s", "(last_ms = %s OR last_seq = %s OR TRUE)"),
        caught=False,
    ),
    Mutation(
        "the fence without the incarnation",
        _where("incarnation = %s", "(incarnation = %s OR TRUE)"),
        caught=False,
    ),
)
