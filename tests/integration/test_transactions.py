"""The one way to write in a transaction: committed whole, or not at all, and said so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared import mysql
from shared.errors import DataRefused
from shared.mysql import Dialect, Pool, dialect_of, open_mysql, reading, transaction
from shared.settings import Settings
from tests.plays import rows, select


@pytest.fixture(name="drain_pool")
async def _drain_pool(migrated: Settings) -> AsyncIterator[Pool]:
    async with open_mysql(migrated, drain=True) as pool:
        yield pool


@pytest.mark.parametrize("where", ["inside a statement", "between statements"])
async def test_a_cancelled_transaction_says_so_and_leaves_nothing_behind(
    drain_pool: Pool, where: str
) -> None:
    """
    CancelledError stays what it is, the server rolls back, and the pool serves on.
    """
    begun = asyncio.Event()

    async def work() -> None:
        async with transaction(drain_pool) as cursor:
            await cursor.execute("INSERT INTO instance_settings (name, value) VALUES ('a', 'b')")
            begun.set()
            if where == "inside a statement":
                await cursor.execute("SELECT SLEEP(1)")
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # Waits for the lock of whoever still inserts it.
    query = "SELECT name FROM instance_settings WHERE name = 'a' LOCK IN SHARE MODE"
    assert [] == await rows(drain_pool, query)


async def test_a_transaction_that_fails_is_rolled_back_on_a_connection_that_serves_on(
    drain_pool: Pool,
) -> None:
    """
    A shard whose batches are refused one by one does not log in again for each of them.
    """
    session = "SELECT CONNECTION_ID()"
    [before] = await rows(drain_pool, session)
    insert = "INSERT INTO instance_settings (name, value) VALUES ('a', 'b')"

    async def insert_twice() -> None:
        async with transaction(drain_pool) as cursor:
            await cursor.execute(insert)
            await cursor.execute(insert)

    with pytest.raises(DataRefused):
        await insert_twice()

    assert [before] == await rows(drain_pool, session)
    assert [] == await rows(drain_pool, "SELECT name FROM instance_settings WHERE name = 'a'")


async def test_drain_sessions_hold_nothing_for_long(drain_pool: Pool) -> None:
    """
    Idle, locked and forgotten: each has its limit on the server, whatever becomes of the worker.
    """
    async with reading(drain_pool) as cursor:
        limits = await select(cursor, "SELECT @@wait_timeout, @@innodb_lock_wait_timeout")
        isolation = await select(
            cursor,
            "SHOW VARIABLES WHERE variable_name IN ('tx_isolation', 'transaction_isolation')",
        )
        mariadb = dialect_of(cursor) is Dialect.MARIADB
        idle = await select(cursor, "SELECT @@idle_transaction_timeout") if mariadb else [(3,)]

    assert ([(5, 2)], [(3,)]) == (limits, idle)
    assert {"READ-COMMITTED"} == {row[1] for row in isolation}


async def test_a_front_that_falls_silent_holds_rows_for_seconds(pool: Pool) -> None:
    """
    Its network is gone: the server ends what it was in the middle of, not hours later.
    """
    async with reading(pool) as cursor:
        mariadb = dialect_of(cursor) is Dialect.MARIADB
        limit = "@@idle_transaction_timeout" if mariadb else "@@wait_timeout"
        assert [(20,)] == await select(cursor, f"SELECT {limit}")


async def test_a_connection_is_replaced_before_the_server_closes_it(
    migrated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Nobody gets one that was idle for so long that it ends in their hands.
    """
    assert mysql._RECYCLE_S < 20
    monkeypatch.setattr(mysql, "_RECYCLE_S", 0)
    async with open_mysql(migrated) as pool:
        query = "SELECT CONNECTION_ID()"
        assert await rows(pool, query) != await rows(pool, query)
