"""Entries older than what MySQL holds: the newer record stays, whoever comes last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.mysql import Pool, reading
from shared.settings import Settings
from tests.mysql_state import books
from tests.plays import add_foreign, clear, delete, deps_of, drain_all, rows, save
from worker.deps import Deps
from worker.drain import ShardDrain
from worker.sinks.plays import PlaysSink

DAY_MS = 86_400_000


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    return deps_of(replace(migrated, shards=1, flush_interval_ms=0), redis, pool)


async def add_at(deps: Deps, *timed: tuple[int, dict[str, Any]]) -> None:
    """Entries at so many milliseconds."""
    given = [(f"{ms}-{number}", event) for number, (ms, event) in enumerate(timed)]
    await add_foreign(deps.settings, deps.redis, given)


async def put_newer_record(deps: Deps) -> None:
    """Ann's record as an import leaves it: newer than any entry that is still to come."""
    await add_at(deps, (1_000, save("ann", play_time=77)))
    await drain_all(deps)
    async with reading(deps.pool) as cursor:
        await cursor.execute("UPDATE play_records SET event_ms = %s", (10 * DAY_MS,))


OLDER = {
    "a save": [save("ann", play_time=99)],
    "several saves": [save("ann", play_time=99), save("ann", play_time=199, index=2)],
    "a delete": [delete("ann")],
    "a clear": [clear("ann")],
    "a save and its delete": [save("ann", play_time=99), delete("ann")],
    "a delete and a save": [delete("ann"), save("ann", play_time=99)],
    "a clear and two saves": [clear("ann"), save("ann", index=3), save("ann", index=4)],
}


@pytest.mark.parametrize("events", OLDER.values(), ids=OLDER.keys())
async def test_older_entries_neither_replace_nor_remove_nor_count(
    deps: Deps, events: list[dict[str, Any]]
) -> None:
    """
    Each is applied, in the books, and changes nothing; their neighbours are applied as ever.
    """
    await put_newer_record(deps)
    before = await rows(deps.pool, "SELECT * FROM content_stats")
    timed = [(DAY_MS + number, event) for number, event in enumerate(events)]
    await add_at(deps, *timed, (DAY_MS + 99, save("bob", "2")))

    assert not await ShardDrain(deps, PlaysSink(deps.settings), 0).run(slice_s=5)

    assert [(77, 10 * DAY_MS)] == await rows(
        deps.pool, "SELECT play_time, event_ms FROM play_records WHERE username = 'ann'"
    )
    stats = await rows(deps.pool, "SELECT * FROM content_stats WHERE content_id = '1'")
    assert before == stats
    applied = 1 + len(events) + 1
    assert (applied, applied, 0, 0) == await books(deps.pool)


async def test_the_newest_record_names_a_content_whichever_is_written_last(deps: Deps) -> None:
    """
    Shards share contents and know nothing of each other's progress.
    """
    two = replace(deps, settings=replace(deps.settings, shards=2))
    await add_foreign(two.settings, two.redis, [("9000-0", save("ann", title="new"))])
    await drain_all(two)
    await add_foreign(two.settings, two.redis, [("5000-0", save("bob", title="old"))])
    await drain_all(two)

    assert [("new", 2, "1970-01-01 00:00:09.000")] == await rows(
        deps.pool,
        "SELECT title, play_count, CAST(last_played_at AS CHAR) FROM content_stats",
    )
