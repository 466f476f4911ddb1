"""The part of asyncmy's pool, connection and cursor that the product's code uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from asyncmy.errors import OperationalError

from tests.simulation.loop import NOBODY, Crashed, Process
from tests.simulation.mysql_server import IDLE_S, MysqlServer, Result, Session
from tests.simulation.mysql_text import translated
from tests.simulation.network import Wire


class Pool:
    """The connections of one process; opened when used, closed when it dies."""

    def __init__(self, server: MysqlServer, wire: Wire, process: Process) -> None:
        self.server = server
        self.wire = wire
        self.process = process
        self._free: list[Connection] = []
        self._sessions: list[Session] = []
        process.obituaries.append(self._die)

    def acquire(self) -> _Acquired:
        return _Acquired(self)

    async def take(self) -> Connection:
        while self._free:
            connection = self._free.pop(0)
            if connection.is_usable():
                return connection
        session: Session = await self.wire.ask(
            self.process, ("connect to MySQL", ()), self.server.connect
        )
        self._sessions.append(session)
        if not self.process.alive:
            self._die()
            raise Crashed
        return Connection(self, session)

    def give_back(self, connection: Connection) -> None:
        if connection.is_usable() and not connection.session.in_transaction:
            self._free.append(connection)
        else:
            connection.close()

    def _die(self) -> None:
        """The server learns of it a little later: a COMMIT under way is still done."""
        for session in self._sessions:
            if session.open:
                delay_s = self.wire.delay_s()
                self.wire.loop.call_later(delay_s, self.server.close, session, context=NOBODY)


class _Acquired:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        self._pool.give_back(self._connection)


class Connection:
    """One connection; given up as soon as anything about it is unknown."""

    def __init__(self, pool: Pool, session: Session) -> None:
        self._pool = pool
        self.session = session
        self._generation = pool.wire.generation
        self._closed = False

    def is_usable(self) -> bool:
        """Has nobody closed it, as far as can be seen from here?"""
        wire = self._pool.wire
        is_fresh = wire.loop.time() - self.session.seen_s <= IDLE_S
        is_same = wire.generation == self._generation
        return not self._closed and self.session.open and is_fresh and is_same

    def cursor(self) -> Cursor:
        return Cursor(self)

    def literal(self, value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"x'{value.hex()}'"
        if isinstance(value, str):
            return "'" + value.replace("'", "''") + "'"
        return str(value)

    def get_server_info(self) -> str:
        return "11.4-MariaDB, a model"

    async def begin(self) -> None:
        await self.ask(("BEGIN", ()), self._pool.server.begin)

    async def commit(self) -> None:
        await self.ask(("COMMIT", ()), self._pool.server.commit)

    async def rollback(self) -> None:
        await self.ask(("ROLLBACK", ()), self._pool.server.rollback)

    def close(self) -> None:
        """Hang up; the server takes notice a little later."""
        if not self._closed:
            self._closed = True
            wire = self._pool.wire
            wire.loop.call_later(
                wire.delay_s(), self._pool.server.close, self.session, context=NOBODY
            )

    async def ask(self, what: tuple[str, Any], work: Callable[[Session], Any]) -> Any:
        pool, session = self._pool, self.session
        if self._closed:
            raise OperationalError(2055, "the connection is closed")
        try:
            return await pool.wire.ask(
                pool.process, what, lambda: work(session), lambda: pool.server.close(session)
            )
        except asyncio.CancelledError:
            self.close()  # as asyncmy does: nobody knows what it would say next
            raise
        except OperationalError as error:
            if error.args[0] == 2013:
                self._closed = True
            raise


class Cursor:
    """Runs statements, one at a time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._rows: list[tuple[Any, ...]] = []
        self._server = connection._pool.server

    async def __aenter__(self) -> Cursor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._rows = []

    async def execute(self, query: str | bytes, args: Sequence[Any] = ()) -> int:
        """The rows selected, or changed as MySQL counts them."""
        statement = translated(query)
        values = tuple(args)
        result: Result = await self.connection.ask(
            (statement.said, values),
            lambda session: self._server.execute(session, statement, values),
        )
        self._rows = list(result.rows)
        return len(self._rows) if statement.verb in {"SELECT", "WITH"} else result.affected

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    async def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows
