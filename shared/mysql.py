"""MySQL: how it opens, how it fails, and the one way to write in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import Any, cast

import asyncmy
from asyncmy.connection import Connection
from asyncmy.cursors import Cursor
from asyncmy.errors import MySQLError

from shared.errors import Contended, DataRefused, MoonwakeError, Taken, Transient, is_reset, text_of
from shared.settings import Settings

__all__ = [
    "Cursor",
    "Dialect",
    "MySQLError",
    "Pool",
    "Statement",
    "dialect_of",
    "error_text",
    "execute_together",
    "mysql_errors",
    "open_mysql",
    "reading",
    "rows_changed",
    "select_together",
    "snapshot",
    "transaction",
]

#: What passes by itself: lock wait, deadlock, read-only, shutdown, lost or killed
#: connection, too many connections, disk full, statement time-out, no quorum.
TRANSIENT = frozenset(
    [
        *(1205, 1213, 1290, 1836, 1792, 1053, 1927, 2003, 2006, 2013, 2014, 2055, 4031),
        *(1040, 1203, 1226, 1021, 1114, 1180, 1317, 1969, 3024, 1047, 1158, 1159, 1160, 1161),
    ]
)
#: Those of them that a smaller transaction meets less: lock wait, deadlock, statement time-out.
CONTENDED = frozenset((1205, 1213, 1317, 1969, 3024))
#: Refusals of a value whose SQLSTATE is the general HY000: wrong string, no default,
#: CHECK failed, bad UTF-8, row size; 1153 is a packet over max_allowed_packet.
DATA = frozenset((1153, 1364, 1366, 1300, 1118, 3819))
#: A unique key is taken, by its name or by that of its table.
TAKEN = frozenset((1062, 1586))

# One command for both servers: MySQL reads /*!80000 */, MariaDB reads /*M! */.
_SESSION = (
    "SET time_zone='+00:00',"
    " sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
    " /*!80000 , transaction_isolation='READ-COMMITTED' */"
    " /*M! , tx_isolation='READ-COMMITTED' */"
    # Whoever gives up waiting closes the connection, and the server goes on waiting for it.
    ", innodb_lock_wait_timeout=5 /*M! , idle_transaction_timeout=20 */"
    # Nor may who is gone without a word hold rows for hours; MySQL knows only idle sessions.
    " /*!80000 , wait_timeout=20 */"
)
#: A connection that was idle for longer (s) is replaced before the server closes it.
_RECYCLE_S = 15
# A worker frozen inside its transaction must not hold its shard's rows for hours.
_DRAIN_SESSION = (
    _SESSION + ", wait_timeout=5, innodb_lock_wait_timeout=2 /*M! , idle_transaction_timeout=3 */"
)


class Dialect(Enum):
    """The two servers whose SQL differs where it matters."""

    MYSQL = "MySQL"
    MARIADB = "MariaDB"


class Pool:
    """The driver's pool, first come first served.

    By itself it hands a connection to whoever asks at the right moment: under load some who
    wait are passed over until they time out.
    """

    def __init__(self, pool: asyncmy.pool.Pool) -> None:
        self._pool = pool
        self._turns = asyncio.Semaphore(pool.maxsize)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection, returned afterwards."""
        async with self._turns, self._pool.acquire() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection, used or not."""
        self._pool.terminate()
        await self._pool.wait_closed()


@asynccontextmanager
async def open_mysql(
    settings: Settings, *, drain: bool = False, with_database: bool = True
) -> AsyncIterator[Pool]:
    """A pool of pinned sessions (utf8mb4, UTC, strict, READ COMMITTED); connects when used."""
    driver_pool = await asyncmy.create_pool(
        minsize=0,
        maxsize=settings.mysql_pool_size,
        host=settings.mysql_host,
        port=settings.mysql_port,
        user=settings.mysql_user,
        password=settings.mysql_password,
        db=settings.mysql_database if with_database else None,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=3,
        pool_recycle=_RECYCLE_S,
        init_command=_DRAIN_SESSION if drain else _SESSION,
    )
    pool = Pool(driver_pool)
    try:
        yield pool
    finally:
        await pool.close()


@asynccontextmanager
async def reading(pool: Pool) -> AsyncIterator[Cursor]:
    """A cursor for single statements; each is its own transaction. Errors are translated."""
    with mysql_errors():
        async with pool.acquire() as connection, connection.cursor() as cursor:
            yield cursor


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Cursor]:
    """Commit on success, roll back on an error; errors are translated.

    Raises `Transient` when the outcome is unknown (the connection was lost, also
    inside COMMIT): read what the database holds before trying again.

    On cancellation asyncmy has closed the connection already and the server rolls
    back; a rollback from here would turn the CancelledError into an InterfaceError.
    """
    with mysql_errors():
        async with pool.acquire() as connection, connection.cursor() as cursor:
            try:
                await connection.begin()
                yield cursor
                await connection.commit()
            except Exception:
                await _roll_back(connection)
                raise


@asynccontextmanager
async def snapshot(pool: Pool) -> AsyncIterator[Cursor]:
    """A cursor that reads all tables as they were at one moment, and locks no row.

    Errors are translated.
    """
    with mysql_errors():
        async with pool.acquire() as connection, connection.cursor() as cursor:
            # Of this transaction alone: READ COMMITTED would see each statement's own moment.
            await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            try:
                yield cursor
                await connection.commit()
            except Exception:
                await _roll_back(connection)
                raise


async def _roll_back(connection: Connection) -> None:
    """Roll back, or close: a connection in an unknown state must not return to the pool."""
    try:
        await connection.rollback()
    except (MySQLError, OSError, asyncio.IncompleteReadError, RuntimeError):
        with suppress(OSError, RuntimeError):
            connection.close()


@contextmanager
def mysql_errors() -> Iterator[None]:
    """Raise `Transient`, `DataRefused` or one of their kinds for the driver's errors.

    Anything else (a missing table, a denied command) is a fault of set-up or of
    this program and passes unchanged.
    """
    try:
        yield
    except MySQLError as error:
        if (kind := _kind_of(error)) is None:
            raise
        raise kind(error_text(error)) from error
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        raise Transient(f"MySQL connection: {text_of(error)}") from error
    except RuntimeError as error:
        if not is_reset(error):
            raise
        raise Transient(f"MySQL connection: {error}") from error


def error_text(error: Exception) -> str:
    """What *error* says; one of the driver's own with its number, as people look it up."""
    if isinstance(error, MySQLError):
        return f"MySQL error {': '.join(map(str, error.args))}"
    return text_of(error)


