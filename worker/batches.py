"""
Read a shard's stream from a position and fold it into batches.

A batch closes at its limits or when its oldest entry has waited long enough; what
a chunk holds beyond that goes into the next one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from redis.asyncio import Redis

from shared.errors import InvalidField, Rewound
from shared.events import TIME_MS_MAX
from shared.keys import shard_of
from shared.published import Checkpoint
from shared.streams import Chunk, EntryId, RawEntry, StreamInfo, entry_id, read_chunk
from worker.letters import DeadLetter, body_of, letter_of, stamp_in
from worker.pace import Limits
from worker.sinks import Fold, Sink

_CHUNK_BYTES = 4_194_304
# COUNT knows nothing of bytes: this bounds what a chunk of the longest entries can weigh.
_CHUNK_ENTRIES = 1_000
_IDLE_MS = 100
#: Entries folded before other tasks of the process get their turn.
_ENTRIES_PER_TURN = 25


@dataclass(slots=True)
class Batch:
    """The entries of one transaction, folded."""

    fold: Fold
    last: EntryId
    #: The stream as it was when the last chunk of this batch was read.
    info: StreamInfo = field(default_factory=StreamInfo)
    now_ms: int = 0
    entries: int = 0
    lost: int = 0
    letters: list[DeadLetter] = field(default_factory=list)
    letter_bytes: int = 0
    first_ms: int = 0
    #: When it has lingered enough, by the process' own clock; None until that is asked.
    closes_at_s: float | None = None
    #: Did reading reach the end of the stream?
    at_tail: bool = False
    #: Was an empty stream given a moment to fill?
    waited: bool = False
    #: Of the stream that all of it was read from.
    stamp: str = ""
    #: Of each stamp the last entry that carries it.
    stamps: dict[str, EntryId] = field(default_factory=dict)
    #: Is it known that no entry of another stamp than *stamp* is left?
    is_alone: bool = False
    #: The only entry, while there is just one: what to keep if MySQL refuses it.
    only: RawEntry | None = None

    @property
    def is_empty(self) -> bool:
        return self.entries == 0 and self.lost == 0

    @property
    def applied(self) -> int:
        return self.entries - len(self.letters)

    def left_ms(self, linger_ms: int) -> float:
        """How long it may stay open until its oldest entry is *linger_ms* old.

        That moment is fixed once: an id may lie ahead of the clock, and would put it off for ever.
        """
        if self.closes_at_s is None:
            age_ms = max(self.now_ms - self.first_ms, 0)
            self.closes_at_s = time.monotonic() + (linger_ms - age_ms) / 1000
        return (self.closes_at_s - time.monotonic()) * 1000


class BatchReader:
    """Reads one shard from *checkpoint* on.

    Raises `Rewound` when the stream may hold less than it once did: entries are missing,
    another master answers, or a front testifies (protocol 24).
    """

    def __init__(
        self,
        redis: Redis,
        sink: Sink,
        key: str,
        shard: tuple[int, int],
        checkpoint: Checkpoint,
    ) -> None:
        self._redis = redis
        self._sink = sink
        self._decode, self._username = sink.decode, sink.username
        self._key = key
        self._shard, self._shards = shard
        self._after, self._ordinal, self._base = (
            checkpoint.last,
            checkpoint.ordinal,
            checkpoint.base,
        )
        self._floor_ms = checkpoint.floor_ms
        #: Up to there every copy is dropped; None where nothing is applied again.
        again = checkpoint.again_through > checkpoint.last
        self._again_through = checkpoint.again_through if again else None
        self._stamp = checkpoint.replid
        self._left: Sequence[RawEntry] = ()
        self._chunk: Chunk | None = None
        #: Were entries missing that would have come before the end of the stream?
        self._has_lost = False
        self._count = _CHUNK_ENTRIES
        #: Users of the batch that belong to this shard.
        self._own: set[str] = set()

    async def next_batch(self, limits: Limits, closing: asyncio.Event) -> Batch:
        """Read until a limit closes the batch, the linger time is over or *closing* is set."""
        batch = Batch(self._sink.new_fold(), self._after)
        self._own.clear()
        if self._chunk is not None:
            batch.info, batch.now_ms = self._chunk.info, self._chunk.now_ms
        batch.stamp = self._stamp
        while True:
            if not self._left:
                await self._read(batch)
            closed = await self._fold(batch, limits) or closing.is_set()
            if not closed and batch.at_tail:
                closed = not await self._linger(batch, limits.linger_ms, closing)
            if closed:
                batch.fold.finish()
                return batch

    async def _read(self, batch: Batch) -> None:
        chunk = await read_chunk(self._redis, self._key, self._after, self._count)
        if chunk.disputed or chunk.stamp != (self._stamp or chunk.stamp):
            raise Rewound("fronts saw more entries" if chunk.disputed else "another master answers")
        self._chunk, self._left = chunk, chunk.entries
        batch.stamp = self._stamp = chunk.stamp
        batch.info, batch.now_ms = chunk.info, chunk.now_ms
        batch.at_tail = len(chunk.entries) < self._count
        missing = self._missing(chunk, at_tail=batch.at_tail)
        batch.lost += missing
        self._has_lost = self._has_lost or missing > 0
        if chunk.entries:
            size = sum(map(len, chain.from_iterable([fields for _, fields in chunk.entries])))
            average = size // len(chunk.entries) + 1
            self._count = max(1, min(_CHUNK_ENTRIES, _CHUNK_BYTES // average))

    def _missing(self, chunk: Chunk, *, at_tail: bool) -> int:
        """Entries that were added after our position and are gone (protocol 11).

        At the tail every entry ever added must be accounted for; before it only
        what was trimmed can be known.
        """
        added = self._base + chunk.info.added
        expected = self._ordinal + len(chunk.entries)
        if added < expected:
            raise Rewound(f"{added} entries were added, {expected} had been read")
        lost = added - expected if at_tail else max(0, added - chunk.info.length - self._ordinal)
        self._ordinal += lost
        return lost

    async def _fold(self, batch: Batch, limits: Limits) -> bool:
        """Fold what was read; True when a limit closed the batch before the chunk's end."""
        entries = self._left
        for start in range(0, len(entries), _ENTRIES_PER_TURN):
            part = entries[start : start + _ENTRIES_PER_TURN]
            taken = self._take(batch, part, limits)
            if taken < len(part):
                self._left = entries[start + taken :]
                batch.at_tail = False
                return True
            await asyncio.sleep(0)
        self._left = ()
        if self._has_lost and not batch.is_empty and batch.at_tail:
            self._pass_over(batch)
        return batch.entries >= limits.entries or batch.fold.rows >= limits.rows

    def _pass_over(self, batch: Batch) -> None:
        """Go on behind what is missing: nothing up to the end of the stream is left.

        Or readers would wait for it: they go by the position (protocol 7).
        """
        batch.last = self._after = batch.stamps[batch.stamp] = batch.info.last
        batch.is_alone, self._has_lost = True, False

    def _take(self, batch: Batch, entries: Sequence[RawEntry], limits: Limits) -> int:
        """Fold *entries* in until the batch has to close; how many were."""
        fold, room = batch.fold, limits.entries - batch.entries
        taken = 0
        for entry in entries[:room]:
            if fold.rows >= limits.rows or fold.bytes + batch.letter_bytes >= limits.bytes:
                break
            if not self._take_one(batch, entry, unfolded=limits.unfolded):
                break
            taken += 1
        if taken:
            if batch.entries == 0:
                batch.first_ms = entry_id(entries[0][0]).ms
            batch.entries += taken
            batch.only = entries[0] if batch.entries == 1 else None
            batch.last = self._after = entry_id(entries[taken - 1][0])
            self._note_stamps(batch, entries[:taken])
            self._ordinal += taken
        return taken

    def _note_stamps(self, batch: Batch, entries: Sequence[RawEntry]) -> None:
        last = entries[-1]
        stamp = stamp_in(last)
        if stamp is not None and stamp == stamp_in(entries[0]):
            # A stream's entries are in the order of time: so are those between.
            batch.stamps[stamp] = entry_id(last[0])
            return
        for entry in entries:
            if each := stamp_in(entry):
                batch.stamps[each] = entry_id(entry[0])

    def _take_one(self, batch: Batch, entry: RawEntry, *, unfolded: bool) -> bool:
        """Fold one entry in; False if the batch has to close before it."""
        identity, fields = entry
        ms = max(int(identity.partition(b"-")[0]), self._floor_ms)
        try:
            body, foreign = body_of(fields)
            event = self._decode(body)
            if ms > TIME_MS_MAX or self._username(event) not in self._own:
                self._check(self._username(event), ms)
        except InvalidField as error:
            letter = letter_of(entry, error)
            batch.letters.append(letter)
            batch.letter_bytes += len(letter.fields)
            return True
        if unfolded and batch.fold.touches(event):
            return False
        if self._again_through is not None:
            foreign = foreign or entry_id(identity) <= self._again_through
        batch.fold.add(event, ms, len(body), foreign=foreign)
        return True

    def _check(self, username: str, ms: int) -> None:
        if shard_of(username, self._shards) != self._shard:
            raise InvalidField("wrong_shard", "user", "CRC-32 of its UTF-8 modulo the shard count")
        if ms > TIME_MS_MAX:
            raise InvalidField("id_out_of_range", "entry id", f"at most {TIME_MS_MAX} ms")
        self._own.add(username)

    async def _linger(self, batch: Batch, linger_ms: int, closing: asyncio.Event) -> bool:
        """Wait until the oldest entry is *linger_ms* old; False if there is nothing to wait for.

        A busy shard is empty for moments only: it is given one, or every such moment
        would end a slice and hand the shard on.
        """
        if batch.entries == 0:
            left_ms: float = 0 if batch.waited else min(linger_ms, _IDLE_MS)
            batch.waited = True
        else:
            left_ms = batch.left_ms(linger_ms)
        if left_ms > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_ms / 1000):
                    await closing.wait()
        return left_ms > 0
