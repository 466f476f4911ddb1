"""Brings a database to this program's schema: each file once, in order, by one runner at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from schema import ledger
from schema.database import ensure_database
from schema.files import SQL_DIRECTORY, SqlFile, load, pending
from shared.errors import DataRefused, SchemaError, Transient
from shared.mysql import Cursor, MySQLError, error_text, mysql_errors, open_mysql, reading
from shared.settings import Settings

Report = Callable[[str], None]

#: What a server answers when a CREATE, ADD or DROP has happened already: table, column,
#: index, foreign key or check exists; column, index or table is gone.
HAPPENED = frozenset((1050, 1060, 1061, 1826, 3822, 1091, 1051))


async def migrate(
    settings: Settings,
    report: Report,
    *,
    directory: Path = SQL_DIRECTORY,
    lock_timeout_s: int = 60,
) -> list[str]:
    """Apply what the database lacks, making the database too if it may; return the files' names.

    *report* gets one line for each thing done. Raises `SchemaError` if the database
    is not what these files make, if a statement is refused, or if another runner
    still works after *lock_timeout_s*; `Transient` if the server cannot be reached.
    Repeating it is always safe: it goes on where it stopped.
    """
    files = load(directory)
    await ensure_database(settings, report)
    async with (
        open_mysql(settings) as pool,
        reading(pool) as cursor,
        _sole_runner(cursor, settings.mysql_database, report, lock_timeout_s),
    ):
        # A table that a forgotten session holds must end in an error, not in a wait for ever.
        await cursor.execute("SET SESSION lock_wait_timeout = 60")
        await ledger.create(cursor)
        todo = pending(files, await ledger.applied(cursor))
        for file in todo:
            await _apply(cursor, file, report)
    if not todo:
        report(f"database {settings.mysql_database} is at version {len(files)}: nothing to do")
    return [file.name for file in todo]


async def check(cursor: Cursor, directory: Path = SQL_DIRECTORY) -> None:
    """Raise `SchemaError` unless the cursor's database has exactly this program's files."""
    todo = pending(load(directory), await ledger.applied(cursor))
    if todo:
        names = ", ".join(file.name for file in todo)
        raise SchemaError(f"the database lacks {names}: run `python -m schema`")
    for mark in await ledger.marks(cursor):
        raise SchemaError(
            f"the database is in the middle of file {mark.version:04}, which this program does "
            "not have: run the program that is as new as the database"
        )


@asynccontextmanager
async def _sole_runner(
    cursor: Cursor, database: str, report: Report, timeout_s: int
) -> AsyncIterator[None]:
    """Hold the server's lock for *database*; it ends with the connection at the latest."""
    # Lock names are the server's, not the database's, and at most 64 characters long.
    name = "moonwake.schema." + hashlib.sha256(database.encode()).hexdigest()[:16]
    if not await _lock(cursor, name, 0):
        report(f"another run works on database {database}: waiting up to {timeout_s} s for it")
        if not await _lock(cursor, name, timeout_s):
            raise SchemaError(
                f"another run still works on database {database}: run this again when it has ended"
            )
    try:
        yield
    finally:
        # Only to be quick: the connection is about to close.
        await cursor.connection.ensure_closed()


async def _lock(cursor: Cursor, name: str, timeout_s: int) -> bool:
    await cursor.execute("SELECT GET_LOCK(%s, %s)", (name, timeout_s))
    ((got,),) = await cursor.fetchall()
    return bool(got == 1)


async def _apply(cursor: Cursor, file: SqlFile, report: Report) -> None:
    """Run the statements of *file* that are not done yet and enter it in the ledger."""
    started_s = time.monotonic()
    marks = await ledger.marks(cursor)
    for mark in marks:
        _recognise(file, mark)
    done = sum(mark.done for mark in marks)
    if marks:
        report(f"{file.name} was begun earlier: going on with statement {done + 1}")
    for number in range(done + 1, len(file.statements) + 1):
        await _run(cursor, file, number, in_doubt=number <= len(marks))
    duration_ms = round((time.monotonic() - started_s) * 1000)
    await ledger.finish(cursor, file, duration_ms)
    report(f"{file.name} applied: {len(file.statements) - done} statements in {duration_ms} ms")


def _recognise(file: SqlFile, mark: ledger.Mark) -> None:
    """Raise `SchemaError` unless *mark* is of a statement of *file* as it reads now."""
    recognised = file.statement_checksum(mark.statement_no) == mark.checksum
    if mark.version != file.version or not recognised:
        raise SchemaError(
            f"statement {mark.statement_no} of file {mark.version:04} has run in another wording "
            f"than {file.name} holds now: put the file back; only statements that have not run "
            "may change"
        )


async def _run(cursor: Cursor, file: SqlFile, number: int, *, in_doubt: bool) -> None:
    """Run one statement between its marks; *in_doubt*: an earlier run may have done it."""
    if not in_doubt:
        await ledger.begin_statement(cursor, file, number)
    try:
        with mysql_errors():
            # DDL commits by itself and its mark follows; data and mark commit together.
            await cursor.execute("START TRANSACTION")
            await cursor.execute(file.statements[number - 1])
            await ledger.end_statement(cursor, file, number)
            await cursor.execute("COMMIT")
    except (MySQLError, DataRefused, Transient) as error:
        if in_doubt and _code(error) in HAPPENED:
            await ledger.end_statement(cursor, file, number)
            return
        # A refusal now does not tell what became of it in the run that was cut off.
        sure = not in_doubt and await _take_back(cursor, file, number)
        raise _failure(file, number, error, sure=sure) from error


async def _take_back(cursor: Cursor, file: SqlFile, number: int) -> bool:
    """Note that the statement was refused, unless the connection is lost: False."""
    try:
        with mysql_errors():
            await cursor.execute("ROLLBACK")
            await ledger.take_back(cursor, file, number)
    except (MySQLError, Transient):
        return False
    return True


def _failure(file: SqlFile, number: int, error: Exception, *, sure: bool) -> SchemaError:
    """What failed and what to do; *sure*: the statement is known to have changed nothing."""
    how = "It was refused and changed nothing."
    if not sure:
        how = "A run was cut off in it, so it may have happened; the next run finds out."
    hint = ""
    if _code(error) == 1050:
        hint = " (made by another program? Then give moonwake a database of its own)"
    return SchemaError(
        f"{file.name}, statement {number} of {len(file.statements)}: {error_text(error)}{hint}\n"
        f"{file.statements[number - 1]}\n"
        f"{how} The statements before it are done and recorded: mend the cause and run "
        f"`python -m schema` again, it goes on with statement {number}."
    )


def _code(error: BaseException | None) -> int:
    """The server's error number, also of a translated error; 0 if it gave none."""
    while error is not None and not isinstance(error, MySQLError):
        error = error.__cause__
    return error.args[0] if error and error.args and isinstance(error.args[0], int) else 0
