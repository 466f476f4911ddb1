"""
Settle a folded batch over the records that MySQL holds: the rows it writes.

Pure, like the folding; part by part, so that the stored records of the next part
can be looked up meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shared.events import PlayRecord
from shared.records import merge_original_episodes
from worker.sinks.folding import Content, FoldedKey, Key, KeyFold, PlayFold, count_save


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What a save needs to know of the record MySQL holds."""

    index: int
    play_time: int
    event_ms: int
    original_episodes: int


@dataclass(slots=True)
class ContentSums:
    """What a batch adds to one content's statistics, and the newest record of it."""

    record: PlayRecord
    last_ms: int
    plays: int = 0
    watch_s: int = 0
    new_viewers: int = 0


@dataclass(slots=True)
class Changes:
    """The rows a batch writes; every list is sorted by key, so no two writers deadlock."""

    upserts: list[tuple[Key, PlayRecord, int, int]] = field(default_factory=list)
    deletes: list[tuple[Key, int]] = field(default_factory=list)
    clears: list[tuple[str, int]] = field(default_factory=list)
    #: Keys that may be a user's first record of a content, with its time.
    viewers: list[tuple[Key, int]] = field(default_factory=list)
    daily: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    contents: dict[Content, ContentSums] = field(default_factory=dict)
    #: Is any folded save older than the stored record it would have followed?
    needs_unfolding: bool = False

    @property
    def rows(self) -> int:
        """How many these are, if no viewer is known yet."""
        kept = len(self.upserts) + len(self.deletes) + len(self.clears)
        return kept + len(self.viewers) + len(self.daily) + len(self.contents)

    def note_content(self, content: Content, record: PlayRecord, ms: int) -> ContentSums:
        """What is added to *content*, which the newest record names."""
        sums = self.contents.get(content)
        if sums is None:
            sums = self.contents[content] = ContentSums(record, ms)
        elif ms > sums.last_ms:
            sums.last_ms, sums.record = ms, record
        return sums

    def count(self, user: str, sums: ContentSums, day: str, plays: int, watch_s: int) -> None:
        """Add to a user's *day*, and to the *sums* of a content."""
        of_day = self.daily.get((day, user))
        if of_day is None:
            self.daily[day, user] = [plays, watch_s]
        else:
            of_day[0] += plays
            of_day[1] += watch_s
        sums.plays += plays
        sums.watch_s += watch_s


def unresolved_keys(folded: Iterable[FoldedKey]) -> list[Key]:
    """Those keys with a save, which meets whatever MySQL holds."""
    return [key for key, _, state in folded if state.saves]


class Settling:
    """Adds up the *changes* that a fold means, one part of its keys after the other."""

    def __init__(self, fold: PlayFold, day_of: Callable[[int], str]) -> None:
        self.changes = Changes()
        self.changes.clears = sorted(
            (name, user.cleared_ms)
            for name, user in fold.users.items()
            if user.cleared_ms is not None
        )
        self._day_of = day_of

    def settle(self, folded: Iterable[FoldedKey], stored: Mapping[Key, StoredRecord]) -> None:
        """Add what the *folded* keys, the next in order, mean over the *stored* records."""
        changes = self.changes
        for key, content, state in folded:
            prev = stored.get(key)
            if prev is not None and _is_older(state, prev):
                # The newer record stays and its user is known already.
                changes.needs_unfolding |= (
                    state.first is None or state.saves > 1 or not state.present
                )
            else:
                self._settle(key, content, state, prev if state.first else None)

    def _settle(
        self, key: Key, content: Content, state: KeyFold, prev: StoredRecord | None
    ) -> None:
        changes, record = self.changes, state.record
        if record is not None:
            sums = changes.note_content(content, record, state.ms)
            if prev is None:
                changes.viewers.append((key, state.first_ms))
            self._count(key[0], sums, state, prev)
        if state.present and record is not None:
            changes.upserts.append((key, record, _original(record, state, prev), state.ms))
        elif state.deleted_ms is not None:
            changes.deletes.append((key, state.deleted_ms))

    def _count(
        self, user: str, sums: ContentSums, state: KeyFold, prev: StoredRecord | None
    ) -> None:
        if state.first is not None:
            prev_ms = prev.event_ms if prev else 0
            plays, watch_s = count_save(prev, prev_ms, state.first, state.first_ms)
            if plays or watch_s:
                self.changes.count(user, sums, self._day_of(state.first_ms), plays, watch_s)
        for day, (plays, watch_s) in state.days.items():
            self.changes.count(user, sums, day, plays, watch_s)


def _is_older(state: KeyFold, prev: StoredRecord) -> bool:
    """Is what the batch did first to the key older than its stored record?"""
    began_ms = state.absent_ms if state.first is None else state.first_ms
    return began_ms is not None and began_ms < prev.event_ms


def _original(record: PlayRecord, state: KeyFold, prev: StoredRecord | None) -> int:
    total = (state.first or record).total_episodes
    return merge_original_episodes(prev.original_episodes if prev else None, state.original, total)
