"""The rows of the model of MySQL, in SQLite, and what it says in MySQL's words."""

from __future__ import annotations

import sqlite3
from functools import lru_cache

from asyncmy.errors import DataError, IntegrityError, MySQLError

from tests.simulation.mysql_text import tables, triggers

#: A table and the primary key of one row in it.
Row = tuple[str, str]


class Rows:
    """SQLite with the product's tables; *touched*: what the last statement wrote, and how."""

    def __init__(self) -> None:
        self.touched: list[tuple[Row, int]] = []
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.create_function("touch", 3, self._touch)
        self._database.create_function("UTC_TIMESTAMP", 1, lambda _: "2026-01-01 00:00:00.000")
        self._database.create_function("CONCAT", -1, lambda *parts: "".join(map(str, parts)))
        for statement in (*(table.statement for table in tables()), *triggers()):
            self._database.execute(statement)
        self.execute = self._database.execute

    def _touch(self, table: str, key: str, kind: int) -> None:
        self.touched.append(((table, key), kind))

    def reset(self) -> None:
        if self._database.in_transaction:
            self.execute("ROLLBACK")
        for table in tables():
            self.execute(f"DELETE FROM {table.name}")


@lru_cache(maxsize=1)
def shared_rows() -> Rows:
    """One for all schedules of this process: making it takes longer than most of them."""
    return Rows()


def refusal(what: str) -> Exception:
    error: MySQLError
    if "CHECK" in what:
        error = DataError(1264, f"Out of range value: {what}")
        error.sqlstate = "22003"
    elif "NOT NULL" in what:
        error = IntegrityError(1048, what)
        error.sqlstate = "23000"
    else:
        error = IntegrityError(1062, f"Duplicate entry: {what}")
        error.sqlstate = "23000"
    return error
