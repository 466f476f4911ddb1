"""The table of `moonwake status`: readable in 100 columns, whatever the figures."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from ops.overview import Overview, Shard
from ops.status_view import document, render
from ops.workers import Worker
from shared.incidents import Incidents
from shared.published import Checkpoint
from shared.status import ShardStatus, Work
from shared.streams import EntryId, StreamInfo

NOW_MS = 1_795_367_827_280
WORKER = Worker(
    id="0123456789ab",
    host="playback-worker-17",
    pid=4_194_303,
    started_ms=NOW_MS - 86_400_000,
    silent_ms=120,
    shards=("plays:0",),
)


def shard(
    number: int, lag: int = 0, *, added: int = 10, stopped: str | None = None, lost: int = 0
) -> Shard:
    """A shard whose books balance; drained by WORKER while it lags."""
    checkpoint = Checkpoint(
        batch_no=1_234_567,
        last=EntryId(NOW_MS, 1_234),
        applied=added - lag - lost,
        lost=lost,
    )
    return Shard(
        stream="plays",
        status=ShardStatus(
            shard=number,
            now_ms=NOW_MS,
            info=StreamInfo(added=added, length=lag, last=EntryId(NOW_MS, 0)),
            published=checkpoint,
            lag=lag,
            lag_s=lag / 10,
            pending=lag,
            closed=False,
            lease="0" * 32 if lag else None,
            work=Work(),
        ),
        pending=lag,
        committed=checkpoint,
        stopped=stopped,
        worker=WORKER if lag else None,
        rate=123_456.7,
    )


def overview(*shards: Shard) -> Overview:
    return Overview(NOW_MS, shards, [WORKER], "", Incidents())


def printed(view: Overview, *, every: bool = False) -> list[str]:
    """The lines on a terminal of 100 columns."""
    console = Console(file=StringIO(), width=100, force_terminal=False)
    console.print(render(view, every=every))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_large_figures_fit_100_columns_and_are_not_cut() -> None:
    """At 3 a.m. a number with its end missing is worse than none."""
    view = overview(*(shard(number, 249_999, added=999_999_999) for number in range(8)))

    lines = printed(view)

    text = "\n".join(lines)
    assert all(len(line.rstrip()) <= 100 for line in lines)
    for whole in ("249,999", "999,999,999", "24,999.9", f"{NOW_MS}-1234", "1,234,567", "123,457"):
        assert text.count(whole) >= 8
    assert 8 == sum(line.endswith(" 1  draining") for line in map(str.rstrip, lines))


def test_a_loss_shows_in_its_column_and_in_the_total() -> None:
    """The books of each shard and of all are on one screen."""
    lines = printed(overview(shard(0), shard(1, added=30, lost=7)))

    books = [line.split() for line in lines if line.startswith(("plays:", "total"))][3:]
    assert [
        ["plays:0", "10", "10", "0", "0", "0", "0"],
        ["plays:1", "30", "23", "0", "0", "7", "0"],
        ["total", "40", "33", "0", "0", "7", "0"],
    ] == books


def test_unknown_figures_are_marked_and_make_totals_unknown() -> None:
    """A total that leaves something out would look like knowledge."""
    unknown = replace(shard(1), pending=None, committed=None, rate=None)
    lines = printed(overview(shard(0), unknown))

    books = [line.split() for line in lines if line.startswith(("plays:1", "total"))]
    assert ["plays:1", "10", "10", "0", "?", "0", "?"] == books[2]
    assert ["total", "20", "20", "0", "?", "0", "?"] == books[3]
    totals = document(overview(shard(0), unknown))["totals"]
    assert (None, None) == (totals["rate"], totals["books"]["difference"])


def test_with_many_shards_quiet_ones_are_left_out() -> None:
    """Whatever needs a look is shown, the rest is counted; --all shows everything."""
    many = [shard(number) for number in range(64)]
    many[40] = shard(40, lag=5_000, added=9_000)
    many[50] = shard(50, stopped="MySQL refused 60 of 120 entries")
    view = overview(*many)

    lines = printed(view)
    assert 2 == sum(line.startswith("plays:40 ") for line in lines)
    assert 2 == sum(line.startswith("plays:50 ") for line in lines)
    assert "62 quiet shards are in the totals alone; --all shows them" in [
        line.rstrip() for line in lines
    ]
    assert 64 == len(document(view)["shards"])
    assert 128 == sum(line.startswith("plays:") for line in printed(view, every=True))


def test_a_reason_is_shown_as_it_is() -> None:
    """What MySQL says may hold brackets; none is taken for markup."""
    reason = "refused: [bold]`moontv`[/nothing] \\[x]"

    text = " ".join(line.strip() for line in printed(overview(shard(0, stopped=reason))))

    assert reason in text


@pytest.mark.parametrize(("silent_ms", "told"), [(120, "live"), (12_000, "silent for 12 s")])
def test_a_worker_is_live_or_silent(silent_ms: int, told: str) -> None:
    """A silent one is no longer shown as draining anything."""
    view = Overview(NOW_MS, [shard(0)], [replace(WORKER, silent_ms=silent_ms)], "", Incidents())

    [line] = [line for line in printed(view) if "playback-worker-17:4194303" in line]

    assert told in line
    assert ("plays:0" in line) == (told == "live")
