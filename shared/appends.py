"""
The connection on which groups of events are appended (protocol 1 to 4).

Its own, because nothing here may be retried blindly: an append whose outcome is
unknown may still land until its not-after time has passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from shared.durability import IN_MEMORY, MEMORY, proven
from shared.errors import AckUnmet, AppendRefused, StoreDown, is_reset
from shared.keys import Keys
from shared.redis import Command, exchange, redis_errors
from shared.scripts import script
from shared.streams import Append, ShardGroup, append_arguments, entry_id, now_ms_of
from shared.witness import Sighting, Witness

_APPEND = script("append").encode()
_APPEND_SHA = sha1(_APPEND, usedforsecurity=False).hexdigest().encode()
#: What append.lua answers of a shard before its events' own answers.
_HEADER = 4


class RedisClock:
    """Redis' own clock, estimated from the last time it told: never ahead of it."""

    def __init__(self) -> None:
        self._seen_ms = 0
        self._seen_at_s = 0.0

    def saw(self, now_ms: int) -> None:
        self._seen_ms = now_ms
        self._seen_at_s = time.monotonic()

    def now_ms(self) -> int:
        return self._seen_ms + int((time.monotonic() - self._seen_at_s) * 1000)


class AppendConnection:
    """Sends groups to Redis one after the other; reopens itself after a failure."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        stream: str,
        *,
        witness: Witness | None = None,
        timeout_s: float = 2.0,
        ack: str = MEMORY,
    ) -> None:
        self._pool = redis.connection_pool
        self._keys = keys
        self._stream = stream
        self._timeout_s = timeout_s
        self._ack = ack
        #: How the server of this connection keeps the level *ack*.
        self._promise = IN_MEMORY
        #: The level was seen not to be kept, and not to be kept again since.
        self._is_unmet = False
        self._connection: Connection | None = None
        self._clock = RedisClock()
        self._witness = witness

    async def append(self, groups: Sequence[Sequence[Append]]) -> list[list[AppendRefused | None]]:
        """Append each group (one shard each), all in one round trip.

        From time to time the streams of the other shards are looked at too, for the witness.

        Returns per event None, or why it was refused. Raises `AppendRefused` when the
        outcome of all is unknown, only once none of them can land any more, and
        `AckUnmet` when they did, but not as safely as an acknowledgement promises.
        """
        shards = [self._seen(group[0].shard, group) for group in groups]
        if self._witness is not None:
            busy = {group.shard for group in shards}
            shards += [self._seen(shard, ()) for shard in self._witness.due(busy)]
        if not shards:
            return []
        connection = self._connection or await self._opened()
        replies, answers = await self._send(connection, shards)
        outcomes = [
            self._outcomes(group, reply) for group, reply in zip(shards, replies, strict=True)
        ]
        if any(map(_is_read_only, replies)):
            # A replica now: whoever is master next is found by connecting again.
            await self.close()
        if answers and (fault := self._promise.fault(answers)):
            # What is refused here is in Redis all the same: the next group opens a new
            # connection, which asks whether the level is kept before anything is sent.
            self._is_unmet = True
            await self.close()
            raise AckUnmet(self._ack, fault, "see to Redis")
        return outcomes[: len(groups)]

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect(nowait=True)

    async def _opened(self) -> Connection:
        try:
            with redis_errors():
                return await self._open()
        except AckUnmet:
            self._is_unmet = True
            raise
        except StoreDown as error:
            raise AppendRefused(str(error)) from error

    async def _open(self) -> Connection:
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
                # Every group has a time-out of its own: another one costs a task each.
                connection.socket_timeout = None
                self._promise = await proven(
                    connection, self._ack, self._keys.probe, wary=self._is_unmet
                )
                now, _ = await exchange(connection, [("TIME",), ("SCRIPT", "LOAD", _APPEND)])
            self._clock.saw(now_ms_of(now))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        self._is_unmet = False
        return connection

    def _seen(self, shard: int, events: Sequence[Append]) -> ShardGroup:
        seen = None if self._witness is None else self._witness.last_seen(shard)
        if seen is None:
            return ShardGroup(shard, events)
        return ShardGroup(shard, events, seen.stamp, seen.added, seen.last.ms)

    async def _send(
        self, connection: Connection, shards: Sequence[ShardGroup]
    ) -> tuple[Sequence[Any], list[Any]]:
        """The shards' replies, and what Redis says of how safe all is; or none lands any more."""
        not_after_ms = self._clock.now_ms() + int(self._timeout_s * 1000)
        arguments = append_arguments(self._keys, self._stream, not_after_ms, shards)
        # A look alone writes nothing that could be unsafe.
        promised = self._promise.commands if any(group.events for group in shards) else ()
        try:
            async with asyncio.timeout(self._timeout_s + self._promise.wait_s):
                reply, *answers = await _run(connection, arguments, promised)
        except BaseException as error:
            # A reply may be left on the socket: this connection is never used again.
            await self.close()
            if not isinstance(error, RedisError | OSError | TimeoutError) and not is_reset(error):
                raise
            await self._until(not_after_ms)
            raise AppendRefused(f"Redis did not answer in time: {error!r}") from error
        if isinstance(reply, Exception):
            return [reply] * len(shards), answers
        now_ms, *replies = reply
        self._clock.saw(now_ms)
        late = AppendRefused("the append reached Redis too late")
        return replies or [late] * len(shards), answers

    def _outcomes(self, group: ShardGroup, reply: Any) -> list[AppendRefused | None]:
        if isinstance(reply, Exception):
            if not isinstance(reply, AppendRefused):
                reply = AppendRefused(f"Redis: {reply}")
            return [reply] * len(group.events)
        added, stamp, incarnation, last, *answers = reply
        refusals = [
            AppendRefused(f"Redis: {answer[1:].decode()}") if answer[:1] == b"!" else None
            for answer in answers
        ]
        if self._witness is not None and stamp:
            seen = Sighting(stamp.decode(), incarnation, added, entry_id(last))
            self._witness.saw(group.shard, seen, appended=refusals.count(None))
        return refusals

    async def _until(self, not_after_ms: int) -> None:
        left_s = (not_after_ms - self._clock.now_ms()) / 1000
        await asyncio.sleep(max(left_s, 0.0))


async def _run(
    connection: Connection, arguments: tuple[Any, ...], promised: Sequence[Command]
) -> list[Any]:
    """The script's reply, and those to what was *promised*."""
    replies = await exchange(connection, [("EVALSHA", _APPEND_SHA, *arguments), *promised])
    if isinstance(replies[0], NoScriptError):
        # Nothing was appended: any other answer may not go again, it would double events.
        replies = await exchange(connection, [("EVAL", _APPEND, *arguments), *promised])
    return replies


def _is_read_only(reply: Any) -> bool:
    if isinstance(reply, list):
        return any(answer[:9] == b"!READONLY" for answer in reply[_HEADER:])
    return isinstance(reply, ReadOnlyError)
