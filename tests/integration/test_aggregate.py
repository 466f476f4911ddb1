"""Daily statistics: the same as counting every event, however often and by whomever folded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from redis.asyncio import Redis

from shared.errors import Transient
from shared.mysql import Cursor, Pool, open_mysql
from shared.settings import Settings
from tests.oracle import Oracle
from tests.plays import add_foreign, deps_of, drain_all, rows, save
from worker.deps import Deps
from worker.jobs import aggregate as job
from worker.jobs.aggregate import Run, aggregate, rebuild

USERS = [f"user{number}" for number in range(6)]
DAILY = (
    "SELECT stat_date, total_plays, total_watch_time, unique_users"
    " FROM play_stats_daily ORDER BY stat_date"
)
RUNS = "SELECT kind, outcome, days, rows_written, detail FROM aggregation_runs ORDER BY id"
EVER = (date(1970, 1, 1), date(9999, 12, 31))

Events = list[tuple[str, dict[str, Any]]]


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


def at(text: str, zone: str = "Asia/Shanghai") -> int:
    """Unix milliseconds of a local time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def thirty_days(zone: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of 30 days, many of them around midnight in *zone*, in stream order."""
    chance = random.Random(zone)
    ms, sequence = at("2025-03-01T00:00:00", zone), 0
    end_ms = at("2025-03-31T00:00:00", zone)
    position = dict.fromkeys(USERS, 0)
    while ms < end_ms:
        user = chance.choice(USERS)
        position[user] += chance.randint(-20, 600)
        fields = {"play_time": max(0, position[user]), "index": chance.randint(1, 2)}
        yield f"{ms}-{sequence}", save(user, str(chance.randint(1, 3)), **fields)
        sequence += 1
        ms += chance.choice((0, 1, 5_000, 30_000, 600_000, 3_600_000, 7_200_000))
        if chance.random() < 0.1:
            ms = next_midnight_ms(ms, zone) + chance.randint(-2, 2)


def next_midnight_ms(ms: int, zone: str) -> int:
    local = datetime.fromtimestamp(ms / 1000, UTC).astimezone(ZoneInfo(zone))
    return at(f"{(local + timedelta(days=1)).date()}T00:00:00", zone)


def recount(events: Events, zone: str = "Asia/Shanghai") -> list[tuple[date, int, int, int]]:
    """(day, plays, watched seconds, users) by looking at every event alone."""
    oracle = Oracle(zone)
    for entry_id, event in events:
        oracle.apply(event, int(entry_id.split("-")[0]))
    days = sorted({day for day, _ in oracle.daily})
    of_day = {day: [sums for (d, _), sums in oracle.daily.items() if d == day] for day in days}
    return [
        (
            date.fromisoformat(day),
            sum(plays for plays, _ in sums),
            sum(watched_s for _, watched_s in sums),
            len(sums),
        )
        for day, sums in of_day.items()
    ]


async def drained(deps: Deps, events: Events) -> None:
    await add_foreign(deps.settings, deps.redis, events)
    await drain_all(deps)


async def daily(deps: Deps) -> list[tuple[Any, ...]]:
    return await rows(deps.pool, DAILY)


async def aggregate_elsewhere(deps: Deps) -> Run:
    """Run in another process' place, once the server has noticed that a session is gone."""
    async with open_mysql(deps.settings) as pool, asyncio.timeout(20):
        while (run := await aggregate(pool, deps.settings)).outcome == "skipped":
            pass
    return run


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York"])
async def test_daily_rows_equal_a_recount_of_thirty_days(deps: Deps, zone: str) -> None:
    """Folded while the events arrive, each day has what counting them one by one gives."""
    deps = replace(deps, settings=replace(deps.settings, stats_timezone=zone))
    events = list(thirty_days(zone))
    for start in range(0, len(events), 400):
        await drained(deps, events[start : start + 400])
        await aggregate(deps.pool, deps.settings)

    assert len(await daily(deps)) == 30
    assert recount(events, zone) == await daily(deps)


async def test_a_run_killed_half_way_and_repeated_gives_the_same_rows(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a killed run had folded, the next one leaves every day exact."""
    events = list(thirty_days("Asia/Shanghai"))
    await drained(deps, events)
    write, left = job._write_day, 12

    async def killed_at_the_twelfth(cursor: Cursor, day: date, *, final: bool) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return await write(cursor, day, final=final)

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_day", killed_at_the_twelfth)
        with pytest.raises(Killed):
            await aggregate(deps.pool, deps.settings)
    assert len(await daily(deps)) == 11

    again = await aggregate_elsewhere(deps)

    assert recount(events) == await daily(deps)
    assert again.days == 19
    assert ["died", "ok"] == [row[1] for row in await rows(deps.pool, RUNS)]


async def test_a_run_killed_before_its_mark_folds_the_day_again(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day counts as folded only once its row is written."""
    events: Events = [("1700000000000-1", save("ann"))]
    await drained(deps, events)
    write = job._write_day

    async def killed_afterwards(cursor: Cursor, day: date, *, final: bool) -> int:
        await write(cursor, day, final=final)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_day", killed_afterwards)
        with pytest.raises(Killed):
            await aggregate(deps.pool, deps.settings)

    assert (await aggregate_elsewhere(deps)).days == 1
    assert recount(events) == await daily(deps)


async def test_of_two_runs_at_once_one_works_and_one_skips(deps: Deps) -> None:
    """Every worker may run it: the rows come out once, and nobody waits."""
    events = list(thirty_days("Asia/Shanghai"))
    await drained(deps, events)

    runs = await asyncio.gather(*(aggregate(deps.pool, deps.settings) for _ in range(3)))

    assert ["ok", "skipped", "skipped"] == sorted(run.outcome for run in runs)
    assert recount(events) == await daily(deps)
    assert [("scheduled", "ok", 30, 30, None)] == await rows(deps.pool, RUNS)


async def test_a_batch_that_commits_between_marks_and_sums_is_not_lost(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may miss this run, or slip in; the next run folds its day in any case."""
    first: Events = [("1700000000000-1", save("ann"))]
    late: Events = [("1700000000001-1", save("ann", "2"))]
    await drained(deps, first)
    write = job._write_day

    async def meanwhile_a_batch(cursor: Cursor, day: date, *, final: bool) -> int:
        written = await write(cursor, day, final=final)
        await drained(deps, late)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_day", meanwhile_a_batch)
        await aggregate(deps.pool, deps.settings)
    assert recount(first) == await daily(deps)

    assert (await aggregate(deps.pool, deps.settings)).days == 1
    assert recount(first + late) == await daily(deps)


async def test_nothing_new_is_nothing_to_fold(deps: Deps) -> None:
    """A run without work writes no day, and is recorded all the same, whichever worker has it."""
    await drained(deps, [("1700000000000-1", save("ann"))])
    await aggregate(deps.pool, deps.settings)

    async with open_mysql(deps.settings) as pool:
        again = await aggregate(pool, deps.settings)

    assert ("ok", 0, 0) == (again.outcome, again.days, again.rows)
    assert [1, 0] == [row[2] for row in await rows(deps.pool, RUNS)]


async def test_a_day_is_final_once_it_is_over_in_the_time_zone(deps: Deps) -> None:
    """Midnight in STATS_TIMEZONE makes a day final, touched or not; a late event still counts."""
    day, ms = date(2025, 5, 4), at("2025-05-04T23:59:59")
    flag = "SELECT stat_date, unique_users, final FROM play_stats_daily"
    await drained(deps, [(f"{ms}-1", save("ann"))])
    await aggregate(deps.pool, deps.settings, now_ms=ms)
    assert [(day, 1, 0)] == await rows(deps.pool, flag)

    await aggregate(deps.pool, deps.settings, now_ms=ms + 999)
    assert [(day, 1, 0)] == await rows(deps.pool, flag)

    await aggregate(deps.pool, deps.settings, now_ms=ms + 1000)
    assert [(day, 1, 1)] == await rows(deps.pool, flag)

    await drained(deps, [(f"{ms}-2", save("bob"))])
    late = await aggregate(deps.pool, deps.settings, now_ms=ms + 86_400_000)
    assert late.days == 1
    assert [(day, 2, 1)] == await rows(deps.pool, flag)


async def test_the_present_day_is_not_final_by_the_servers_clock(deps: Deps) -> None:
    """Without a time given, the database's own decides."""
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    await drained(
        deps, [(f"{now_ms - 10 * 86_400_000}-1", save("ann")), (f"{now_ms}-1", save("ann"))]
    )

    await aggregate(deps.pool, deps.settings)

    finals = await rows(deps.pool, "SELECT final FROM play_stats_daily ORDER BY stat_date")
    assert [(1,), (0,)] == finals


async def test_a_user_without_a_play_or_a_second_is_not_counted(deps: Deps) -> None:
    """Unique users are those with a play or a watched second on that day."""
    async with open_mysql(deps.settings) as pool:
        await rows(
            pool,
            "INSERT INTO user_watch_daily VALUES ('2025-01-01', 'a', 1, 0),"
            " ('2025-01-01', 'b', 0, 5), ('2025-01-01', 'c', 0, 0)",
        )

    await rebuild(deps.pool, deps.settings, *EVER)

    assert [(date(2025, 1, 1), 1, 5, 2)] == await daily(deps)


async def test_a_rebuild_repairs_its_window_and_leaves_the_rest(deps: Deps) -> None:
    """Rows that are wrong, missing or should not be there are put right, within the window."""
    events = list(thirty_days("Asia/Shanghai"))
    await drained(deps, events)
    await aggregate(deps.pool, deps.settings)
    exact = await daily(deps)
    for damage in (
        "UPDATE play_stats_daily SET total_plays = 99999",
        "DELETE FROM play_stats_daily WHERE stat_date = '2025-03-10'",
        "INSERT INTO play_stats_daily (stat_date) VALUES ('2024-12-24')",
    ):
        await rows(deps.pool, damage)
    seen: list[tuple[date, int, int]] = []

    await rebuild(
        deps.pool,
        deps.settings,
        date(2025, 3, 5),
        date(2025, 3, 14),
        lambda *progress: seen.append(progress),
    )
    assert exact[4:14] == (await daily(deps))[5:15]
    assert [(date(2025, 3, 5 + n), n + 1, 10) for n in range(10)] == seen

    run = await rebuild(deps.pool, deps.settings, *EVER)
    assert exact == await daily(deps)
    assert (date(2024, 12, 24), date(2025, 3, 30), 31) == (run.window_from, run.window_to, run.days)


async def test_a_rebuilt_day_is_not_folded_again(deps: Deps) -> None:
    """A rebuild does the scheduled run's work too."""
    await drained(deps, [("1700000000000-1", save("ann"))])

    await rebuild(deps.pool, deps.settings, *EVER)

    assert (await aggregate(deps.pool, deps.settings)).days == 0


async def test_a_run_that_fails_says_why(deps: Deps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is recorded, and the next run makes good what was left."""

    async def fails(_cursor: Cursor, _day: date, *, final: bool) -> int:
        raise Transient(f"disk full, final={final}")

    await drained(deps, [("1700000000000-1", save("ann"))])
    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_day", fails)
        with pytest.raises(Transient):
            await aggregate(deps.pool, deps.settings)

    assert (await aggregate_elsewhere(deps)).days == 1
    recorded = await rows(deps.pool, RUNS)
    assert ("scheduled", "failed", 0, 0, "disk full, final=True") == recorded[0]
    assert ("scheduled", "ok", 1, 1, None) == recorded[1]


async def test_runs_are_forgotten_after_ninety_days(deps: Deps) -> None:
    """Every five minutes a row would otherwise add up for ever."""
    await rows(
        deps.pool,
        "INSERT INTO aggregation_runs (kind, started_at, duration_ms, outcome) VALUES"
        " ('old', UTC_TIMESTAMP(3) - INTERVAL 91 DAY, 1, 'ok'),"
        " ('recent', UTC_TIMESTAMP(3) - INTERVAL 89 DAY, 1, 'ok')",
    )

    await aggregate(deps.pool, deps.settings)

    assert ["recent", "scheduled"] == [row[0] for row in await rows(deps.pool, RUNS)]


async def test_drain_sessions_will_do(deps: Deps) -> None:
    """The worker runs it on its drains' pool, whose sessions have short time-outs."""
    events = list(thirty_days("Asia/Shanghai"))[:200]
    await drained(deps, events)
    async with open_mysql(deps.settings, drain=True) as pool:
        await aggregate(pool, deps.settings)

    assert recount(events) == await daily(deps)
