"""MySQL under control: what is done to it is really done, and over afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncmy
import pytest
from asyncmy.cursors import Cursor
from asyncmy.errors import MySQLError

from ops.mysql_server import MysqlServer
from tests.databases import admin
from tests.faults import mysql_control
from tests.faults.mysql_backup import Backup
from tests.faults.mysql_control import MysqlControl
from tests.faults.mysql_wire import CommitKiller, CommitLoss
from tests.plays import select
from tests.waiting import until

CREATE = """
CREATE TABLE kept (number INT PRIMARY KEY AUTO_INCREMENT, parent INT,
FOREIGN KEY (parent) REFERENCES kept (number)) ENGINE=InnoDB
"""


@pytest.fixture(name="control")
async def _control(mysql_server: MysqlServer) -> AsyncIterator[MysqlControl]:
    async with mysql_control.controlled(mysql_server) as control:
        yield control
    async with admin(mysql_server) as cursor:
        await cursor.execute(f"DROP DATABASE {control.account.database}")
        await cursor.execute(f"DROP USER {control.account.user}")
        if await select(cursor, "SHOW DATABASES LIKE 'moonwake_backup'"):
            await cursor.execute("DROP DATABASE moonwake_backup")


@asynccontextmanager
async def logged_in(control: MysqlControl) -> AsyncIterator[Cursor]:
    """A session of the site's, through the proxy."""
    connection = await asyncmy.connect(
        host="127.0.0.1",
        port=control.proxy.port,
        user=control.account.user,
        password=control.account.password,
        db=control.account.database,
        autocommit=True,
    )
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


async def numbers(cursor: Cursor) -> list[int]:
    return [number for (number,) in await select(cursor, "SELECT number FROM kept ORDER BY 1")]


async def test_a_killed_session_is_gone_and_was_the_sites(control: MysqlControl) -> None:
    """KILL in the middle of whatever it does; the checker's own sessions are never among them."""
    async with logged_in(control) as cursor:
        [(own,)] = await select(cursor, "SELECT CONNECTION_ID()")
        assert [own] == await control.sessions()

        assert 1 == await control.kill_sessions([own])

        with pytest.raises(MySQLError):
            await cursor.execute("SELECT 1")

    async def is_gone() -> bool:
        return own not in await control.sessions()

    await until(is_gone, "the server has forgotten the session")
    assert 0 == await control.kill_sessions([own])


async def test_disconnected_clients_commit_nothing_any_more(control: MysqlControl) -> None:
    """An open transaction of theirs is rolled back before the call returns."""
    async with logged_in(control) as cursor:
        await cursor.execute(CREATE)
        await cursor.execute("BEGIN")
        await cursor.execute("INSERT INTO kept (number) VALUES (1)")

        await control.disconnect_clients()

        async with control.admin() as other:
            await other.execute(f"USE {control.account.database}")
            assert [] == await numbers(other)
        with pytest.raises(MySQLError):
            await cursor.execute("COMMIT")
    with pytest.raises((MySQLError, OSError)):
        async with logged_in(control):
            pass
    control.proxy.heal()
    async with logged_in(control) as cursor:
        assert [] == await numbers(cursor)


async def test_a_read_only_server_refuses_the_sites_writes_for_a_while(
    control: MysqlControl,
) -> None:
    """The site's account is no administrator's, or it would notice nothing."""
    async with logged_in(control) as cursor:
        await cursor.execute(CREATE)
        async with control.read_only():
            with pytest.raises(MySQLError) as refused:
                await cursor.execute("INSERT INTO kept (number) VALUES (1)")
            assert 1290 == refused.value.args[0]
            assert [] == await numbers(cursor)

        await cursor.execute("INSERT INTO kept (number) VALUES (1)")

        assert [1] == await numbers(cursor)


@pytest.mark.parametrize("loss", list(CommitLoss))
async def test_a_commit_that_is_lost_was_done_or_not_as_told(
    control: MysqlControl, loss: CommitLoss
) -> None:
    """Its client hears the same in both cases: nothing."""
    async with logged_in(control) as cursor:
        await cursor.execute(CREATE)
        control.proxy.watch = killer = CommitKiller(loss)
        await cursor.execute("BEGIN")
        await cursor.execute("INSERT INTO kept (number) VALUES (1)")
        with pytest.raises((MySQLError, OSError)):
            await cursor.connection.commit()
    assert 1 == killer.lost

    async def no_session_is_left() -> bool:
        return not await control.sessions()

    await until(no_session_is_left, "the server has ended the session")
    async with logged_in(control) as cursor:
        assert ([1] if loss is CommitLoss.AFTER else []) == await numbers(cursor)


async def test_a_forced_deadlock_is_counted_by_the_server(control: MysqlControl) -> None:
    """Two sessions that lock two rows in opposite orders: one of them is rolled back."""
    before = await control.deadlocks()
    async with logged_in(control) as one, logged_in(control) as other:
        await one.execute(CREATE)
        await one.execute("INSERT INTO kept (number) VALUES (1), (2)")
        for cursor, number in ((one, 1), (other, 2)):
            await cursor.execute("BEGIN")
            await cursor.execute("SELECT * FROM kept WHERE number = %s FOR UPDATE", (number,))
            await cursor.fetchall()

        told = await asyncio.gather(
            one.execute("SELECT * FROM kept WHERE number = 2 FOR UPDATE"),
            other.execute("SELECT * FROM kept WHERE number = 1 FOR UPDATE"),
            return_exceptions=True,
        )

    assert [1213] == [answer.args[0] for answer in told if isinstance(answer, MySQLError)]
    assert before + 1 == await control.deadlocks()


async def test_a_restored_backup_is_the_whole_database_of_that_moment(
    control: MysqlControl,
) -> None:
    """Rows that came are gone, rows that went are back, whatever refers to what."""
    async with logged_in(control) as cursor:
        await cursor.execute(CREATE)
        await cursor.execute("INSERT INTO kept (number) VALUES (1), (2)")
        await cursor.execute("INSERT INTO kept (number, parent) VALUES (3, 2)")
    backup = Backup(control)
    await backup.take()
    async with logged_in(control) as cursor:
        await cursor.execute("DELETE FROM kept WHERE number > 1 ORDER BY number DESC")
        await cursor.execute("INSERT INTO kept (number) VALUES (4)")

    await control.disconnect_clients()
    await backup.restore()
    control.proxy.heal()

    async with logged_in(control) as cursor:
        assert [1, 2, 3] == await numbers(cursor)


async def test_a_second_backup_takes_the_place_of_the_first(control: MysqlControl) -> None:
    """One copy at a time: a long run does not fill the disk."""
    backup = Backup(control)
    async with logged_in(control) as cursor:
        await cursor.execute(CREATE)
        for number in (1, 2):
            await cursor.execute("INSERT INTO kept (number) VALUES (%s)", (number,))
            await backup.take()
        await cursor.execute("DELETE FROM kept")

        await backup.restore()

        assert [1, 2] == await numbers(cursor)
