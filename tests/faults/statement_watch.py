"""Stops one transaction of a front at one of its statements, on a proxy before MySQL."""

from __future__ import annotations

import asyncio
from enum import Enum

from tests.faults.mysql_wire import statement_of
from tests.faults.tcp_proxy import Link

_BEGIN, _COMMIT = b"BEGIN", b"COMMIT"


class Moment(Enum):
    """When the transaction stops."""

    BEFORE = "before the server gets the statement"
    AFTER = "after the server executed it, before it is heard of"


class StatementWatch:
    """Lets the statements of the first transaction pass, up to the one that is *number* `at`.

    BEGIN is number 0. That one is held until `let_go`; with *at* None all pass, and are counted.
    """

    def __init__(self, at: int | None = None, moment: Moment = Moment.BEFORE) -> None:
        self._at = at
        self._moment = moment
        self._link: Link | None = None
        #: Statements of the transaction so far, COMMIT included.
        self.seen = 0
        self.over = False
        #: Set when the transaction is held.
        self.stopped = asyncio.Event()
        self._go_on = asyncio.Event()
        self._drops = False

    async def __call__(self, link: Link, packet: bytes) -> bool:
        statement = statement_of(packet)
        if not statement or self.over or not self._is_ours(link, statement):
            return False
        number, self.seen = self.seen, self.seen + 1
        self.over = statement == _COMMIT or number == self._at
        return number == self._at and await self._hold(link, packet)

    def _is_ours(self, link: Link, statement: bytes) -> bool:
        if self._link is None and statement == _BEGIN:
            self._link = link
        return self._link is link

    async def _hold(self, link: Link, packet: bytes) -> bool:
        if self._moment is Moment.AFTER:
            await link.stop_answers()
            link.to_server.write(packet)
            await link.server.read(1)  # it answers when it is done
        self.stopped.set()
        await self._go_on.wait()
        if self._drops or self._moment is Moment.AFTER:
            link.drop()
            return True
        return False

    def let_go(self, *, drop: bool) -> None:
        """Go on with the transaction that is held, or reset its connection."""
        self._drops = drop
        self._go_on.set()
