"""
The counting rules, one event at a time and as plainly as they can be said.

Written from architecture section 5 and facts section 6, not from the sink: tests
compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

Key = tuple[str, str, str]


@dataclass
class Oracle:
    """What MySQL must hold after the events given to `apply`, in order."""

    time_zone: str = "Asia/Shanghai"
    #: key -> (record, original_episodes, event ms)
    records: dict[Key, tuple[dict[str, Any], int, int]] = field(default_factory=dict)
    viewers: set[Key] = field(default_factory=set)
    #: (source, id) -> [plays, watched seconds, unique users]
    contents: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    #: (day, user) -> [plays, watched seconds]
    daily: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    applied: int = 0

    def apply(self, event: dict[str, Any], ms: int) -> None:
        self.applied += 1
        user = event["user"]
        if event["op"] == "clear":
            for key in [key for key in self.records if key[0] == user]:
                self._remove(key, ms)
            return
        key = (user, event["source"], event["id"])
        if event["op"] == "delete":
            self._remove(key, ms)
            return
        self._save(key, event["record"], ms)

    def _remove(self, key: Key, ms: int) -> None:
        """An older entry never takes a newer record away."""
        if key in self.records and self.records[key][2] <= ms:
            del self.records[key]

    def _save(self, key: Key, record: dict[str, Any], ms: int) -> None:
        content = self.contents.setdefault(key[1:], [0, 0, 0])
        if key not in self.viewers:
            self.viewers.add(key)
            content[2] += 1
        stored = self.records.get(key)
        if stored and ms < stored[2]:
            return
        plays, watched_s = self._counts(stored, record, ms)
        content[0] += plays
        content[1] += watched_s
        if plays or watched_s:
            sums = self.daily.setdefault((self._day(ms), key[0]), [0, 0])
            sums[0] += plays
            sums[1] += watched_s
        given = record.get("original_episodes")
        if given is None:
            given = stored[1] if stored else record.get("total_episodes", 0)
        self.records[key] = (record, given, ms)

    def _counts(
        self, stored: tuple[dict[str, Any], int, int] | None, record: dict[str, Any], ms: int
    ) -> tuple[int, int]:
        if stored is None:
            return 1, 0
        before, _, before_ms = stored
        if record["index"] != before["index"] or ms - before_ms > 1_800_000:
            return 1, 0
        gain_s = max(record.get("play_time", 0) - before.get("play_time", 0), 0)
        return 0, int(min(gain_s, 3 * max(ms - before_ms, 0) / 1000))

    def _day(self, ms: int) -> str:
        moment = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(self.time_zone))
        return moment.date().isoformat()
