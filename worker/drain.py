"""
Move the events of one shard from its stream to MySQL, each exactly once.

Redis may show an entry twice; MySQL applies it once, because the rows and the
checkpoint that says "applied up to here" commit in one transaction. What follows
the commit (publish, trim, overlay) may be repeated, or left to a successor.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import structlog

from shared.cached_copies import forget
from shared.errors import (
    CheckpointMoved,
    Contended,
    DataRefused,
    Rewound,
    ShardStopped,
    StoredRecordIsNewer,
    Transient,
)
from shared.keys import shard_of
from shared.mysql import transaction
from shared.published import BatchWork, Checkpoint, clear_pending, publish
from shared.streams import trim
from worker import checkpoints, incidents, rewind, takeover
from worker.batches import Batch, BatchReader
from worker.deps import Deps
from worker.incidents import Cause, Incident
from worker.letters import insert_letters, refused_letter
from worker.pace import Pace
from worker.sinks import Sink

log = structlog.get_logger()

#: A MySQL that says nothing for this long is gone, whatever the connection looks like.
SILENCE_MAX_S = 60.0
#: Not longer, because it comes after every outage, and short ones are the frequent ones.
_BACKOFF_S = (0.1, 0.2, 0.5)
#: Of the failures in a row the first few are told, and then each tenth: every shard meets them.
_TOLD_MAX, _TOLD_EACH = 3, 10


class ShardDrain:
    """Drains one shard for a while; `stop` ends it after the batch in hand."""

    def __init__(self, deps: Deps, sink: Sink, shard: int, pace: Pace | None = None) -> None:
        self._deps = deps
        self._sink = sink
        self._shard = shard
        self._pace = pace or Pace(deps.settings)
        self._key = deps.keys.stream(sink.stream, shard)
        self._published = deps.keys.checkpoint(sink.stream, shard)
        self._stopping = asyncio.Event()
        #: Tells the batch being read ahead to close now.
        self._closing = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        self._failures = 0
        #: Was a transaction begun and its outcome not heard of?
        self._in_transaction = False
        #: Reading met something that does not fit: look closely before reading on.
        self._in_doubt = False
        self._log = log.bind(stream=sink.stream, shard=shard)

    def stop(self) -> None:
        """End after the batch in hand; nothing is cancelled inside a transaction."""
        self._stopping.set()
        self._closing.set()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    async def run(self, slice_s: float) -> bool:
        """Drain until caught up (False), or *slice_s* has passed or `stop` was called (True).

        MySQL's passing failures are waited out. Raises `StoreDown` when Redis fails and
        `ShardStopped` when MySQL refuses too much.
        """
        deadline_s = time.monotonic() + slice_s
        while True:
            try:
                return await self._drain_until(deadline_s)
            except CheckpointMoved as error:
                self._log.info("checkpoint_moved", detail=str(error))
            except Rewound as error:
                self._log.warning("stream_in_doubt", detail=str(error))
                self._in_doubt = True
            except StoredRecordIsNewer:
                self._pace.unfold()
            except DataRefused as error:
                self._log.warning("batch_refused", error=str(error))
            except (Transient, TimeoutError) as error:
                await self._wait_out(error)
            if self._stopping.is_set() or time.monotonic() >= deadline_s:
                return True

    async def _drain_until(self, deadline_s: float) -> bool:
        """The loop: while MySQL works on one batch, the next is read and folded."""
        async with asyncio.timeout(SILENCE_MAX_S):
            checkpoint = await rewind.reconcile(
                self._deps, self._sink.stream, self._shard, in_doubt=self._in_doubt
            )
        self._in_doubt = False
        await takeover.publish_committed(self._deps, self._sink, self._shard, checkpoint)
        reader = self._reader(checkpoint)
        if not self._stopping.is_set():
            self._closing.clear()
        ahead = self._read_ahead(reader)
        try:
            while not (batch := await ahead).is_empty:
                ahead = self._read_ahead(reader)
                checkpoint = await self._commit(checkpoint, batch)
                if self._stopping.is_set() or time.monotonic() >= deadline_s:
                    return not batch.at_tail
            await self._tidy(checkpoint, batch)
            return False
        finally:
            self._closing.set()
            await asyncio.wait([ahead])
            if not ahead.cancelled():
                ahead.exception()  # whoever reads on meets it again
            await self._settled()

    def _reader(self, checkpoint: Checkpoint) -> BatchReader:
        return BatchReader(
            self._deps.redis,
            self._sink,
            self._key,
            (self._shard, self._deps.settings.shards),
            checkpoint,
        )

    def _read_ahead(self, reader: BatchReader) -> asyncio.Task[Batch]:
        return asyncio.create_task(reader.next_batch(self._pace.limits, self._closing))

    # --- one batch ----------------------------------------------------------------

    async def _commit(self, old: Checkpoint, batch: Batch) -> Checkpoint:
        """Write *batch*; what follows its commit runs beside the next one."""
        async with self._deps.writing:
            started_s = time.monotonic()
            new, rows = await self._write_or_narrow(old, batch)
            write_ms = round((time.monotonic() - started_s) * 1000)
        work = BatchWork(batch.entries, rows, write_ms)
        self._pace.succeed(batch.entries)
        self._failures = 0
        self._log.info(
            "batch_written",
            batch_no=new.batch_no,
            entries=work.entries,
            rows=work.rows,
            dead=len(batch.letters),
            lost=batch.lost,
            write_ms=work.write_ms,
            last=str(new.last),
        )
        await self._settled()
        self._settling = asyncio.create_task(self.settle(new, batch, work))
        return new

    async def _write_or_narrow(self, old: Checkpoint, batch: Batch) -> tuple[Checkpoint, int]:
        try:
            return await self.write_batch(old, batch)
        except DataRefused as error:
            self._narrow(batch, error)
            return await self.write_batch(old, batch)

    async def write_batch(self, old: Checkpoint, batch: Batch) -> tuple[Checkpoint, int]:
        """Commit *batch* and the checkpoint past it: (that checkpoint, rows written).

        Raises `CheckpointMoved`, `DataRefused`, `StoredRecordIsNewer`, `Transient` or
        `TimeoutError`; after the last two the outcome is unknown and the checkpoint has to
        be read again.
        """
        new = replace(
            old,
            batch_no=old.batch_no + 1,
            last=batch.last,
            applied=old.applied + batch.entries - len(batch.letters),
            dead=old.dead + len(batch.letters),
            lost=old.lost + batch.lost,
            replid=batch.stamp,
        ).with_applied(batch.stamps)
        if batch.is_alone:
            new = new.waiting_for([batch.stamp])
        stream = self._sink.stream
        self._in_transaction = False
        async with asyncio.timeout(SILENCE_MAX_S), transaction(self._deps.pool) as cursor:
            await checkpoints.advance(cursor, stream, self._shard, old, new, batch.info)
            self._in_transaction = True
            rows = await self._sink.apply(cursor, batch.fold, self._shard, new)
            await insert_letters(cursor, stream, self._shard, new.incarnation, batch.letters)
            if batch.lost:
                await incidents.insert(cursor, stream, self._shard, _trimmed(old, batch))
        self._in_transaction = False
        return new, rows

    def _narrow(self, batch: Batch, error: DataRefused) -> None:
        """Make *batch* a dead letter if it is one entry, or have less of it read again."""
        if batch.only is None:
            self._pace.narrow(batch.entries)
            raise error
        if batch.letters:
            raise ShardStopped(f"MySQL refuses a dead letter: {error}") from error
        self._pace.refuse()
        batch.fold = self._sink.new_fold()
        batch.letters.append(refused_letter(batch.only, error))

    async def settle(self, checkpoint: Checkpoint, batch: Batch, work: BatchWork) -> None:
        """Publish what was committed, then drop what that made superfluous."""
        redis, sink, shard = self._deps.redis, self._sink, self._shard
        outdated = {*sink.outdated(batch.fold), *self._dead_users(batch)}
        keys = [sink.user_keys(shard, name) for name in outdated]
        token = uuid.uuid4().hex
        if not await publish(redis, (self._published, self._key), checkpoint, token, keys, work):
            # Readers know of a later batch, which need not have known of these users.
            await forget(redis, keys, token)
        await self._trim(checkpoint, batch)
        touched = sink.touched(batch.fold)
        await clear_pending(
            redis,
            checkpoint,
            ((sink.user_keys(shard, user.username), user.written) for user in touched),
        )

    def _dead_users(self, batch: Batch) -> Iterator[str]:
        shards = self._deps.settings.shards
        for letter in batch.letters:
            if letter.username and shard_of(letter.username, shards) == self._shard:
                yield letter.username

    async def _trim(self, checkpoint: Checkpoint, batch: Batch) -> None:
        keep_after_ms = batch.now_ms - self._deps.settings.stream_retention_s * 1000
        await trim(self._deps.redis, self._key, checkpoint.replid, checkpoint.last, keep_after_ms)

    async def _tidy(self, checkpoint: Checkpoint, batch: Batch) -> None:
        """An idle shard is trimmed too."""
        await self._settled()
        await self._trim(checkpoint, batch)

    async def _settled(self) -> None:
        if self._settling is not None:
            settling, self._settling = self._settling, None
            await settling

    # --- trouble ------------------------------------------------------------------

    async def _wait_out(self, error: Exception) -> None:
        pause_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1
        self._note_size(error)
        if self._failures <= _TOLD_MAX or self._failures % _TOLD_EACH == 0:
            self._log.warning(
                "mysql_failed", error=repr(error), retry_s=pause_s, failures=self._failures
            )
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _note_size(self, error: Exception) -> None:
        """Take on less where that can help: not because MySQL is away."""
        in_transaction, self._in_transaction = self._in_transaction, False
        if isinstance(error, Contended) or (in_transaction and isinstance(error, TimeoutError)):
            self._pace.slow_down()
        elif in_transaction:
            self._pace.lose()


def _trimmed(old: Checkpoint, batch: Batch) -> Incident:
    """Somebody else removed entries that were never read: exactly so many."""
    first = batch.info.first
    return Incident(
        incarnation=old.incarnation,
        cause=Cause.TRIMMED,
        lost=batch.lost,
        is_exact=True,
        after=old.last,
        before=first if first is not None and first > old.last else batch.info.last,
        position=batch.last,
        ended_stamp=batch.stamp,
        stamp=batch.stamp,
        base=old.base,
        seen_added=old.base + batch.info.added,
    )
