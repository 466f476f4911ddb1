"""The checker itself: what it must find wrong, and what it must not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shared.keys import Keys
from shared.streams import EntryId
from tests.faults.histories import History, Outcome, Write
from tests.faults.lives import Life
from tests.faults.losses import Losses, applied_in_order, doubled, losses_of
from tests.faults.orders import out_of_order
from tests.faults.plan import plan
from tests.faults.rewinds import Forgotten, Incident, Rewind
from tests.faults.tap import Entry, Tap, Tape

# --- losses ------------------------------------------------------------------------


def entries(*numbers: int, foreign: bool = False) -> list[Entry]:
    """Entries n1, n2, ... whose ids are their numbers."""
    return [Entry(EntryId(number, 0), f"n{number}", b"", foreign) for number in numbers]


def incident(
    lost: int, after: int, *, cause: str = "recreated", exact: bool = True, position: int = 0
) -> Incident:
    ids = EntryId(after, 0), EntryId(99, 0)
    return Incident(1, 0, 1, cause, lost, exact, *ids, position=EntryId(position, 0))


def judged(
    before: Sequence[int | Entry],
    after: Sequence[int | Entry],
    told: Incident | None,
    acknowledged: set[str],
    *,
    steady: bool = False,
    forgotten: Sequence[Forgotten] = (),
) -> Losses:
    """The judgement on a shard that held *before*, then *after*, of which *told* speaks.

    *steady*: every front saw it.
    """
    tap = Tap(Keys("t:"), 1, lambda: pytest.fail("nothing is read here"))
    tap.tapes[0] = [Tape(_entries(before)), Tape(_entries(after))]
    rewind = Rewind([0])
    rewind.begin(tap)
    if told is not None:
        rewind.incidents[0].add(told.id)
    incidents = [told] if told else []
    return losses_of([rewind], incidents, acknowledged, lambda *_: steady, forgotten)


def _entries(given: Sequence[int | Entry]) -> list[Entry]:
    return [each if isinstance(each, Entry) else entries(each)[0] for each in given]


def test_a_loss_that_is_counted_right_is_no_difference() -> None:
    """Behind the checkpoint nothing was applied: exactly those are lost."""
    found = judged([1, 2, 3, 4], [5], incident(2, after=2), {"n3", "n4"})

    assert {"n3", "n4"} == found.lost
    assert [] == found.differences


@pytest.mark.parametrize(("count", "exact"), [(1, True), (3, True), (3, False)])
def test_a_wrong_count_is_a_difference(count: int, *, exact: bool) -> None:
    """Two acknowledged ones are lost: not one, and neither exactly nor at least three."""
    found = judged([1, 2, 3, 4], [5], incident(count, after=2, exact=exact), {"n3", "n4"})

    assert 1 == len(found.differences)


def test_what_nobody_was_told_of_may_be_missing_from_an_exact_count() -> None:
    """Of two lost entries one was acknowledged: exactly one, or exactly two."""
    for count in (1, 2):
        assert [] == judged([1, 2, 3, 4], [5], incident(count, after=2), {"n4"}).differences


def test_a_loss_that_no_incident_tells_of_is_not_forgiven() -> None:
    """Whatever is gone and not counted must be in MySQL: the oracle is told of it."""
    found = judged([1, 2, 3], [5], None, {"n3"})
    applied = applied_in_order([Tape(entries(1, 2, 3)), Tape(entries(5))], found.lost)

    assert ["n1", "n2", "n3", "n5"] == [entry.identity for entry in applied]


def test_an_incident_that_counts_a_loss_where_nothing_is_gone_is_a_difference() -> None:
    """Neither with a rewind nor without one."""
    assert 1 == len(judged([1, 2], [1, 2, 3], incident(1, after=1), set()).differences)
    assert 1 == len(losses_of([], [incident(1, after=1)], set()).differences)


def test_of_what_a_stranger_took_out_the_first_may_have_been_read_before() -> None:
    """A count names the last of them; the first are expected in MySQL."""
    found = judged([1, 2, 3, 4], [4], incident(2, after=0, cause="trimmed"), {"n1", "n2", "n3"})

    assert {"n2", "n3"} == found.lost
    assert [] == found.differences


@pytest.mark.parametrize(
    ("count", "cause", "differences"),
    [(4, "mysql_restored", 0), (4, "recreated", 0), (5, "mysql_restored", 1), (4, "trimmed", 1)],
)
def test_only_who_finds_a_restored_database_counts_again_what_it_forgot(
    count: int, cause: str, differences: int
) -> None:
    """Two are gone, and the count of two others was taken away with the old database."""
    told = replace(incident(count, after=1, cause=cause, exact=False), at_ms=7)
    forgotten = [Forgotten(0, 2, 1, 5), Forgotten(0, 9, 1, 8), Forgotten(1, 9, 1, 5)]

    losses = judged((1, 2, 3), (4,), told, {"n1", "n2", "n3"}, forgotten=forgotten)

    assert {"n2", "n3"} == losses.lost
    assert differences == len(losses.differences)


def test_what_a_backup_took_away_need_not_be_exact() -> None:
    """The testimonies of the fronts were taken away too."""
    told = incident(1, after=1, exact=False)

    assert judged((1, 2, 3), (4,), told, {"n2", "n3"}, steady=True).differences
    later, older = Forgotten(0, 1, 0, 9), Forgotten(0, 1, 5, 9)
    for forgotten, differences in ((later, 0), (older, 1)):
        losses = judged((1, 2, 3), (4,), told, {"n2", "n3"}, steady=True, forgotten=[forgotten])
        assert differences == len(losses.differences)


def test_what_a_backup_forgot_is_counted_again_once() -> None:
    """Another restored database that forgot nothing has nothing to count again."""
    first = replace(incident(2, after=9, cause="mysql_restored"), id=1, at_ms=6)
    second = replace(first, id=2, at_ms=7)

    losses = losses_of([], [first, second], set(), forgotten=[Forgotten(0, 2, 1, 5)])

    assert 1 == len(losses.differences)
    assert "id=2" in losses.differences[0]


@pytest.mark.parametrize(("count", "exact"), [(0, False), (1, False), (2, False), (1, True)])
def test_what_every_front_saw_is_counted_exactly(count: int, *, exact: bool) -> None:
    """Where no other producer writes, nothing less than 'exactly 2' will do."""
    told = incident(count, after=2, exact=exact)

    assert 1 == len(judged([1, 2, 3, 4], [5], told, {"n3", "n4"}, steady=True).differences)


def test_a_front_that_ended_may_leave_any_lower_count() -> None:
    """Nobody knows what it had seen."""
    for count in range(3):
        told = incident(count, after=2, exact=False)
        assert [] == judged([1, 2, 3, 4], [5], told, {"n3", "n4"}).differences


@pytest.mark.parametrize(("count", "differences"), [(0, 1), (1, 0), (2, 0), (3, 1)])
def test_the_first_of_other_producers_may_hide_as_many_losses(count: int, differences: int) -> None:
    """They carry no stamp: each may have been there before, for all that anybody knows."""
    told = incident(count, after=2, exact=False)
    after: list[int | Entry] = [*entries(3, foreign=True), 5, *entries(6, foreign=True)]
    before: list[int | Entry] = [1, 2, Entry(EntryId(3, 0), "m3", b""), 4]

    found = judged(before, after, told, {"m3", "n4"}, steady=True)

    assert differences == len(found.differences)


def test_only_an_entry_of_another_producer_may_be_passed_over() -> None:
    """Its id is below the position that the old stream had reached; a front's has a stamp."""
    told = incident(0, after=4, position=3)

    assert {"n2"} == judged([4], entries(2, foreign=True), told, set()).lost
    assert set() == judged([4], entries(2), told, set()).lost
    assert set() == judged([4], entries(5, foreign=True), told, set()).lost


