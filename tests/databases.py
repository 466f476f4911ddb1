"""Databases for tests: empty ones, and one with the schema that is emptied between tests."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncmy
from asyncmy.cursors import Cursor
from asyncmy.errors import OperationalError

from ops.mysql_server import MysqlServer
from ops.redis_server import RedisServer
from shared.settings import Settings
from tests.servers import settings_for, to_environ

SCHEMA = "moonwake_schema"
BASELINE = "moonwake_baseline"
#: Rows from which emptying a table by TRUNCATE is quicker than by DELETE.
MANY_ROWS = 2_000
NO_SUCH_SESSION = 1094


@asynccontextmanager
async def admin(server: MysqlServer) -> AsyncIterator[Cursor]:
    """A cursor without a database that may do anything; each statement commits."""
    connection = await asyncmy.connect(
        host="127.0.0.1",
        port=server.port,
        user=server.account.user,
        password=server.account.password,
        charset="utf8mb4",
        autocommit=True,
    )
    try:
        async with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


@asynccontextmanager
async def empty_database(server: MysqlServer) -> AsyncIterator[str]:
    """The name of a new database, dropped afterwards."""
    name = f"t_{secrets.token_hex(6)}"
    async with admin(server) as cursor:
        await cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        yield name
    finally:
        async with admin(server) as cursor:
            await _end_other_sessions(cursor, name)
            await cursor.execute(f"DROP DATABASE IF EXISTS {name}")


class SchemaDatabase:
    """One database with the whole schema, built once; `restore` makes it as new again."""

    def __init__(self, mysql: MysqlServer, redis: RedisServer) -> None:
        self._mysql = mysql
        self._redis = redis
        self._empty: list[str] = []  # tables the schema leaves empty
        self._filled: list[str] = []  # tables it puts rows into; the baseline keeps a copy

    async def restore(self) -> Settings:
        """Build it, or take out whatever the last test put into it."""
        settings = settings_for(self._mysql, self._redis, SCHEMA)
        async with admin(self._mysql) as cursor:
            if self._filled or self._empty:
                await self._clean(cursor)
            else:
                await apply_schema(settings)
                await self._remember(cursor)
        return settings

    async def _remember(self, cursor: Cursor) -> None:
        await cursor.execute(f"CREATE DATABASE {BASELINE} CHARACTER SET utf8mb4")
        await cursor.execute(f"SHOW FULL TABLES FROM {SCHEMA} WHERE Table_type = 'BASE TABLE'")
        tables = [row[0] for row in await cursor.fetchall()]
        counts = await _count(cursor, tables)
        self._empty = [table for table in tables if counts[table] == 0]
        self._filled = [table for table in tables if counts[table] > 0]
        for table in self._filled:
            await cursor.execute(f"CREATE TABLE {BASELINE}.{table} LIKE {SCHEMA}.{table}")
            await cursor.execute(f"INSERT INTO {BASELINE}.{table} SELECT * FROM {SCHEMA}.{table}")

    async def _clean(self, cursor: Cursor) -> None:
        await _end_other_sessions(cursor, SCHEMA)
        await cursor.execute("SET foreign_key_checks = 0, lock_wait_timeout = 10")
        counts = await _count(cursor, self._empty)
        for table in (table for table in self._empty if counts[table] >= MANY_ROWS):
            await cursor.execute(f"TRUNCATE TABLE {SCHEMA}.{table}")
        await cursor.execute("BEGIN")
        for table in (table for table in self._empty if 0 < counts[table] < MANY_ROWS):
            await cursor.execute(f"DELETE FROM {SCHEMA}.{table}")
        for table in self._filled:
            await cursor.execute(f"DELETE FROM {SCHEMA}.{table}")
            await cursor.execute(f"INSERT INTO {SCHEMA}.{table} SELECT * FROM {BASELINE}.{table}")
        await cursor.execute("COMMIT")


async def apply_schema(settings: Settings) -> None:
    """Run the schema's own runner, as an operator would."""
    runner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schema",
        env=to_environ(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await runner.communicate()
    assert runner.returncode == 0, told.decode()


async def _count(cursor: Cursor, tables: list[str]) -> dict[str, int]:
    """Rows per table, counted up to MANY_ROWS."""
    if not tables:
        return {}
    one = "SELECT '{0}', COUNT(*) FROM (SELECT 1 FROM " + SCHEMA + ".{0} LIMIT {1}) AS some"
    await cursor.execute(" UNION ALL ".join(one.format(table, MANY_ROWS) for table in tables))
    return dict(await cursor.fetchall())


async def _end_other_sessions(cursor: Cursor, database: str) -> None:
    """Close what a test left open: its transaction would block the clean-up for ever."""
    # MySQL deprecates the information_schema's list, MariaDB has no other.
    mariadb = "MariaDB" in cursor.connection.get_server_info()
    home = "information_schema" if mariadb else "performance_schema"
    await cursor.execute(
        f"SELECT id FROM {home}.processlist WHERE db = %s AND id <> CONNECTION_ID()", (database,)
    )
    for (session,) in await cursor.fetchall():
        try:
            await cursor.execute(f"KILL {session}")
        except OperationalError as error:
            if error.args[0] != NO_SUCH_SESSION:  # it went by itself meanwhile
                raise
