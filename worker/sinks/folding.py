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
from typing import Protocol
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


class Position(Protocol):
    """What a save is compared with: a record of this batch or one that is stored."""

    @property
    def index(self) -> int: ...

    @property
    def play_time(self) -> int: ...


def count_save(prev: Position | None, prev_ms: int, record: PlayRecord, ms: int) -> tuple[int, int]:
    """(plays, watched seconds) that a save at *ms* over *prev* counts (architecture section 5)."""
    gap_ms = ms - prev_ms
    if prev is None or record.index != prev.index or gap_ms > PLAY_GAP_MS:
        return 1, 0
    gain_s = record.play_time - prev.play_time
    if gain_s <= 0:
        return 0, 0
    return 0, min(gain_s, SPEED_MAX * max(gap_ms, 0) // 1000)


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


FoldedKey = tuple[Key, Content, KeyFold]


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
        self._in_order: list[FoldedKey] = []

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

    def finish(self) -> None:
        """No event follows: sort what there is."""
        self.in_order()

    def in_order(self) -> list[FoldedKey]:
        """Every key and its state, sorted as the tables are."""
        if not self._in_order:
            self._in_order = [
                ((name, content[0], content[1]), content, keys[content])
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
