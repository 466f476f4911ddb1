"""
Fold a batch of play events to one state per key, reading nothing from MySQL.

So the next batch can be folded while this one commits: a stored record read
before the previous batch committed would count twice (protocol 13). What needs
the stored record stays open in `KeyFold.first` until the transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.events import TIME_MS_MAX, Clear, Delete, Event, PlayRecord, Save
from shared.records import merge_original_episodes

#: A pause this long makes the next event a new play (architecture section 5).
PLAY_GAP_MS = 1_800_000
#: Nobody watches faster than this: seconds of video per second between two events.
SPEED_MAX = 3

#: (source, content id)
Content = tuple[str, str]
#: (username, source, content id)
Key = tuple[str, str, str]


def count_save(
    prev: PlayRecord | StoredRecord | None, prev_ms: int, record: PlayRecord, ms: int
) -> tuple[int, int]:
    """(plays, watched seconds) that a save at *ms* over *prev* counts (architecture section 5)."""
    gap_ms = ms - prev_ms
    if prev is None or record.index != prev.index or gap_ms > PLAY_GAP_MS:
        return 1, 0
    gain_s = record.play_time - prev.play_time
    if gain_s <= 0:
        return 0, 0
    return 0, min(gain_s, SPEED_MAX * max(gap_ms, 0) // 1000)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What a save needs to know of the record MySQL holds."""

    index: int
    play_time: int
    event_ms: int
    original_episodes: int


@dataclass(slots=True)
class KeyFold:
    """Everything a batch did to one user's one content."""

    #: The save that follows the stored record, whatever that is.
    first: PlayRecord | None = None
    #: Time of the batch's first save of the key.
    first_ms: int = 0
    #: The last save and its time, also when a delete came after it.
    record: PlayRecord | None = None
    ms: int = 0
    saves: int = 0
    #: Is *record* the state at the end of the batch?
    present: bool = False
    #: Since when it is known that nothing is stored before the next save.
    absent_ms: int | None = None
    deleted_ms: int | None = None
    #: `original_episodes`, None while it hangs on the stored record.
    original: int | None = None
    #: Of everything after *first*: day -> [plays, watched seconds].
    days: dict[str, list[int]] = field(default_factory=dict)
    #: Bytes of the last entry, which is what the fold keeps of them.
    size: int = 0

    def count(self, day: str, plays: int, watch_s: int) -> None:
        sums = self.days.get(day)
        if sums is None:
            self.days[day] = [plays, watch_s]
        else:
            sums[0] += plays
            sums[1] += watch_s


@dataclass(slots=True)
class UserFold:
    """One user's part of a batch."""

    keys: dict[Content, KeyFold] = field(default_factory=dict)
    #: Time of the last clear in the batch.
    cleared_ms: int | None = None
    #: Did an entry come from another producer, which left no overlay?
    foreign: bool = False


class PlayFold:
    """Play events of one batch, folded in stream order."""

    def __init__(self, day_of: Callable[[int], str]) -> None:
        self._day_of = day_of
        self.users: dict[str, UserFold] = {}
        self.rows = 0
        self.bytes = 0
        self._in_order: list[tuple[str, Content, KeyFold]] = []

    def add(self, event: Event, ms: int, size: int, *, foreign: bool) -> None:
        """Fold *event* in; *ms* is its entry's time, *size* its length in bytes."""
        user = self.users.get(event.user)
        if user is None:
            user = self.users[event.user] = UserFold()
        if foreign:
            user.foreign = True
        if type(event) is Save:
            self._save(user, event, ms, size)
        elif type(event) is Delete:
            self._delete(user, event, ms)
        else:
            self._clear(user, ms)

    def touches(self, event: Event) -> bool:
        """Does the batch hold anything that *event* would be folded with?"""
        user = self.users.get(event.user)
        if user is None:
            return False
        if isinstance(event, Clear):
            return True
        return user.cleared_ms is not None or (event.source, event.id) in user.keys

    def in_order(self) -> list[tuple[str, Content, KeyFold]]:
        """(username, content, state) of every key, sorted as the tables' keys are."""
        if not self._in_order:
            self._in_order = [
                (name, content, keys[content])
                for name in sorted(self.users)
                for keys in (self.users[name].keys,)
                for content in sorted(keys)
            ]
        return self._in_order

    def _new_key(self, user: UserFold, content: Content) -> KeyFold:
        fold = user.keys[content] = KeyFold(absent_ms=user.cleared_ms)
        self.rows += 1
        self._in_order = []
        return fold

    def _save(self, user: UserFold, event: Save, ms: int, size: int) -> None:
        content = (event.source, event.id)
        fold = user.keys.get(content) or self._new_key(user, content)
        record, given = event.record, event.record.original_episodes
        if fold.present or fold.absent_ms is not None:
            prev = fold.record if fold.present else None
            plays, watch_s = count_save(prev, fold.ms, record, ms)
            if plays or watch_s:
                fold.count(self._day_of(ms), plays, watch_s)
            if given is not None or not fold.present:
                fold.original = merge_original_episodes(None, given, record.total_episodes)
        else:
            fold.first = record
            fold.original = given
        if not fold.saves:
            fold.first_ms = ms
        fold.record, fold.ms, fold.present = record, ms, True
        fold.saves += 1
        self.bytes += size - fold.size
        fold.size = size

    def _delete(self, user: UserFold, event: Delete, ms: int) -> None:
        content = (event.source, event.id)
        fold = user.keys.get(content) or self._new_key(user, content)
        fold.present, fold.deleted_ms = False, ms
        if fold.absent_ms is None:
            fold.absent_ms = ms

    def _clear(self, user: UserFold, ms: int) -> None:
        if user.cleared_ms is None:
            self.rows += 1
        user.cleared_ms = ms
        for fold in user.keys.values():
            fold.present = False
            if fold.absent_ms is None:
                fold.absent_ms = ms


