"""Which records of an older store are written over what is stored here."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from shared.events import PlayRecord
from worker.history import Outcome, PastRecord, choose
from worker.sinks.folding import Key

NOW = 1_000
KEY = ("ann", "s", "1")


def past(save_ms: int | None, key: Key = KEY, play_time: int = 0) -> PastRecord:
    record = PlayRecord(title="T", source_name="S", index=1, save_time=save_ms, play_time=play_time)
    return PastRecord(key, record, "")


@pytest.mark.parametrize(
    ("save_ms", "stored_ms", "outcome"),
    [
        (500, None, (1, 0, 0)),
        (500, 499, (1, 0, 0)),
        (500, 500, (0, 1, 0)),
        (500, 501, (0, 1, 0)),
        (NOW, 999, (1, 0, 0)),
        (NOW + 1, None, (1, 0, 0)),
        (NOW + 1, 10, (0, 1, 0)),
        (None, None, (1, 0, 0)),
        (None, 0, (0, 1, 0)),
    ],
)
def test_only_a_record_known_to_be_newer_replaces_one(
    save_ms: int | None, stored_ms: int | None, outcome: tuple[int, int, int]
) -> None:
    """A time ahead of ours, or none at all, proves nothing."""
    stored = {} if stored_ms is None else {KEY: stored_ms}

    _, found = choose([past(save_ms)], stored, set(), NOW)

    assert outcome == astuple(found)[:3]


def test_what_a_user_deleted_here_does_not_come_back() -> None:
    """Another content of the same user does."""
    chosen, outcome = choose([past(500), past(500, ("ann", "s", "2"))], {}, {KEY}, NOW)

    assert [("ann", "s", "2")] == [each.key for each in chosen]
    assert Outcome(written=1, deleted=1) == outcome


def test_of_two_records_of_one_key_the_newest_is_written() -> None:
    """Both layouts may hold the same record; one from the future does not win."""
    given = [past(500), past(700, play_time=7), past(NOW + 9), past(600)]

    chosen, outcome = choose(given, {}, set(), NOW)

    assert [7] == [each.record.play_time for each in chosen]
    assert Outcome(written=1, kept=3) == outcome


def test_chosen_records_are_sorted_by_key() -> None:
    """So that no two writers lock rows in different orders."""
    keys = [("b", "s", "1"), ("a", "s", "2"), ("a", "s", "10"), ("a", "r", "9")]

    chosen, _ = choose([past(5, key) for key in keys], {}, set(), NOW)

    assert sorted(keys) == [each.key for each in chosen]
