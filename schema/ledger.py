"""What a database knows of its own making: the files it has, and how far into the next it is.

DDL cannot be rolled back, so progress is kept per statement: `begin_statement` before it,
`end_statement` after it. A statement that has begun and not ended was cut off by a crash
or a lost connection, and may or may not have happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from schema.files import Applied, SqlFile
from shared.mysql import Cursor

_TABLES = {
    "schema_migrations": """
CREATE TABLE schema_migrations (
    version SMALLINT UNSIGNED NOT NULL,
    name VARCHAR(100) NOT NULL,
    checksum CHAR(64) NOT NULL,
    applied_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    duration_ms INT UNSIGNED NOT NULL,
    PRIMARY KEY (version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin""",
    "schema_progress": """
CREATE TABLE schema_progress (
    version SMALLINT UNSIGNED NOT NULL,
    statement_no SMALLINT UNSIGNED NOT NULL,
    checksum CHAR(64) NOT NULL,
    done BOOLEAN NOT NULL,
    PRIMARY KEY (version, statement_no)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin""",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A statement of an unfinished file; numbers count from 1."""

    version: int
    statement_no: int
    checksum: str
    done: bool


async def create(cursor: Cursor) -> None:
    """Make the ledger where it is missing (IF NOT EXISTS would leave a warning each time)."""
    there = await _tables(cursor)
    for name, sql in _TABLES.items():
        if name not in there:
            await cursor.execute(sql)


async def applied(cursor: Cursor) -> list[Applied]:
    """The files this database has, in order; none if it has no ledger yet."""
    if "schema_migrations" not in await _tables(cursor):
        return []
    await cursor.execute(
        "SELECT version, name, checksum, applied_at FROM schema_migrations ORDER BY version"
    )
    return [Applied(*row) for row in await cursor.fetchall()]


async def marks(cursor: Cursor) -> list[Mark]:
    """The statements of the file that was begun and not finished, in order."""
    if "schema_progress" not in await _tables(cursor):
        return []
    await cursor.execute(
        "SELECT version, statement_no, checksum, done FROM schema_progress"
        " ORDER BY version, statement_no"
    )
    rows = await cursor.fetchall()
    return [Mark(version, number, checksum, bool(done)) for version, number, checksum, done in rows]


async def begin_statement(cursor: Cursor, file: SqlFile, number: int) -> None:
    await cursor.execute(
        "INSERT INTO schema_progress (version, statement_no, checksum, done)"
        " VALUES (%s, %s, %s, FALSE)",
        (file.version, number, file.statement_checksum(number)),
    )


async def end_statement(cursor: Cursor, file: SqlFile, number: int) -> None:
    await cursor.execute(
        "UPDATE schema_progress SET done = TRUE WHERE version = %s AND statement_no = %s",
        (file.version, number),
    )


async def take_back(cursor: Cursor, file: SqlFile, number: int) -> None:
    """The server refused the statement: it is known not to have happened."""
    await cursor.execute(
        "DELETE FROM schema_progress WHERE version = %s AND statement_no = %s AND NOT done",
        (file.version, number),
    )


async def finish(cursor: Cursor, file: SqlFile, duration_ms: int) -> None:
    """Enter *file* as applied; its marks are not needed any more."""
    await cursor.execute("START TRANSACTION")
    await cursor.execute(
        "INSERT INTO schema_migrations (version, name, checksum, duration_ms)"
        " VALUES (%s, %s, %s, %s)",
        (file.version, file.name, file.checksum, duration_ms),
    )
    await cursor.execute("DELETE FROM schema_progress WHERE version = %s", (file.version,))
    await cursor.execute("COMMIT")


async def _tables(cursor: Cursor) -> set[str]:
    await cursor.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_name IN %s",
        (tuple(_TABLES),),
    )
    return {row[0] for row in await cursor.fetchall()}
