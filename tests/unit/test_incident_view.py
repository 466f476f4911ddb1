"""The section of `moonwake status` about incidents: whole numbers, one line for one loss."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console

from ops.incident_view import incident_totals, render_incidents
from shared.incidents import CauseTotal, Harmless, Incident, Incidents

LOSS = Incident(
    id=7,
    stream="plays",
    shard=3,
    incarnation=2,
    cause="master_changed",
    lost=12_345,
    is_exact=True,
    after_id="1795367827280-1",
    before_id="1795367827290-23",
    stamp="bbbbbbbb00000001",
    detected_at=datetime(2026, 11, 22, 21, 4, 33, tzinfo=UTC),
    amended_at=None,
)


def printed(found: Incidents | None, width: int = 100) -> list[str]:
    """The lines on a terminal of *width* columns."""
    shown = render_incidents(found)
    if shown is None:
        return []
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_without_incidents_nothing_is_shown() -> None:
    """Most sites never have one."""
    assert [] == printed(Incidents())


def test_while_mysql_is_away_incidents_are_unknown() -> None:
    """It alone knows them."""
    assert ["incidents: unknown while MySQL does not answer"] == printed(None)


def test_a_loss_is_one_line_in_100_columns_with_everything_about_it() -> None:
    """When, where, why, how much, whether that changed, and between which ids."""
    late = replace(LOSS, id=8, is_exact=False, amended_at=LOSS.detected_at)

    title, heading, first, second = printed(Incidents([LOSS, late]))

    assert "incidents of the last 7 days, in entries" == title
    assert "when (UTC) shard cause lost amended between ids" == " ".join(heading.split())
    ids = "1795367827280-1 1795367827290-23"
    assert f"11-22 21:04 plays:3 master_changed exactly 12,345 {ids}" == " ".join(first.split())
    assert f"11-22 21:04 plays:3 master_changed at least 12,345 yes {ids}" == " ".join(
        second.split()
    )


def test_in_80_columns_no_number_is_cut() -> None:
    """The ids go on in the next line, each of them whole."""
    lines = printed(Incidents([LOSS]), width=80)

    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines)
    for whole in ("exactly 12,345", LOSS.after_id, LOSS.before_id):
        assert whole in text


def test_a_restart_that_nobody_witnessed_is_one_line_for_all_shards() -> None:
    """
    Of each shard 'at least 0' is known; real losses among them stand out.
    """
    shards = [
        replace(
            LOSS, id=shard, shard=shard, lost=0, is_exact=False, stamp=f"cccccccc0000000{shard}"
        )
        for shard in range(8)
    ]
    shards[3] = replace(shards[3], lost=5)

    _, _, first, second = printed(Incidents(shards))

    assert ["7", "shards", "master_changed", "at", "least", "0"] == first.split()[2:]
    assert ["plays:3", "master_changed", "at", "least", "5"] == second.split()[2:7]


def test_the_newest_ten_are_shown_and_the_others_counted() -> None:
    """A night of losses does not push the books off the screen."""
    many = [
        replace(
            LOSS, id=number, lost=number, detected_at=LOSS.detected_at - timedelta(hours=number)
        )
        for number in range(1, 14)
    ]

    lines = printed(Incidents(many))

    assert [f"{number}" for number in range(1, 11)] == [line.split()[5] for line in lines[2:12]]
    assert ["3 older ones: moonwake status --json"] == lines[12:]


@pytest.mark.parametrize(
    ("harmless", "told"),
    [
        (
            Harmless("master_changed", 1, 8),
            "Redis was restarted or failed over once in 7 days, nothing lost",
        ),
        (
            Harmless("master_changed", 3, 24),
            "Redis was restarted or failed over 3 times in 7 days, nothing lost",
        ),
        (
            Harmless("recreated", 1, 1),
            "1 stream began anew in 7 days, nothing lost: all of it was in MySQL",
        ),
        (
            Harmless("mysql_restored", 1, 8),
            "MySQL was behind in 8 streams in 7 days, nothing lost: Redis had it",
        ),
        (
            Harmless("trimmed", 1, 2),
            "2 streams were trimmed by a stranger in 7 days, nothing lost",
        ),
    ],
)
def test_what_lost_nothing_is_one_line_without_a_table(harmless: Harmless, told: str) -> None:
    """It is no loss, and its frequency is worth knowing."""
    assert [told] == printed(Incidents(harmless=[harmless]))


def test_totals_are_sums_over_streams() -> None:
    """Of all time, by cause; unknown where MySQL is."""
    totals = [
        CauseTotal("plays", "trimmed", 2, 30, 1, 0, 0, 0),
        CauseTotal("usage", "trimmed", 3, 4, 0, 0, 0, 0),
        CauseTotal("usage", "recreated", 1, 5, 1, 1, 5, 1),
    ]

    assert incident_totals(None) is None
    assert {
        "incidents": 6,
        "lost": 39,
        "inexact": 2,
        "by_cause": {
            "recreated": {"incidents": 1, "lost": 5, "inexact": 1},
            "trimmed": {"incidents": 5, "lost": 34, "inexact": 1},
        },
    } == incident_totals(Incidents(totals=totals))
