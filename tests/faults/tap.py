"""
A tap: every entry of every stream, read beside the workers, also of streams that are gone.

A stream that is rewound (flushed, deleted, another server's) begins a new tape.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis

from shared.connections import redis_errors
from shared.errors import StoreDown
from shared.keys import Keys
from shared.streams import BEGINNING, EntryId, RawEntry, entry_id
from tests.plays import STREAM

_PAGE = 2_000
_POLL_S = 0.1

#: A client of the present master, not through the proxy. Its caller closes it.
Direct = Callable[[], Redis]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as the stream held it; every producer of the run puts a nonce into it."""

    id: EntryId
    nonce: str
    body: bytes


@dataclass(slots=True)
class Tape:
    """The entries of one stream from its start, until it is rewound."""

    entries: list[Entry] = field(default_factory=list)
    #: Ids of those it still held when it was rewound or the run ended.
    kept: set[EntryId] = field(default_factory=set)

    @property
    def last(self) -> EntryId:
        return self.entries[-1].id if self.entries else BEGINNING


class Tap:
    """Reads all the time; `tapes[shard]` has one tape per incarnation of the stream."""

    def __init__(self, keys: Keys, shards: int, direct: Direct) -> None:
        self._streams = [keys.stream(STREAM, shard) for shard in range(shards)]
        self._direct = direct
        self._lock = asyncio.Lock()
        self.tapes = [[Tape()] for _ in range(shards)]

    async def run(self) -> None:
        """Read until cancelled; a server that does not answer is asked again later."""
        while True:
            try:
                await self.catch_up()
            except StoreDown:
                pass
            await asyncio.sleep(_POLL_S)

    async def catch_up(self) -> None:
        """Read every stream of the present master to its end. Raises `StoreDown`."""
        async with self._lock, self._direct() as redis:
            await self.last_words(redis)

    async def last_words(self, redis: Redis, *command: Any) -> Any:
        """Read every stream to its end, and run *command* at that very moment; its reply."""
        raise NotImplementedError

    @asynccontextmanager
    async def rewinding(self, shards: Iterable[int]) -> AsyncIterator[None]:
        """Nothing else is read meanwhile; afterwards these streams are on a new tape."""
        async with self._lock:
            yield
            for shard in shards:
                self.tapes[shard].append(Tape())
