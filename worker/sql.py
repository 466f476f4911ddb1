"""
SQL text for many rows: rendered beside the server's work, in statements of bounded size.

Rows are rendered here and not by `executemany`, which turns into one statement
per row as soon as a value is not a bare %s, and knows no second dialect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.connections import Cursor, Dialect, dialect_of

#: The knee of both servers (engines, MySQL and MariaDB).
ROWS_PER_STATEMENT = 2_000
#: Well under max_allowed_packet of either server, whatever the characters.
CHARACTERS_PER_STATEMENT = 1_000_000
_ROWS_PER_TURN = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = Sequence[Any]


def row_text(literal: Callable[[Any], str], row: Row) -> str:
    """`(1,'a',NULL)`"""
    return "(" + ",".join([str(v) if type(v) is int else literal(v) for v in row]) + ")"


def datetime_text(ms: int) -> str:
    """Unix milliseconds as a DATETIME(3) in UTC."""
    return (_EPOCH + timedelta(milliseconds=ms)).strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03d}"


async def statement_rows(cursor: Cursor, rows: Iterable[Row]) -> AsyncIterator[list[str]]:
    """*rows* rendered, in groups that fit one statement; lets other tasks run in between."""
    literal = cursor.connection.literal
    group: list[str] = []
    characters = 0
    for number, row in enumerate(rows, start=1):
        text = row_text(literal, row)
        if group and (
            len(group) == ROWS_PER_STATEMENT or characters + len(text) > CHARACTERS_PER_STATEMENT
        ):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
        if number % _ROWS_PER_TURN == 0:
            await asyncio.sleep(0)
    if group:
        yield group


async def execute_all(cursor: Cursor, statements: AsyncIterator[str]) -> int:
    """Execute *statements* in order; the next is rendered while the server works on one.

    Returns the rows affected by all.
    """
    affected = 0
    running: asyncio.Task[int] | None = None
    try:
        async for statement in statements:
            if running is not None:
                affected += await running
            running = asyncio.create_task(cursor.execute(statement))
            await asyncio.sleep(0)
        if running is not None:
            affected += await running
    except BaseException:
        # The connection is in the middle of a statement: let it end, then fail.
        if running is not None and not running.done():
            await asyncio.wait([running])
        raise
    return affected


async def upsert(
    cursor: Cursor, table: str, columns: Sequence[str], updates: Sequence[str], rows: Iterable[Row]
) -> int:
    """Insert *rows*, or update where a unique key is taken.

    *updates* are assignments in which `{old}` before a column means the stored value
    and `{new}` the one that would have been inserted: "plays = {old}plays + {new}plays".
    """
    return await execute_all(cursor, _upserts(cursor, table, columns, updates, rows))


async def _upserts(
    cursor: Cursor, table: str, columns: Sequence[str], updates: Sequence[str], rows: Iterable[Row]
) -> AsyncIterator[str]:
    head = f"INSERT INTO {table} ({','.join(columns)}) VALUES "
    tail = upsert_clause(dialect_of(cursor), table, updates)
    async for group in statement_rows(cursor, rows):
        yield head + ",".join(group) + tail


def upsert_clause(dialect: Dialect, table: str, updates: Sequence[str]) -> str:
    """ON DUPLICATE KEY UPDATE in *dialect*.

    MySQL deprecates VALUES(column), with a warning per statement; MariaDB does not
    know the row alias.
    """
    alias = " AS new" if dialect is Dialect.MYSQL else ""
    assignments = ", ".join(_assignment(dialect, table, update) for update in updates)
    return f"{alias} ON DUPLICATE KEY UPDATE {assignments}"


def _assignment(dialect: Dialect, table: str, update: str) -> str:
    new = r"new.\1" if dialect is Dialect.MYSQL else r"VALUES(\1)"
    return re.sub(r"\{new\}(\w+)", new, update).replace("{old}", f"{table}.")


async def join_values(
    cursor: Cursor, columns: Sequence[str], rows: Iterable[Row], join: str
) -> AsyncIterator[str]:
    """SELECTs that join a derived table `k` of *rows* with stored ones.

    *join* is "SELECT ... FROM k STRAIGHT_JOIN t FORCE INDEX (...) ON ...". An IN list of
    thousands of row values would be a table scan; so would a fresh table without
    statistics if the index were not forced (engines, MySQL and MariaDB).
    """
    names = ",".join(columns)
    mysql = dialect_of(cursor) is Dialect.MYSQL
    async for group in statement_rows(cursor, rows):
        if mysql:
            values = ",".join(["ROW" + text for text in group])
            yield f"WITH k({names}) AS (VALUES {values}) {join}"
        else:
            yield f"WITH k({names}) AS (VALUES {','.join(group)}) {join}"
