"""
MySQL, as far as the worker needs it: SQLite holds the rows, this the sessions and locks.

Every session sees what is committed and what it wrote itself (READ COMMITTED): what a
transaction wrote is taken back while somebody else looks, and done again when it goes
on. Nobody else can have changed those rows meanwhile, for they are locked.
`tests/simulation/test_conformance.py` holds all of this against a real server.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncmy.errors import OperationalError

from tests.simulation.loop import NOBODY, VirtualLoop
from tests.simulation.mysql_rows import Row, refusal, shared_rows
from tests.simulation.mysql_text import Statement, tables, translated

#: As every drain's session sets them (shared/connections.py).
LOCK_WAIT_S, IDLE_TRANSACTION_S, IDLE_S = 2.0, 3.0, 5.0
DEADLOCK = 1213
_ROWS_OF = {"INSERT": (1, 2, 0), "UPDATE": (1, 1, 0), "DELETE": (1, 1, 1)}


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement selected, or how many rows it says it changed."""

    rows: Sequence[tuple[Any, ...]] = ()
    affected: int = 0


@dataclass(eq=False, slots=True, repr=False)
class Session:
    """One connection at the server's side."""

    number: int
    #: When it was last heard of.
    seen_s: float
    open: bool = True
    in_transaction: bool = False
    done: list[tuple[str, Sequence[Any]]] = field(default_factory=list)
    waits: _Waiting | None = None

    def __repr__(self) -> str:
        return f"session {self.number}"


@dataclass(eq=False, slots=True)
class _Waiting:
    session: Session
    blocker: Session
    statement: Statement
    values: Sequence[Any]
    answer: asyncio.Future[Any]


class _Blocked(Exception):
    def __init__(self, holder: Session) -> None:
        super().__init__()
        self.holder = holder


