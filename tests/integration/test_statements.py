"""A batch takes the statements its rows need and no more, and no server warns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from shared.mysql import Cursor, open_mysql, reading
from shared.settings import Settings
from tests.plays import add_foreign, append, delete, deps_of, drain_all, save, select
from worker.deps import Deps

_COUNTED = ("select", "insert", "update", "delete", "begin", "commit", "show_warnings")


@pytest.fixture(name="deps")
async def _deps(migrated: Settings, redis: Redis) -> AsyncIterator[Deps]:
    """One shard and one connection, so that a session's counters are the worker's."""
    alone = replace(migrated, shards=1, flush_interval_ms=0, mysql_pool_size=1)
    async with open_mysql(alone) as pool:
        yield deps_of(alone, redis, pool)


async def counters(cursor: Cursor) -> dict[str, int]:
    found = await select(cursor, "SHOW SESSION STATUS LIKE 'Com\\_%%'")
    values = {name.lower().removeprefix("com_"): int(value) for name, value in found}
    return {name: values[name] for name in _COUNTED}


async def statements_of(deps: Deps) -> dict[str, int]:
    """What draining everything now costs, by kind of statement; no zeroes."""
    async with reading(deps.pool) as cursor:
        before = await counters(cursor)
    await drain_all(deps)
    async with reading(deps.pool) as cursor:
        after = await counters(cursor)
    return {name: after[name] - before[name] for name in _COUNTED if after[name] > before[name]}


async def test_new_rows_take_one_statement_a_table(deps: Deps) -> None:
    """
    Five hundred new users: three lookups, one insert per table, one fence, one commit.
    """
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save(f"u{n:03}", str(n)) for n in range(500)])

    # The checkpoint (twice, as nothing of the stream was ever applied), stored records,
    # viewers and users are looked up; users, records, viewers, days, touched days and
    # contents are written.
    assert {"select": 5, "insert": 6, "update": 1, "begin": 1, "commit": 1} == (
        await statements_of(deps)
    )


async def test_known_rows_are_not_looked_up_twice(deps: Deps) -> None:
    """
    A stored record proves its user and its viewer: no lookup, no insert for them.
    """
    await append(deps.settings, deps.redis, [save(f"u{n:03}") for n in range(50)])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [save(f"u{n:03}", index=2) for n in range(50)])

    assert {"select": 2, "insert": 4, "update": 1, "begin": 1, "commit": 1} == (
        await statements_of(deps)
    )


async def test_a_lone_delete_touches_nothing_else(deps: Deps) -> None:
    """
    A delete counts nothing, so nothing is looked up for it.
    """
    await append(deps.settings, deps.redis, [save("ann")])
    await drain_all(deps)
    await append(deps.settings, deps.redis, [delete("ann")])

    assert {"select": 1, "update": 1, "delete": 1, "begin": 1, "commit": 1} == (
        await statements_of(deps)
    )


async def test_long_batches_are_split_at_the_knee(deps: Deps) -> None:
    """
    Five thousand rows: three statements a table, not one of five thousand rows nor one a row.
    """
    await drain_all(deps)
    given = [save(f"u{n % 100:03}", f"{n:04}") for n in range(5000)]
    await add_foreign(deps.settings, deps.redis, [("*", event) for event in given])

    counted = await statements_of(deps)

    # Stored 3, viewers 3, users 1, checkpoint 2; records 3, viewers 3, contents 3, and one
    # each of users, days and touched days.
    assert {"select": 9, "insert": 12, "update": 1, "begin": 1, "commit": 1} == counted


async def test_no_statement_leaves_a_warning(deps: Deps) -> None:
    """
    Neither server has anything to remark on a batch; the driver would have asked for it.
    """
    given = [save("ann", note="x"), save("bob", cover="c" * 2000), delete("ann"), save("ann", "2")]
    await append(deps.settings, deps.redis, given)
    first = await statements_of(deps)
    await append(deps.settings, deps.redis, [*given, save("ann", original_episodes=3)])
    second = await statements_of(deps)
    async with reading(deps.pool) as cursor:
        before = await counters(cursor)
        await cursor.execute("DROP TABLE IF EXISTS no_such_table")
        after = await counters(cursor)

    assert "show_warnings" not in first | second
    assert 1 == after["show_warnings"] - before["show_warnings"]  # else nothing was proven
