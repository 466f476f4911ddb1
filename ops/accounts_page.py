"""A transaction of an import: what it reads, what it writes unless it is dry, what it counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ops.accounts_books import Books
from ops.card_plan import PlannedKey
from ops.lunatv_accounts import Site
from ops.lunatv_values import IpReward
from shared.mysql import Cursor


@dataclass(slots=True)
class Unwritten:
    """What a dry run would have written, as far as later transactions ask for it."""

    users: set[str] = field(default_factory=set)
    #: Invitation code -> user.
    codes: dict[str, str] = field(default_factory=dict)
    #: (inviter, invitee) of records of points earned.
    earned: set[tuple[str, str]] = field(default_factory=set)
    rewards: list[IpReward] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is imported, and how; *day_of* gives the ISO date of Unix milliseconds."""

    site: Site
    #: By their hashes, and by whom they are bound to.
    keys: dict[str, PlannedKey]
    owned: dict[str | None, list[PlannedKey]]
    owner: str
    now_ms: int
    day_of: Callable[[int], str]
    dry: bool
    restore: bool
    unwritten: Unwritten = field(default_factory=Unwritten)


@dataclass(frozen=True, slots=True)
class Page:
    """One transaction of *task*; decisions rest on what was read, never on what a write did."""

    task: Task
    cursor: Cursor
    books: Books

    async def rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        """What *query* finds."""
        await self.cursor.execute(query, values)
        return list(await self.cursor.fetchall())

    async def row(self, query: str, values: Sequence[Any]) -> Any:
        """The first row that *query* finds, or None."""
        await self.cursor.execute(query, values)
        return await self.cursor.fetchone()

    async def rows_in(
        self, query: str, values: Iterable[Any], before: Sequence[Any] = (), *, after: str = ""
    ) -> list[Any]:
        """What *query*, which ends in IN, finds for *values*, and *after* it."""
        wanted = list(values)
        if not wanted:
            return []
        places = ", ".join(["%s"] * len(wanted))
        return await self.rows(f"{query} ({places}){after}", (*before, *wanted))

    async def write(self, statement: str, values: Sequence[Any]) -> None:
        """Do *statement*, unless the run is dry."""
        if not self.task.dry:
            await self.cursor.execute(statement, values)

    async def write_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Do *statement* for each of *rows*, unless the run is dry."""
        if rows and not self.task.dry:
            await self.cursor.executemany(statement, rows)
