"""A moment at which streams came to hold less, and what moonwake says of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from shared.streams import BEGINNING, EntryId
from tests.faults.tap import Entry, Tap, Tape


@dataclass(frozen=True, slots=True)
class Incident:
    """A row of `incidents`: *lost* entries of a shard between two ids, exactly or at least."""

    id: int
    shard: int
    incarnation: int
    cause: str
    lost: int
    is_exact: bool
    after: EntryId
    before: EntryId
    #: When it was detected, by MySQL's clock.
    at_ms: int = 0
    #: Where reading went on.
    position: EntryId = BEGINNING

    def lost_of(self, gone: Sequence[Entry]) -> Sequence[Entry]:
        """Those of *gone*, which are in order, that it says were never applied.

        With a stream everything is lost that lies behind the checkpoint, whatever ids came
        later. Of what a stranger took out, a worker may have read the first before that.
        """
        behind = [entry for entry in gone if entry.id > self.after]
        if self.cause != "trimmed":
            return behind
        between = [entry for entry in behind if entry.id <= self.before]
        return between[max(len(between) - self.lost, 0) :]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """*lost* entries of a shard that moonwake had counted, and whose count was taken away at
    *at_ms* with a database that was replaced by a backup from *since_ms*.

    They are counted again by the incident that finds the restored database out.
    """

    shard: int
    lost: int
    since_ms: int
    at_ms: int

    def found_by(self, incidents: Iterable[Incident]) -> Incident | None:
        """The first incident of the shard after it: no stream goes on without one."""
        after = [
            incident
            for incident in incidents
            if incident.shard == self.shard
            and incident.at_ms >= self.at_ms
            and incident.cause != "trimmed"
        ]
        return min(after, key=lambda incident: incident.id, default=None)

    def takes_away(self, told: Sequence[Incident]) -> bool:
        """May it have taken away what fronts said of these, or one that told of them?"""
        at = [incident.at_ms for incident in told if incident.shard == self.shard]
        return any(self.since_ms <= each for each in at) and min(at) <= self.at_ms


class Rewind:
    """The streams of some shards go on on a new tape; what only the old one has is gone."""

    def __init__(self, shards: Sequence[int]) -> None:
        self.shards = list(shards)
        #: The last moment at which nothing was gone yet, by the machine's clock.
        self.whole_at_ms = 0
        #: When the streams were to be reached again.
        self.over_at_ms = 0
        #: Shards on which the workers have not gone on yet.
        self.open = set(shards)
        #: shard -> ids of the incidents that were written because of it.
        self.incidents: dict[int, set[int]] = {shard: set() for shard in shards}
        #: shard -> its old tape and its new one, once it has one.
        self._tapes: dict[int, tuple[Tape, Tape]] = {}
        #: shard -> entries that were there when the new tape began.
        self._old: dict[int, int] = {}

    def begin(self, tap: Tap) -> None:
        """The new tapes have begun."""
        self.whole_at_ms = tap.whole_at_ms
        self.over_at_ms = time.time_ns() // 1_000_000
        for shard in self.shards:
            before, now = tap.tapes[shard][-2:]
            self._tapes[shard] = before, now
            self._old[shard] = len(now.entries)

    def counted_by(self, told: Sequence[Incident]) -> list[Incident]:
        """Those of *told* that speak of what is gone: the first, and any that counts something.

        A server's restart is an incident too, which other faults bring about: before this
        rewind, or after it.
        """
        later = [incident for incident in told if incident.at_ms >= self.whole_at_ms]
        return [incident for incident in told if incident.lost or incident in later[:1]]

    def gone(self, shard: int) -> list[Entry]:
        """Entries of the old tape that the new one lacks, in order."""
        before, now = self._tapes[shard]
        there = {entry.identity for entry in now.entries}
        return [entry for entry in before.entries if entry.identity not in there]

    def foreign_first(self, shard: int) -> list[Entry]:
        """What other producers added to the new stream before any front did.

        Without a stamp, an id that the old stream had reached is all there is to go by:
        they may be taken for old, and even be passed over.
        """
        before, now = self._tapes[shard]
        there = {entry.identity for entry in before.entries}
        new = [entry for entry in now.entries if entry.identity not in there]
        return list(takewhile(lambda entry: entry.is_foreign, new))

    def passed_over(self, shard: int, told: Sequence[Incident]) -> list[Entry]:
        """Those of `foreign_first` that were, as the first of *told* after it says."""
        later = [incident for incident in told if incident.at_ms >= self.whole_at_ms]
        return [
            entry
            for entry in self.foreign_first(shard)
            if later and entry.id <= later[0].position and later[0].cause != "trimmed"
        ]

    def has_foreign(self, shard: int) -> bool:
        """Whether the old stream or the new one has entries of other producers."""
        return any(entry.is_foreign for tape in self._tapes[shard] for entry in tape.entries)

    def see(self, positions: Mapping[int, EntryId]) -> None:
        """*positions* are the committed checkpoints: those among new entries went on."""
        for shard in list(self.open & self._tapes.keys()):
            new = self._tapes[shard][1].entries[self._old[shard] :]
            if any(entry.id == positions.get(shard) for entry in new):
                self.open.discard(shard)