class MysqlServer:
    """One server; every method is what it does when a request arrives."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._rows = shared_rows()
        self._rows.reset()
        self._locks: dict[Row, Session] = {}
        self._waiting: list[_Waiting] = []
        self._open: list[Session] = []
        #: Whose uncommitted rows SQLite shows at the moment.
        self._shown: Session | None = None
        #: Called after each commit that changed anything.
        self.committed: Callable[[], None] = lambda: None
        #: Asked before each statement: the code of an error to fail with, or 0.
        self.trouble: Callable[[], int] = lambda: 0

    # --- sessions -------------------------------------------------------------------------

    def connect(self) -> Session:
        session = Session(len(self._open) + 1, self._loop.time())
        self._open.append(session)
        return session

    def close(self, session: Session) -> None:
        """The connection is gone: what it had not committed is taken back."""
        session.open = False
        self._end(session)

    def restart(self) -> None:
        """Every connection is gone, and what was not committed."""
        for session in [each for each in self._open if each.open]:
            self.close(session)

    def begin(self, session: Session) -> None:
        self._see(session)
        session.in_transaction = True

    def commit(self, session: Session) -> None:
        self._see(session)
        changed = bool(session.done)
        if changed:
            self._show(session)
            self._rows.execute("COMMIT")
            self._shown = None
            session.done = []
        self._end(session)
        if changed:
            self.committed()

    def rollback(self, session: Session) -> None:
        self._see(session)
        self._end(session)

    def execute(
        self, session: Session, statement: Statement, values: Sequence[Any]
    ) -> Result | asyncio.Future[Any]:
        """Its result; a future where it has to wait for somebody's row lock."""
        self._see(session)
        if code := self.trouble():
            if code == DEADLOCK:
                self._end(session)
            raise OperationalError(code, "trouble")
        try:
            return self._run(session, statement, values)
        except _Blocked as blocked:
            return self._wait(session, blocked.holder, statement, values)

    def select(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What is committed."""
        self._show(None)
        return self._rows.execute(query, values).fetchall()

    def _see(self, session: Session) -> None:
        now_s = self._loop.time()
        if session.open and now_s - session.seen_s > (
            IDLE_TRANSACTION_S if session.in_transaction else IDLE_S
        ):
            self.close(session)
        if not session.open:
            raise OperationalError(2013, "Lost connection to MySQL server during query")
        session.seen_s = now_s

    def _end(self, session: Session) -> None:
        """The end of its transaction: nothing of it is shown, its locks are free."""
        if self._shown is session:
            self._show(None)
        session.in_transaction, session.done = False, []
        if session.waits is not None:
            self._answer(session.waits, OperationalError(2013, "Lost connection"))
        self._locks = {row: held for row, held in self._locks.items() if held is not session}
        for waiting in [each for each in self._waiting if each.blocker is session]:
            self._retry(waiting)

    # --- statements -----------------------------------------------------------------------

    def _show(self, session: Session | None) -> None:
        """Let SQLite hold what is committed, and what *session* did since."""
        if self._shown is session:
            return
        if self._shown is not None:
            self._rows.execute("ROLLBACK")
        self._shown = None
        if session is not None and session.done:
            self._rows.execute("BEGIN")
            self._shown = session
            for text, values in session.done:
                self._rows.execute(text, values)

    def _run(self, session: Session, statement: Statement, values: Sequence[Any]) -> Result:
        self._show(session)
        if statement.verb in {"SELECT", "WITH"} and not statement.locks:
            return Result(self._rows.execute(statement.text, values).fetchall())
        if session.in_transaction and self._shown is not session:
            self._rows.execute("BEGIN")
            self._shown = session
        self._rows.execute("SAVEPOINT statement")
        try:
            result = self._change(session, statement, values)
        except BaseException:
            self._rows.execute("ROLLBACK TO statement")
            self._rows.execute("RELEASE statement")
            raise
        self._rows.execute("RELEASE statement")
        if session.in_transaction:
            session.done.append((statement.text, values))
        elif result.affected:
            self.committed()
        return result

    def _change(self, session: Session, statement: Statement, values: Sequence[Any]) -> Result:
        touched = self._rows.touched
        touched.clear()
        try:
            rows = self._rows.execute(statement.text, values).fetchall()
        except sqlite3.IntegrityError as error:
            raise refusal(str(error)) from error
        for row, _ in touched:
            if (holder := self._locks.get(row, session)) is not session:
                raise _Blocked(holder)
        if session.in_transaction:
            self._locks.update((row, session) for row, _ in touched)
        if statement.locks:
            return Result([row[1:] for row in rows])
        counts = _ROWS_OF[statement.verb]
        return Result(affected=sum(counts[kind] for _, kind in touched))

    # --- locks ----------------------------------------------------------------------------

    def _wait(
        self, session: Session, holder: Session, statement: Statement, values: Sequence[Any]
    ) -> asyncio.Future[Any]:
        answer = self._loop.create_future()
        waiting = _Waiting(session, holder, statement, values, answer)
        session.waits = waiting
        self._waiting.append(waiting)
        self._loop.call_later(LOCK_WAIT_S, self._give_up, waiting, context=NOBODY)
        self._look_at(waiting)
        return answer

    def _look_at(self, waiting: _Waiting) -> None:
        """Refuse a circle; see that a holder that fell silent is not waited for for ever."""
        at: Session | None = waiting.blocker
        while at is not None and at.waits is not None:
            at = at.waits.blocker
            if at is waiting.session:
                self._answer(waiting, OperationalError(DEADLOCK, "Deadlock found"))
                self._end(waiting.session)
                return
        silent_s = waiting.blocker.seen_s + IDLE_TRANSACTION_S
        self._loop.call_at(silent_s + 0.001, self._reap, waiting.blocker, context=NOBODY)

    def _reap(self, session: Session) -> None:
        is_silent = self._loop.time() - session.seen_s > IDLE_TRANSACTION_S
        if session.in_transaction and is_silent and session.waits is None:
            self.close(session)

    def _give_up(self, waiting: _Waiting) -> None:
        if not waiting.answer.done():
            self._answer(waiting, OperationalError(1205, "Lock wait timeout exceeded"))

    def _retry(self, waiting: _Waiting) -> None:
        if waiting.answer.done():
            return
        try:
            result = self._run(waiting.session, waiting.statement, waiting.values)
        except _Blocked as blocked:
            waiting.blocker = blocked.holder
            self._look_at(waiting)
        except Exception as error:  # noqa: BLE001 (an answer like any other)
            self._answer(waiting, error)
        else:
            self._answer(waiting, result)

    def _answer(self, waiting: _Waiting, result: Any) -> None:
        self._waiting.remove(waiting)
        waiting.session.waits = None
        waiting.session.seen_s = self._loop.time()
        if isinstance(result, Exception):
            waiting.answer.set_exception(result)
        else:
            waiting.answer.set_result(result)

    # --- backups --------------------------------------------------------------------------

    def backup(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every committed row."""
        return {table.name: self.select(f"SELECT * FROM {table.name}") for table in tables()}

    def restore(self, backup: dict[str, list[tuple[Any, ...]]]) -> None:
        """Hold what *backup* holds; to be done between `restart` and the first session."""
        self._show(None)
        self._rows.reset()
        for name, rows in backup.items():
            for row in rows:
                self._rows.execute(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", row)


__all__ = ["MysqlServer", "Result", "Session", "translated"]