def test_an_entry_that_two_masters_hold_is_applied_once_and_in_order() -> None:
    """A replica has the beginning of the stream, and goes on by itself."""
    tapes = [Tape(entries(1, 2, 3)), Tape(entries(1, 2, 4))]

    assert ["n1", "n2", "n4"] == [e.identity for e in applied_in_order(tapes, {"n3"})]
    assert [] == doubled(tapes)


def test_an_event_that_was_added_twice_is_found() -> None:
    """Under another id, in the same stream or in the next."""
    again = Entry(EntryId(9, 0), "n1", b"")

    assert ["n1"] == doubled([Tape([*entries(1, 2), again])])
    assert ["n1"] == doubled([Tape(entries(1, 2)), Tape([again])])


# --- reads -------------------------------------------------------------------------


def write(
    number: int, outcome: Outcome, sent_s: float, answered_s: float, key: str | None = "s+1"
) -> Write:
    return Write(f"n{number}", key, f"n{number}" if key else None, sent_s, 0, outcome, answered_s)


def wrong(writes: list[Write], shown: str | None, began_s: float, ended_s: float) -> bool:
    """Whether a read that showed *shown* is found wrong."""
    history = History("ann", 0, born=0, writes=writes)
    return bool(history.judge({"s+1": shown} if shown else {}, 0, began_s, ended_s))


