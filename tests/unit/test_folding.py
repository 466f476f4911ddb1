"""Folding: many events of one key mean what they mean one by one."""

from __future__ import annotations

from datetime import date
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import TIME_MS_MAX, Event, PlayRecord, decode
from tests.event_strategies import timed_events
from tests.oracle import Oracle
from tests.plays import save
from worker.sinks.folding import Key, PlayFold, count_save, days_in
from worker.sinks.settling import Changes, Settling, StoredRecord, unresolved_keys

day_of = days_in("Asia/Shanghai")


class Tables:
    """The tables a batch is written to, in memory."""

    def __init__(self) -> None:
        self.records: dict[Key, tuple[PlayRecord, int, int]] = {}
        self.viewers: set[Key] = set()
        self.contents: dict[tuple[str, ...], list[int]] = {}
        self.daily: dict[tuple[str, str], list[int]] = {}

    def write(self, fold: PlayFold) -> bool:
        """Apply *fold*; False if only entry by entry can be exact."""
        stored = {
            key: StoredRecord(r.index, r.play_time, ms, original)
            for key in unresolved_keys(fold.in_order())
            if key in self.records
            for r, original, ms in [self.records[key]]
        }
        settling = Settling(fold, day_of)
        settling.settle(fold.in_order(), stored)
        changes = settling.changes
        if changes.needs_unfolding:
            return False
        self._write(changes)
        return True

    def _write(self, changes: Changes) -> None:
        for user, ms in changes.clears:
            for key in [key for key in self.records if key[0] == user]:
                self._remove(key, ms)
        for key, ms in changes.deletes:
            self._remove(key, ms)
        for key, record, original, ms in changes.upserts:
            self.records[key] = (record, original, ms)
        for key in {key for key, _ in changes.viewers} - self.viewers:
            self.viewers.add(key)
            changes.contents[key[1:]].new_viewers += 1
        self._count(changes)

    def _remove(self, key: Key, ms: int) -> None:
        if key in self.records and self.records[key][2] <= ms:
            del self.records[key]

    def _count(self, changes: Changes) -> None:
        for content, sums in changes.contents.items():
            totals = self.contents.setdefault(content, [0, 0, 0])
            for i, value in enumerate((sums.plays, sums.watch_s, sums.new_viewers)):
                totals[i] += value
        for day_user, (plays, watch_s) in changes.daily.items():
            day = self.daily.setdefault(day_user, [0, 0])
            day[0] += plays
            day[1] += watch_s


def assert_equal(oracle: Oracle, tables: Tables) -> None:
    assert {
        key: (fields["index"], fields["play_time"], fields["total_episodes"], original, ms)
        for key, (fields, original, ms) in oracle.records.items()
    } == {
        key: (r.index, r.play_time, r.total_episodes, original, ms)
        for key, (r, original, ms) in tables.records.items()
    }
    assert oracle.viewers == tables.viewers
    assert oracle.contents == tables.contents
    assert oracle.daily == tables.daily


def decoded(event: dict[str, Any]) -> Event:
    return decode(orjson.dumps(event))


@settings(max_examples=1500)
@given(timed_events(), st.lists(st.integers(1, 12), min_size=1, max_size=25))
def test_folded_batches_count_like_single_events(
    timed: list[tuple[int, dict[str, Any]]], sizes: list[int]
) -> None:
    """
    However a sequence is cut into batches: the same records, counters, users and days.
    """
    oracle, tables = Oracle(), Tables()
    fold, left, cuts = PlayFold(day_of), sizes[0], sizes[1:]
    for ms, event in timed:
        oracle.apply(event, ms)
        fold.add(decoded(event), ms, 100, foreign=False)
        left -= 1
        if left == 0:
            assert tables.write(fold)
            fold = PlayFold(day_of)
            left = cuts.pop(0) if cuts else 5
    assert tables.write(fold)

    assert_equal(oracle, tables)


@settings(max_examples=500)
@given(timed_events(longest=8), timed_events(longest=8))
def test_replayed_older_entries_count_like_single_events(
    newer: list[tuple[int, dict[str, Any]]], older: list[tuple[int, dict[str, Any]]]
) -> None:
    """
    Entries older than what is stored never replace it; where folding cannot tell, it says so.
    """
    oracle, tables = Oracle(), Tables()
    shift = newer[len(newer) // 2][0] - older[0][0]
    replayed = [(ms + shift, event) for ms, event in older]
    for ms, event in [*newer, *replayed]:
        oracle.apply(event, ms)
    for batch in (newer, replayed):
        fold = PlayFold(day_of)
        for ms, event in batch:
            fold.add(decoded(event), ms, 100, foreign=False)
        if not tables.write(fold):
            for ms, event in batch:
                single = PlayFold(day_of)
                single.add(decoded(event), ms, 100, foreign=False)
                assert tables.write(single)

    assert_equal(oracle, tables)


def test_watch_time_is_bounded_by_time_passed() -> None:
    """
    A jump of an hour within ten seconds counts thirty seconds; going back counts none.
    """
    before = decoded(save("ann", play_time=100))
    ahead = decoded(save("ann", play_time=3700))

    assert (0, 30) == count_save(before.record, 0, ahead.record, 10_000)  # type: ignore[union-attr]
    assert (0, 0) == count_save(ahead.record, 0, before.record, 10_000)  # type: ignore[union-attr]
    assert (0, 2) == count_save(before.record, 0, ahead.record, 999)  # type: ignore[union-attr]


def test_a_fold_grows_with_keys_not_with_events() -> None:
    """
    A thousand events of one key are one row and the bytes of one entry.
    """
    fold = PlayFold(day_of)
    for ms in range(1000):
        fold.add(decoded(save("ann")), ms, 300, foreign=False)

    assert (1, 300) == (fold.rows, fold.bytes)


def test_days_change_at_midnight_of_the_zone() -> None:
    """
    The day of a moment is that of STATS_TIMEZONE, to the millisecond.
    """
    midnight_ms = 1_699_977_600_000  # 2023-11-15 00:00 in Asia/Shanghai

    assert ["2023-11-14", "2023-11-15"] == [day_of(midnight_ms - 1), day_of(midnight_ms)]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Asia/Shanghai", "Etc/GMT+12"])
@pytest.mark.parametrize("ms", [TIME_MS_MAX, TIME_MS_MAX + 1, 2**64 - 1])
def test_no_id_is_too_late_for_a_day(zone: str, ms: int) -> None:
    """Whatever another producer chooses, a day of the calendar comes out."""
    assert date(9999, 12, 29) <= date.fromisoformat(days_in(zone)(ms))
