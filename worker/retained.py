"""What a stream retains, read from its start: which of it is not applied yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.errors import StoreDown
from shared.published import Checkpoint
from shared.streams import BEGINNING, EntryId, RawEntry, StreamInfo, entry_id, read_chunk
from worker.letters import stamp_in

_PAGE = 4_000


@dataclass(frozen=True, slots=True)
class Before:
    """What was known of the stream: the *committed* checkpoint, the latest one of the
    incarnation that *ended*, and its *last* id if that is known for sure.
    """

    committed: Checkpoint
    ended: Checkpoint
    last: EntryId | None

    def had(self, at: EntryId, stamp: str | None, present: str) -> bool:
        """May the incarnation that ended have had an entry like this?"""
        if stamp is None:
            return self.last is None or at <= self.last
        if not self.ended.replid:
            # Before the first batch all but what the present stream stamped is an older one's.
            return stamp != present
        return stamp == self.ended.replid or stamp in self.ended.stamps


@dataclass(slots=True)
class Retained:
    """A stream's entries, counted; *info* and *stamp* are of the moment its end was read.

    A stream's order is that of time, whatever its ids are: what follows the first entry
    that is not applied is not applied either, and what follows the first that the former
    incarnation did not have is new. What comes before an applied entry was read past: if it
    is not applied it was lost and counted, and has come back since. (Redis 7.0 does that to
    an append-only file whose end was cut inside a transaction, at its second start.)
    """

    stamp: str = ""
    info: StreamInfo = field(default_factory=StreamInfo)
    entries: int = 0
    #: The first entry that is not applied, and how many there are from it on.
    first: EntryId | None = None
    readable: int = 0
    #: Those of them whose stamp or id does not say that they are applied.
    unsettled: int = 0
    #: Those of them that are new.
    new: int = 0
    #: Entries that are not applied, and will not be: they were counted as lost.
    returned: int = 0
    #: Those that carry no stamp, and the stamps of the others; of those from `first` on.
    foreign: int = 0
    stamps: set[str] = field(default_factory=set)
    readable_stamps: set[str] = field(default_factory=set)
    #: Of the last of them that is not new; empty where there is none.
    old_stamp: str = ""

    def count(self, entry: RawEntry, before: Before) -> None:
        at, stamp = entry_id(entry[0]), stamp_in(entry)
        is_new = self.new > 0 or not before.had(at, stamp, self.stamp)
        if stamp is None:
            self.foreign += 1
        else:
            self.stamps.add(stamp)
            self.old_stamp = self.old_stamp if is_new else stamp
        is_settled = before.committed.is_settled(at, stamp)
        # An id alone proves nothing: a new master's clock may be behind.
        if is_settled and stamp is not None and before.committed.stamps:
            self.returned += self.unsettled
            self.first, self.readable, self.unsettled, self.new, is_new = None, 0, 0, 0, False
            self.readable_stamps.clear()
        elif self.first is None and (is_new or not is_settled):
            self.first = at
        self.entries += 1
        if self.first is not None:
            self.readable += 1
            self.readable_stamps.update([stamp] if stamp else ())
        self.unsettled += is_new or not is_settled
        self.new += is_new


async def read_retained(redis: Redis, stream: str, before: Before) -> Retained:
    """Read the whole *stream*. Raises `StoreDown`, also when another takes its place meanwhile."""
    retained, after = Retained(), BEGINNING
    while True:
        chunk = await read_chunk(redis, stream, after, _PAGE)
        if chunk.stamp != (retained.stamp or chunk.stamp):
            raise StoreDown("the stream was made anew while it was read")
        retained.stamp = chunk.stamp
        for entry in chunk.entries:
            retained.count(entry, before)
        if len(chunk.entries) < _PAGE:
            retained.info = chunk.info
            return retained
        after = entry_id(chunk.entries[-1][0])
