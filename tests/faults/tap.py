"""
A tap: every entry of every stream, read beside the workers, also of streams that are gone.

A stream that is rewound (flushed, trimmed by a stranger, another server's) begins a new
tape, which holds what was left of it and all that is added.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis

from shared.keys import Keys
from shared.redis import redis_errors
from shared.streams import BEGINNING, EntryId, RawEntry, entry_id, read_range
from tests.faults.lives import identity_of
from tests.plays import STREAM

_PAGE = 2_000

#: A client of the present master that does not go through the proxy. Its caller closes it.
Direct = Callable[[], Redis]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the stream held it."""

    id: EntryId
    identity: str
    body: bytes
    #: Another producer's: it carries no stamp.
    is_foreign: bool = False


@dataclass(slots=True)
class Tape:
    """The entries of one stream from its start, until it is rewound."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def last(self) -> EntryId:
        return self.entries[-1].id if self.entries else BEGINNING

    def add(self, page: Sequence[RawEntry]) -> None:
        for identity, fields in page:
            body = fields[1]
            name = identity_of(orjson.loads(body))
            self.entries.append(Entry(entry_id(identity), name, body, b"i" not in fields[::2]))


class Tap:
    """Reads all the time; `tapes[shard]` has one tape per incarnation of the stream."""

    def __init__(self, keys: Keys, shards: int, direct: Direct) -> None:
        self._streams = [keys.stream(STREAM, shard) for shard in range(shards)]
        self._direct = direct
        self._lock = asyncio.Lock()
        self.tapes = [[Tape()] for _ in range(shards)]
        #: When a stream was last read to its end before something was taken from it.
        self.whole_at_ms = 0

    async def catch_up(self) -> None:
        """Read every stream of the present master to its end. Raises `StoreDown`."""
        async with self._lock, self._direct() as redis:
            for shard in range(len(self.tapes)):
                await self._read(redis, shard)

    async def last_words(self, redis: Redis, *command: Any) -> Any:
        """Read every stream to its end, and run *command* at that very moment; its reply.

        Only inside `rewinding`. Raises `StoreDown`.
        """
        for shard in range(len(self.tapes)):
            await self._read(redis, shard)
        self.whole_at_ms = time.time_ns() // 1_000_000
        with redis_errors():
            async with redis.pipeline(transaction=True) as pipe:
                for stream, tapes in zip(self._streams, self.tapes, strict=True):
                    pipe.xrange(stream, f"({tapes[-1].last}")
                if command:
                    pipe.execute_command(*command)
                replies = await pipe.execute()
        for tapes, page in zip(self.tapes, replies, strict=False):
            tapes[-1].add(page)
        return replies[-1] if command else None

    @asynccontextmanager
    async def rewinding(self, shards: Iterable[int]) -> AsyncIterator[None]:
        """Nobody else reads meanwhile; afterwards these streams are on a new tape.

        Raises `StoreDown` at the end when the present master does not answer.
        """
        async with self._lock:
            try:
                yield
            finally:
                async with self._direct() as redis:
                    for shard in shards:
                        self.tapes[shard].append(Tape())
                        await self._read(redis, shard)

    async def _read(self, redis: Redis, shard: int) -> None:
        tape = self.tapes[shard][-1]
        while page := await read_range(redis, self._streams[shard], tape.last, None, _PAGE):
            tape.add(page)
