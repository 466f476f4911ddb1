"""
Redis commands of many tasks over one connection, those of a moment in one write.

redis-py takes about 90 microseconds of processor time a command, most of it for getting a
connection and giving it back; here a command beside others takes a tenth of that.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, ResponseError

from shared.connections import Command, exchange, redis_errors
from shared.errors import StoreDown
from shared.scripts import script


class Commands:
    """Sends commands in the order they are given, and opens a new connection after a failure.

    That order holds for cancelled tasks too: what one of them asked for reaches Redis, and
    before whatever is asked for later.
    """

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        self._pool = redis.connection_pool
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def execute(self, *words: Any) -> Any:
        """The reply to one command. Raises `StoreDown`: then it was executed or not."""
        reply = await self._put(words)
        if isinstance(reply, Exception):
            raise StoreDown(f"Redis: {reply}") from reply
        return reply

    async def run_script(self, name: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What shared/lua/*name*.lua returns. Raises `StoreDown`."""
        text = script(name)
        words = (len(keys), *keys, *arguments)
        reply = await self._put(("EVALSHA", _sha1_of(text), *words))
        if isinstance(reply, NoScriptError):
            return await self.execute("EVAL", text, *words)
        if isinstance(reply, Exception):
            raise StoreDown(f"Redis: {reply}") from reply
        return reply

    def _put(self, words: Command) -> asyncio.Future[Any]:
        """Have *words* sent; the future gets the reply, which may be an error of Redis'."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return future

    async def _send(self) -> None:
        """Send what waits, all of it at once, until nothing does."""
        while self._waiting:
            asked, self._waiting = self._waiting, []
            try:
                with redis_errors():
                    async with asyncio.timeout(self._timeout_s):
                        replies = await self._exchange([words for words, _ in asked])
            except StoreDown as error:
                await self._drop()
                replies = [ResponseError(str(error))] * len(asked)
            except asyncio.CancelledError:
                await self._drop()
                raise
            for (_, future), reply in zip(asked, replies, strict=True):
                if not future.done():  # whoever waited may have been cancelled
                    future.set_result(reply)
        self._sending = None

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        if self._connection is None:
            # The pool's own, so that it is closed with the client.
            self._connection = await self._pool.get_connection()
        return await exchange(self._connection, commands)

    async def _drop(self) -> None:
        """Never use this connection again: replies of before may still come."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


@cache
def _sha1_of(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
