"""The drain on real servers: every event once, whatever is in the way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.mysql import Pool
from shared.settings import Settings
from tests.plays import (
    add_foreign,
    append,
    clear,
    delete,
    deps_of,
    drain_all,
    rows,
    save,
)
from worker.deps import Deps


@pytest.fixture(name="deps")
def _deps(migrated: Settings, redis: Redis, pool: Pool) -> Deps:
    # Tests do not wait for a batch to fill.
    return deps_of(replace(migrated, flush_interval_ms=0), redis, pool)


async def test_an_appended_save_becomes_a_row_and_is_counted(deps: Deps) -> None:
    """
    One event: one record, one play, one viewer, one user, books that say one.
    """
    await append(deps.settings, deps.redis, [save("ann", play_time=7, note="x")])
    await drain_all(deps)

    assert [("ann", "s", "1", 7, 12, '{"note":"x"}')] == [
        (*row[:5], row[5].replace(" ", ""))
        for row in await rows(
            deps.pool,
            "SELECT username, source, content_id, play_time, original_episodes, extra"
            " FROM play_records",
        )
    ]
    assert [("ann", "user", "!")] == await rows(
        deps.pool, "SELECT username, role, password_hash FROM users"
    )
    assert [(1, 0, 1)] == await rows(
        deps.pool, "SELECT play_count, total_watch_time, unique_users FROM content_stats"
    )
    assert [(1,)] == await rows(
        deps.pool, "SELECT ordinal FROM stream_checkpoints WHERE ordinal = applied AND applied > 0"
    )


async def test_deletes_and_clears_remove_rows_and_count_nothing(deps: Deps) -> None:
    """
    What was counted stays counted, what was deleted is gone.
    """
    first = [save("ann", "1"), save("ann", "2"), save("bob", "1"), save("cat", "1")]
    await append(deps.settings, deps.redis, first)
    await drain_all(deps)
    await append(
        deps.settings,
        deps.redis,
        [delete("ann", "1"), clear("bob"), save("bob", "3"), clear("cat")],
    )
    await drain_all(deps)

    assert [("ann", "2"), ("bob", "3")] == await rows(
        deps.pool, "SELECT username, content_id FROM play_records ORDER BY 1, 2"
    )
    assert [(5, 5)] == await rows(
        deps.pool, "SELECT SUM(play_count), SUM(unique_users) FROM content_stats"
    )


async def test_a_foreign_entry_is_applied_like_one_of_ours(deps: Deps) -> None:
    """
    Whoever XADDs the documented body gets the same rows.
    """
    await add_foreign(deps.settings, deps.redis, [("*", save("ann", play_time=3))])
    await drain_all(deps)

    assert [("ann", 3)] == await rows(deps.pool, "SELECT username, play_time FROM play_records")
