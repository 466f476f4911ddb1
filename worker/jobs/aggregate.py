"""
Fold `user_watch_daily` into `play_stats_daily`, a row per day of STATS_TIMEZONE.

A day is computed anew each time, so a run may be cut off and repeated. Which days
changed is read *before* the sums: what commits in between is in the sums or its
day is folded again by the next run, so nothing is lost and downtime is caught up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import structlog

from shared.errors import MoonwakeError, Transient
from shared.mysql import Cursor, MySQLError, Pool, mysql_errors, reading
from shared.settings import Settings
from worker.sinks.folding import days_in
from worker.sql import upsert

log = structlog.get_logger()

#: How long `rebuild` waits for a run that is at work.
_WAIT_S = 60
_DETAIL_MAX = 500

_NOW_MS = "SELECT CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS UNSIGNED)"
_MARKS = "SELECT stat_date, stream, shard, batch_no FROM stat_days_touched"
_UNFOLDED = f"{_MARKS} WHERE batch_no <> folded_batch_no"
_OF_DAY = f"{_MARKS} WHERE stat_date = %s"
_UNFINISHED = "SELECT stat_date FROM play_stats_daily WHERE NOT final AND stat_date < %s"
_DAYS_BETWEEN = """
SELECT stat_date FROM user_watch_daily WHERE stat_date BETWEEN %s AND %s
UNION SELECT stat_date FROM play_stats_daily WHERE stat_date BETWEEN %s AND %s
ORDER BY stat_date
"""
_SUMS = """
SELECT COUNT(*), SUM(plays), SUM(watch_time), SUM(plays > 0 OR watch_time > 0)
FROM user_watch_daily WHERE stat_date = %s
"""
_FORGET_DAY = "DELETE FROM play_stats_daily WHERE stat_date = %s"
_SET_FOLDED = """
UPDATE stat_days_touched SET folded_batch_no = %s
WHERE stat_date = %s AND stream = %s AND shard = %s
"""
_BEGIN = "INSERT INTO aggregation_runs (kind, duration_ms, outcome) VALUES (%s, 0, 'running')"
_END = """
UPDATE aggregation_runs
SET window_from = %s, window_to = %s, days = %s, rows_written = %s, duration_ms = %s,
    outcome = %s, detail = %s
