"""
SQL text for many rows, in statements of bounded size, rendered beside the server's work.

Rows are rendered here and not by `executemany`, which turns into one statement
per row as soon as a value is not a bare %s, and knows no second dialect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import orjson

from shared.mysql import Cursor, Dialect, dialect_of
from worker.ahead import ahead

#: The knee of both servers (engines, MySQL and MariaDB).
ROWS_PER_STATEMENT = 2_000
#: Well under max_allowed_packet of either server; one row alone may be longer.
BYTES_PER_STATEMENT = 4_000_000
#: Rows made before other tasks of the process get their turn.
_ROWS_PER_TURN = 100

Row = Sequence[Any]
Literal = Callable[[Any], str]


def rows_text(literal: Literal, rows: Sequence[Row], prefix: bytes = b"") -> bytes:
    """`(1,"a",null),(2,"b",null)`, with *prefix* before each parenthesis.

    JSON is SQL here, and rendered in one call: the sessions' sql_mode takes a text in
    double quotes for a string, and `\\"`, `\\\\`, `\\n`, `\\r`, `\\t` and `\\b` mean the same in
    both. What does not (`\\f`, `\\u001f`, bytes), or could be mistaken for the
    parentheses to come, is rendered value by value.
    """
    text = _json(rows)
    if text is None or text.count(b"],[") != len(rows) - 1:
        return b",".join([prefix + _row_text(literal, row) for row in rows])
    return prefix + b"(" + text[2:-2].replace(b"],[", b")," + prefix + b"(") + b")"


def _row_text(literal: Literal, row: Row) -> bytes:
    text = _json(row)
    if text is None:
        # The driver passes bytes through as surrogates.
        return ("(" + ",".join(map(literal, row)) + ")").encode(errors="surrogateescape")
    return b"(" + text[1:-1] + b")"


def _json(values: Sequence[Any]) -> bytes | None:
    """*values* as JSON that is SQL too; None where there is none."""
    try:
        text = orjson.dumps(values)
    except TypeError:
        return None
    return None if b"\\u" in text or b"\\f" in text else text


async def _texts(literal: Literal, rows: Iterable[Row]) -> AsyncIterator[bytes]:
    """*rows* rendered, as many as one statement takes; lets other tasks run in between."""
    left = iter(rows)
    texts: list[bytes] = []
    length = number = 0
    while part := list(islice(left, _ROWS_PER_TURN)):
        for text in _bounded(literal, part):
            if texts and length + len(text) > BYTES_PER_STATEMENT:
                yield b",".join(texts)
                texts, length, number = [], 0, 0
            texts.append(text)
            length += len(text)
        number += len(part)
        if number >= ROWS_PER_STATEMENT:
            yield b",".join(texts)
            texts, length, number = [], 0, 0
        await asyncio.sleep(0)
    if texts:
        yield b",".join(texts)


def _bounded(literal: Literal, rows: Sequence[Row], prefix: bytes = b"") -> Iterator[bytes]:
    """*rows* rendered, halved until each part is short enough for a statement."""
    text = rows_text(literal, rows, prefix)
    if len(text) <= BYTES_PER_STATEMENT or len(rows) == 1:
        yield text
    else:
        middle = len(rows) // 2
        yield from _bounded(literal, rows[:middle], prefix)
        yield from _bounded(literal, rows[middle:], prefix)


async def execute_all(cursor: Cursor, statements: AsyncIterator[bytes]) -> None:
    """Execute *statements* in order."""
    async for statement in statements:
        await cursor.execute(statement)


async def upsert(
    cursor: Cursor, table: str, columns: Sequence[str], updates: Sequence[str], rows: Iterable[Row]
) -> None:
    """Insert *rows*, or update where a unique key is taken.

    *updates* are assignments in which `{old}` before a column means the stored value
    and `{new}` the one that would have been inserted: "plays = {old}plays + {new}plays".
    """
    async with ahead(upserts(cursor, table, columns, updates, rows)) as statements:
        await execute_all(cursor, statements)


async def upserts(
    cursor: Cursor, table: str, columns: Sequence[str], updates: Sequence[str], rows: Iterable[Row]
) -> AsyncIterator[bytes]:
    """The statements of `upsert`; other tasks run while they are rendered."""
    head = f"INSERT INTO {table} ({','.join(columns)}) VALUES ".encode()
    tail = upsert_clause(dialect_of(cursor), table, updates).encode()
    async for text in _texts(cursor.connection.literal, rows):
        yield head + text + tail


def upsert_clause(dialect: Dialect, table: str, updates: Sequence[str]) -> str:
    """ON DUPLICATE KEY UPDATE in *dialect*.

    MySQL deprecates VALUES(column), with a warning per statement; MariaDB does not
    know the row alias.
    """
    return _upsert_clause(dialect, table, tuple(updates))


@cache
def _upsert_clause(dialect: Dialect, table: str, updates: tuple[str, ...]) -> str:
    alias = " AS new" if dialect is Dialect.MYSQL else ""
    assignments = ", ".join(_assignment(dialect, table, update) for update in updates)
    return f"{alias} ON DUPLICATE KEY UPDATE {assignments}"


def _assignment(dialect: Dialect, table: str, update: str) -> str:
    new = r"new.\1" if dialect is Dialect.MYSQL else r"VALUES(\1)"
    return re.sub(r"\{new\}(\w+)", new, update).replace("{old}", f"{table}.")


async def select_joined(
    cursor: Cursor, columns: Sequence[str], rows: Sequence[Row], join: str
) -> list[tuple[Any, ...]]:
    """What *join* selects, "SELECT ... FROM k STRAIGHT_JOIN t FORCE INDEX (...) ON ...".

    `k` is a derived table of *rows*. An IN list of thousands of row values would be a
    table scan; so would a fresh table without statistics if the index were not forced
    (engines, MySQL and MariaDB).
    """
    head, tail = f"WITH k({','.join(columns)}) AS (VALUES ".encode(), f") {join}".encode()
    prefix = b"ROW" if dialect_of(cursor) is Dialect.MYSQL else b""
    selected: list[tuple[Any, ...]] = []
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        group = rows[start : start + ROWS_PER_STATEMENT]
        for text in _bounded(cursor.connection.literal, group, prefix):
            await cursor.execute(head + text + tail)
            selected += await cursor.fetchall()
    return selected