# --- settling, once the stored records are known --------------------------------


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

    def note_content(self, content: Content, record: PlayRecord, ms: int) -> None:
        """The newest record of a content names it."""
        totals = self.contents.get(content)
        if totals is None:
            self.contents[content] = ContentSums(record, ms)
        elif ms > totals.last_ms:
            totals.last_ms, totals.record = ms, record

    def count(self, user: str, content: Content, day: str, plays: int, watch_s: int) -> None:
        sums = self.daily.get((day, user))
        if sums is None:
            self.daily[day, user] = [plays, watch_s]
        else:
            sums[0] += plays
            sums[1] += watch_s
        totals = self.contents[content]
        totals.plays += plays
        totals.watch_s += watch_s


def unresolved_keys(fold: PlayFold) -> list[Key]:
    """The keys with a save, which meets whatever MySQL holds; sorted."""
    return [(name, *content) for name, content, state in fold.in_order() if state.saves]


def settle(
    fold: PlayFold, stored: dict[Key, StoredRecord], day_of: Callable[[int], str]
) -> Changes:
    """The rows that *fold* means over the *stored* records."""
    changes = Changes()
    changes.clears = sorted(
        (name, user.cleared_ms) for name, user in fold.users.items() if user.cleared_ms is not None
    )
    for name, content, state in fold.in_order():
        key = (name, *content)
        prev = stored.get(key)
        if prev is not None and _is_older(state, prev):
            # The newer record stays and its user is known already.
            changes.needs_unfolding |= state.first is None or state.saves > 1 or not state.present
            continue
        _settle_key(changes, key, state, prev if state.first else None, day_of)
    return changes


def _is_older(state: KeyFold, prev: StoredRecord) -> bool:
    """Is what the batch did first to the key older than its stored record?"""
    began_ms = state.absent_ms if state.first is None else state.first_ms
    return began_ms is not None and began_ms < prev.event_ms


def _settle_key(
    changes: Changes,
    key: Key,
    state: KeyFold,
    prev: StoredRecord | None,
    day_of: Callable[[int], str],
) -> None:
    user, content = key[0], key[1:]
    if state.record is not None:
        changes.note_content(content, state.record, state.ms)
        if prev is None:
            changes.viewers.append((key, state.first_ms))
    if state.first is not None:
        prev_ms = prev.event_ms if prev else 0
        plays, watch_s = count_save(prev, prev_ms, state.first, state.first_ms)
        if plays or watch_s:
            changes.count(user, content, day_of(state.first_ms), plays, watch_s)
    for day, (plays, watch_s) in state.days.items():
        changes.count(user, content, day, plays, watch_s)
    if state.deleted_ms is not None and not state.present:
        changes.deletes.append((key, state.deleted_ms))
    elif state.present and state.record is not None:
        changes.upserts.append((key, state.record, _original(state, prev), state.ms))


def _original(state: KeyFold, prev: StoredRecord | None) -> int:
    first = state.first or state.record
    total = first.total_episodes if first else 0
    return merge_original_episodes(prev.original_episodes if prev else None, state.original, total)


# --- days ---------------------------------------------------------------------

_QUARTER_MS = 900_000
_QUARTER = timedelta(milliseconds=_QUARTER_MS)
#: An id may lie anywhere; from here on its day is the last that every zone's calendar has.
_LAST_QUARTER = TIME_MS_MAX // _QUARTER_MS - 2 * 96


def days_in(time_zone: str) -> Callable[[int], str]:
    """A function from Unix milliseconds to the ISO date in *time_zone*.

    Every zone's offset is a whole number of quarter hours, so it is worked out
    once per quarter hour. No time is too late for it.
    """
    zone = ZoneInfo(time_zone)
    known: dict[int, str] = {}

    def day_of(ms: int) -> str:
        quarter = min(ms // _QUARTER_MS, _LAST_QUARTER)
        day = known.get(quarter)
        if day is None:
            if len(known) > 10_000:
                known.clear()
            moment = datetime(1970, 1, 1, tzinfo=UTC) + quarter * timedelta(
                milliseconds=_QUARTER_MS
            )
            day = known[quarter] = moment.astimezone(zone).date().isoformat()
        return day

    return day_of