WHERE id = %s
"""
# Only one run is at work, so one that never ended was killed.
_BURY = "UPDATE aggregation_runs SET outcome = 'died' WHERE outcome = 'running'"
_PRUNE = "DELETE FROM aggregation_runs WHERE started_at < UTC_TIMESTAMP(3) - INTERVAL 90 DAY"

#: Told the day, how many are done, and of how many.
OnDay = Callable[[date, int, int], None]


@dataclass(slots=True)
class Run:
    """One run, as `aggregation_runs` remembers it. *rows* are those of `play_stats_daily`.

    *outcome*: 'ok', 'skipped' (another worker was at it; not recorded), 'failed', or
    'died' for a run that was killed.
    """

    kind: str
    outcome: str = "running"
    window_from: date | None = None
    window_to: date | None = None
    days: int = 0
    rows: int = 0
    duration_ms: int = 0


class Mark(NamedTuple):
    """The last batch of a shard that changed a day."""

    day: date
    stream: str
    shard: int
    batch_no: int


async def aggregate(pool: Pool, settings: Settings, now_ms: int | None = None) -> Run:
    """Fold every day that changed, and finally those that are over in STATS_TIMEZONE.

    *now_ms* is MySQL's own time where not given. Safe in several workers at once: all but
    one skip. Raises `Transient`, or what else stopped it, which the next run makes good.
    """
    async with _sole_run(pool, settings, wait_s=0) as cursor:
        if cursor is None:
            return Run("scheduled", "skipped")
        today = await _today(cursor, settings, now_ms)
        async with _recorded(cursor, "scheduled") as run:
            marks = await _marks(cursor, _UNFOLDED)
            await cursor.execute(_UNFINISHED, (today,))
            unfinished = {day for (day,) in await cursor.fetchall()}
            for day in sorted({mark.day for mark in marks} | unfinished):
                await _fold(cursor, run, day, today, [mark for mark in marks if mark.day == day])
        if run.days:
            window = {"window_from": str(run.window_from), "window_to": str(run.window_to)}
            log.info("days_folded", days=run.days, **window, duration_ms=run.duration_ms)
        return run


async def rebuild(
    pool: Pool, settings: Settings, first: date, last: date, on_day: OnDay | None = None
) -> Run:
    """Compute every day from *first* through *last* anew; a day without plays has no row.

    Waits for a run that is at work; raises `Transient` if that takes too long.
    """
    async with _sole_run(pool, settings, wait_s=_WAIT_S) as cursor:
        if cursor is None:
            raise Transient("another aggregation is still at work: try again when it has ended")
        today = await _today(cursor, settings, None)
        async with _recorded(cursor, "rebuild") as run:
            await cursor.execute(_DAYS_BETWEEN, (first, last, first, last))
            days = [day for (day,) in await cursor.fetchall()]
            for done, day in enumerate(days, start=1):
                await _fold(cursor, run, day, today, await _marks(cursor, _OF_DAY, day))
                if on_day is not None:
                    on_day(day, done, len(days))
        return run


# --- one day ------------------------------------------------------------------


async def _fold(cursor: Cursor, run: Run, day: date, today: date, marks: Iterable[Mark]) -> None:
    """Write the row of *day*, then note the *marks*, which were read before, as folded."""
    run.rows += await _write_day(cursor, day, final=day < today)
    # One row at a time: drains wait for a row of theirs, and for no other shard's.
    for mark in marks:
        await cursor.execute(_SET_FOLDED, (mark.batch_no, day, mark.stream, mark.shard))
    run.days += 1
    run.window_from = min(run.window_from or day, day)
    run.window_to = max(run.window_to or day, day)


async def _write_day(cursor: Cursor, day: date, *, final: bool) -> int:
    """Compute *day* from its users; the rows written."""
    await cursor.execute(_SUMS, (day,))
    ((rows, plays, watch_time, users),) = await cursor.fetchall()
    if not rows:
        return int(await cursor.execute(_FORGET_DAY, (day,)))
    columns = ("total_plays", "total_watch_time", "unique_users", "final")
    await upsert(
        cursor,
        "play_stats_daily",
        ("stat_date", *columns),
        [f"{column} = {{new}}{column}" for column in columns],
        [(day.isoformat(), int(plays), int(watch_time), int(users), int(final))],
    )
    return 1


async def _marks(cursor: Cursor, query: str, *values: date) -> list[Mark]:
    await cursor.execute(query, values)
    return [Mark(*row) for row in await cursor.fetchall()]


async def _today(cursor: Cursor, settings: Settings, now_ms: int | None) -> date:
    """The day in STATS_TIMEZONE; by MySQL's clock, which all workers share."""
    if now_ms is None:
        await cursor.execute(_NOW_MS)
        ((now_ms,),) = await cursor.fetchall()
    return date.fromisoformat(days_in(settings.stats_timezone)(int(now_ms)))


# --- one run ------------------------------------------------------------------


@asynccontextmanager
async def _sole_run(pool: Pool, settings: Settings, wait_s: int) -> AsyncIterator[Cursor | None]:
    """A cursor whose session alone may write `play_stats_daily`; None if another has it.

    The lock is the session's: a run that lost the one cannot go on without the other.
    """
    # Lock names are the server's, not the database's, and at most 64 characters long.
    database = hashlib.sha256(settings.mysql_database.encode()).hexdigest()[:16]
    name = f"moonwake.aggregate.{database}"
    async with reading(pool) as cursor:
        await cursor.execute("SELECT GET_LOCK(%s, %s)", (name, wait_s))
        ((got,),) = await cursor.fetchall()
        if got != 1:
            yield None
            return
        try:
            yield cursor
            await cursor.execute("DO RELEASE_LOCK(%s)", (name,))
        except BaseException:
            # Back in the pool the session would keep the lock.
            cursor.connection.close()
            raise


@asynccontextmanager
async def _recorded(cursor: Cursor, kind: str) -> AsyncIterator[Run]:
    """A run and its row in `aggregation_runs`, where a killed one is to be seen too."""
    started_s = time.monotonic()
    run = Run(kind)
    await cursor.execute(_BURY)
    await cursor.execute(_PRUNE)
    await cursor.execute(_BEGIN, (kind,))
    number = cursor.lastrowid
    try:
        yield run
    except Exception as error:
        run.outcome = "failed"
        with suppress(MoonwakeError, MySQLError), mysql_errors():
            await _end(cursor, run, number, started_s, str(error)[:_DETAIL_MAX])
        raise
    run.outcome = "ok"
    await _end(cursor, run, number, started_s, None)


async def _end(cursor: Cursor, run: Run, number: int, started_s: float, detail: str | None) -> None:
    run.duration_ms = round((time.monotonic() - started_s) * 1000)
    window = (run.window_from, run.window_to, run.days, run.rows)
    await cursor.execute(_END, (*window, run.duration_ms, run.outcome, detail, number))
