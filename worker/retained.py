"""What a stream retains, read from its start: where the entries of a new incarnation begin."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from redis.asyncio import Redis

from shared.errors import StoreDown
from shared.streams import BEGINNING, EntryId, RawEntry, StreamInfo, entry_id, read_chunk
from worker.letters import stamp_in

_PAGE = 4_000


@dataclass(frozen=True, slots=True)
class _Known:
    position: EntryId
    stamps: Collection[str]
    later_stamps: Collection[str]
    seen: EntryId


@dataclass(slots=True)
class Retained:
    """A stream's entries, counted; *info* and *stamp* are of the moment its end was read.

    New are the first entry with a stamp that was not known and all that follow it: a
    stream's order is that of time, whatever its ids are. Where no stamp is known yet, new
    is what the present master stamped.
    """

    stamp: str = ""
    info: StreamInfo = field(default_factory=StreamInfo)
    entries: int = 0
    new: int = 0
    #: Not new, and past the position.
    waiting: int = 0
    #: All that are past the position, and those of them that somebody saw before.
    later: int = 0
    seen: int = 0
    #: From the first on whose stamp nobody knew, not even a published checkpoint.
    latest: int = 0
    #: Of the last entry that is not new; empty where none carries one.
    old_stamp: str = ""
    #: Those that moonwake appended.
    own: int = 0
    first: EntryId | None = None
    first_new: EntryId | None = None
    stamps: set[str] = field(default_factory=set)

    def count(self, entry: RawEntry, against: _Known) -> None:
        at, stamp, position = entry_id(entry[0]), stamp_in(entry), against.position
        if stamp is not None:
            self.stamps.add(stamp)
            self.own += 1
        if self.first_new is None and _is_new(stamp, against.stamps, self.stamp):
            self.first_new = at
        self.first = self.first or at
        self.entries += 1
        self.later += at > position
        self.seen += position < at <= against.seen
        if self.latest or _is_new(stamp, against.later_stamps, self.stamp):
            self.latest += 1
        if self.first_new is not None:
            self.new += 1
        else:
            self.waiting += at > position
            self.old_stamp = stamp or self.old_stamp


def _is_new(stamp: str | None, known: Collection[str], present: str) -> bool:
    return stamp is not None and (stamp not in known if known else stamp == present)


async def read_retained(
    redis: Redis,
    stream: str,
    position: EntryId,
    *,
    known: Collection[str],
    known_later: Collection[str],
    seen: EntryId,
) -> Retained:
    """Read the whole *stream*.

    *known* are the stamps up to *position*, *known_later* those of the last published
    checkpoint, *seen* is the last id that anybody saw. Raises `StoreDown`, also when the
    master changes meanwhile.
    """
    against = _Known(position, known, known_later, seen)
    retained, after = Retained(), BEGINNING
    while True:
        chunk = await read_chunk(redis, stream, after, _PAGE)
        if chunk.stamp != (retained.stamp or chunk.stamp):
            raise StoreDown("another master answers")
        retained.stamp = chunk.stamp
        for entry in chunk.entries:
            retained.count(entry, against)
        if len(chunk.entries) < _PAGE:
            retained.info = chunk.info
            return retained
        after = entry_id(chunk.entries[-1][0])
