"""Stops transactions of a front at one of their statements, on a proxy before MySQL."""

from __future__ import annotations

import asyncio
from enum import Enum

from tests.faults.mysql_wire import statement_of
from tests.faults.tcp_proxy import Link

_BEGIN, _COMMIT = b"BEGIN", b"COMMIT"
#: In place of a statement's number: the last one, whatever its number.
COMMIT = -1
STOP_TIMEOUT_S = 60.0


class Moment(Enum):
    """When the transaction stops."""

    BEFORE = "before the server gets the statement"
    AFTER = "after the server executed it, before it is heard of"


class StatementWatch:
    """Lets the first *transactions* transactions pass up to their statement number *at*.

    BEGIN is number 0. Each is held there until `let_go`; with *at* None all pass, and are
    counted. What a front tries again afterwards passes.
    """

    def __init__(
        self, at: int | None = None, moment: Moment = Moment.BEFORE, transactions: int = 1
    ) -> None:
        self._at = at
        self._moment = moment
        self._left = transactions
        self._unheld = transactions
        #: Connection -> the number of the statement that its transaction is at.
        self._numbers: dict[Link, int] = {}
        #: Statements of these transactions so far, COMMIT included.
        self.seen = 0
        #: Set when all of them are held.
        self.stopped = asyncio.Event()
        self._go_on = asyncio.Event()
        self._drops = False

    async def __call__(self, link: Link, packet: bytes) -> bool:
        statement = statement_of(packet)
        if not statement or not self._is_ours(link, statement):
            return False
        number = self._numbers[link]
        self._numbers[link] += 1
        self.seen += 1
        is_there = statement == _COMMIT if self._at == COMMIT else number == self._at
        if is_there or statement == _COMMIT:
            del self._numbers[link]
        return is_there and await self._hold(link, packet)

    def _is_ours(self, link: Link, statement: bytes) -> bool:
        if statement == _BEGIN and self._left:
            self._left -= 1
            self._numbers[link] = 0
        return link in self._numbers

    async def _hold(self, link: Link, packet: bytes) -> bool:
        if self._moment is Moment.AFTER:
            await link.stop_answers()
            link.to_server.write(packet)
            await link.server.read(1)  # it answers when it is done
        self._unheld -= 1
        if not self._unheld:
            self.stopped.set()
        await self._go_on.wait()
        if self._drops or self._moment is Moment.AFTER:
            link.drop()
            return True
        return False

    async def until_stopped(self) -> None:
        """Return when all transactions are held."""
        await asyncio.wait_for(self.stopped.wait(), STOP_TIMEOUT_S)

    def let_go(self, *, drop: bool) -> None:
        """Go on with the transactions that are held, or reset their connections. Once."""
        if not self._go_on.is_set():
            self._drops = drop
            self._go_on.set()
