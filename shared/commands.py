"""
Redis commands of many tasks over one connection, those of a moment in one write.

redis-py takes about 90 microseconds of processor time a command, most of it for getting a
connection and giving it back; here a command beside others takes a fifth of that.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError

from shared.errors import StoreDown
from shared.redis import Command, exchange, redis_errors

#: A command, and who waits for its reply.
_Asked = tuple[Command, asyncio.Future[Any]]


class Commands:
    """Sends commands in the order they are given, also when whoever gave one is cancelled.

    A future that this hands out gets Redis' reply, or the error that took its place. After a
    failure, which all who wait are told, the next command opens another connection.
    """

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._connection: Connection | None = None
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None
        self._scripts: list[str] = []

    def put(self, *words: Any) -> asyncio.Future[Any]:
        """Have one command sent."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return future

    def put_script(self, text: str, key: str, *arguments: Any) -> asyncio.Future[Any]:
        """Have the script *text* run on *key*."""
        if text not in self._scripts:
            self._scripts.append(text)
            self.put("SCRIPT", "LOAD", text)
        return self.put("EVALSHA", _sha1_of(text), 1, key, *arguments)

    async def _send(self) -> None:
        """Send what waits, all of it at once, until nothing does."""
        asked: list[_Asked] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                _answer(asked, await self._replies([words for words, _ in asked]))
        finally:
            # Whatever ended this: nobody waits for ever, and the next command begins anew.
            self._sending = None
            asked, self._waiting = [*asked, *self._waiting], []
            _answer(asked, [StoreDown("Redis: not sent")] * len(asked))

    async def _replies(self, commands: Sequence[Command]) -> Sequence[Any]:
        try:
            with redis_errors():
                async with asyncio.timeout(self._timeout_s):
                    connection = self._connection or await self._opened()
                    replies = await exchange(connection, commands)
        except StoreDown as error:
            await self._drop()
            return [error] * len(commands)
        except BaseException:
            await self._drop()
            raise
        if any(isinstance(reply, NoScriptError) for reply in replies):
            await self._drop()  # somebody removed our scripts: a new connection loads them again
        return replies

    async def _opened(self) -> Connection:
        # One of the pool's, so that it is closed with the client.
        self._connection = await self._redis.connection_pool.get_connection()
        await exchange(self._connection, [("SCRIPT", "LOAD", text) for text in self._scripts])
        return self._connection

    async def _drop(self) -> None:
        """Never use this connection again: replies of before may still come."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)
            await self._redis.connection_pool.release(connection)


def _answer(asked: Sequence[_Asked], replies: Sequence[Any]) -> None:
    for (_, future), reply in zip(asked, replies, strict=True):
        if not future.done():  # whoever waited may have been cancelled
            future.set_result(reply)


@cache
def _sha1_of(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