def _kind_of(error: MySQLError) -> type[MoonwakeError] | None:
    """What *error* is in our words; None where it is a fault of set-up or program."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    if code in CONTENDED:
        return Contended
    if code in TRANSIENT or code == 0:
        return Transient
    if code in TAKEN:
        return Taken
    refused = code in DATA or str(error.sqlstate or "")[:2] in {"22", "23"}
    return DataRefused if refused else None


#: SQL and its values.
Statement = tuple[str, Sequence[Any]]


async def execute_together(cursor: Cursor, *statements: Statement) -> list[int]:
    """Execute *statements* in one round trip: how many rows each of them changed.

    The first that fails ends it, with the driver's error; those before it are done.
    """
    await _send_together(cursor, statements)
    changed = [rows_changed(cursor)]
    while await cursor.nextset():
        changed.append(rows_changed(cursor))
    return changed


async def select_together(cursor: Cursor, *statements: Statement) -> list[Sequence[Any]]:
    """Execute *statements*, which read or lock rows, in one round trip: the rows of each.

    Raises the driver's error of the first that fails.
    """
    await _send_together(cursor, statements)
    found: list[Sequence[Any]] = [await cursor.fetchall()]
    while await cursor.nextset():
        found.append(await cursor.fetchall())
    return found


async def _send_together(cursor: Cursor, statements: Sequence[Statement]) -> None:
    await cursor.execute(";".join(cursor.mogrify(text, values) for text, values in statements))


def rows_changed(cursor: Cursor) -> int:
    """How many rows the last statement inserted, changed or deleted."""
    return cast("int", cursor.rowcount)


def dialect_of(cursor: Cursor) -> Dialect:
    """Which server *cursor* talks to, by what it said when the connection opened."""
    version: str = cursor.connection.get_server_info()
    return Dialect.MARIADB if "MariaDB" in version else Dialect.MYSQL
