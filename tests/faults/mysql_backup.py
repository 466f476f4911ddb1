"""A backup of the site's database, all tables as of one moment, and its restoration."""

from __future__ import annotations

from collections.abc import Sequence

from asyncmy.cursors import Cursor

from tests.faults.mysql_control import MysqlControl
from tests.plays import select

_BACKUP = "moonwake_backup"
#: A frozen worker may hold a table for some seconds.
_PREPARE = "SET lock_wait_timeout = 20, foreign_key_checks = 0, unique_checks = 0"


class Backup:
    """One copy, in a database beside the site's, so that both survive what Redis goes through."""

    def __init__(self, control: MysqlControl) -> None:
        self._control = control
        self._database = control.account.database
        self._tables: Sequence[str] = ()

    async def take(self) -> None:
        """Copy every table while writers wait; an earlier copy is dropped.

        Raises asyncmy's OperationalError 1205 when a table cannot be locked.
        """
        async with self._control.admin() as cursor:
            await cursor.execute(_PREPARE)
            if await select(cursor, "SHOW DATABASES LIKE %s", _BACKUP):
                await cursor.execute(f"DROP DATABASE {_BACKUP}")
            await cursor.execute(f"CREATE DATABASE {_BACKUP} CHARACTER SET utf8mb4")
            query = f"SHOW FULL TABLES FROM {self._database} WHERE Table_type = 'BASE TABLE'"
            self._tables = [row[0] for row in await select(cursor, query)]
            for table in self._tables:
                await cursor.execute(
                    f"CREATE TABLE {_BACKUP}.{table} LIKE {self._database}.{table}"
                )
            await self._copy(cursor, self._database, _BACKUP)

    async def restore(self) -> None:
        """Put the copy in the place of everything; nobody else may be connected meanwhile."""
        async with self._control.admin() as cursor:
            await cursor.execute(_PREPARE)
            await self._copy(cursor, _BACKUP, self._database)

    async def _copy(self, cursor: Cursor, source: str, target: str) -> None:
        locks = ", ".join(
            f"{source}.{table} READ, {target}.{table} WRITE" for table in self._tables
        )
        await cursor.execute("SET autocommit = 0")
        await cursor.execute(f"LOCK TABLES {locks}")
        for table in self._tables:
            await cursor.execute(f"DELETE FROM {target}.{table}")
            await cursor.execute(f"INSERT INTO {target}.{table} SELECT * FROM {source}.{table}")
        await cursor.execute("COMMIT")
        await cursor.execute("UNLOCK TABLES")