def test_a_read_must_show_the_last_acknowledged_write() -> None:
    """Not the one before it, and not nothing."""
    writes = [write(1, Outcome.ACKNOWLEDGED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 4)]

    assert not wrong(writes, "n2", 5, 6)
    assert wrong(writes, "n1", 5, 6)
    assert wrong(writes, None, 5, 6)


def test_a_write_beside_the_read_may_be_seen_or_not() -> None:
    """It was sent before the read ended, and answered after it began."""
    writes = [write(1, Outcome.ACKNOWLEDGED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 6)]

    assert not wrong(writes, "n1", 4, 5)
    assert not wrong(writes, "n2", 4, 5)
    assert wrong(writes, None, 4, 5)


def test_a_refused_write_may_be_seen_only_until_a_later_one_is_acknowledged() -> None:
    """A 503 says that it took effect by then, or never will."""
    writes = [write(1, Outcome.REFUSED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 4)]

    assert not wrong(writes[:1], "n1", 3, 4)
    assert not wrong(writes[:1], None, 3, 4)
    assert wrong(writes, "n1", 5, 6)


def test_a_write_without_an_answer_may_be_seen_for_ever() -> None:
    """The front that has it may be frozen, and go on much later."""
    writes = [write(1, Outcome.UNANSWERED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 4)]

    assert not wrong(writes, "n1", 50, 60)
    assert not wrong(writes, "n2", 50, 60)
    assert wrong(writes, None, 50, 60)


def test_a_clear_takes_every_record_away() -> None:
    """Also those that were saved before it."""
    writes = [write(1, Outcome.ACKNOWLEDGED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 4, None)]

    assert wrong(writes, "n1", 5, 6)
    assert not wrong(writes, None, 5, 6)


def test_nothing_is_judged_that_was_acknowledged_before_redis_lost_data() -> None:
    """What a later epoch acknowledged is judged again."""
    history = History("ann", 0, born=0, writes=[write(1, Outcome.ACKNOWLEDGED, 1, 2)])
    assert [] == history.judge({}, 2, 5, 6)

    history.writes.append(Write("n2", "s+1", "n2", 3, 2, Outcome.ACKNOWLEDGED, 4))
    assert 1 == len(history.judge({"s+1": "n1"}, 2, 5, 6))


# --- order, load, plan ---------------------------------------------------------------


def test_a_refused_write_behind_a_later_one_is_out_of_order() -> None:
    """Its answer said that it could not come any more."""
    writes = [write(1, Outcome.REFUSED, 1, 2), write(2, Outcome.ACKNOWLEDGED, 3, 4)]
    history = History("ann", 0, born=0, writes=writes)

    assert [] == out_of_order([history], [entries(1, 2)])
    assert 1 == len(out_of_order([history], [entries(2, 1)]))


def test_every_write_of_a_life_can_be_told_from_every_other() -> None:
    """Or a loss and a double could stand for each other."""
    lives = [Life(f"u{number}", random.Random(number)) for number in range(50)]
    identities = [step.identity for life in lives for step in life.steps()]

    assert len(identities) == len(set(identities))


def test_the_same_seed_plans_the_same_faults() -> None:
    """Every kind comes about as often as every other."""
    kinds = ["a", "b", "c"]

    assert plan(1, 300, kinds, 5) == plan(1, 300, kinds, 5)
    assert plan(1, 300, kinds, 5) != plan(2, 300, kinds, 5)
    counts = [sum(each.kind == kind for each in plan(1, 300, kinds, 5)) for kind in kinds]
    assert max(counts) - min(counts) <= 1
