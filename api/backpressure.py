"""
Backpressure: refuse writes for a shard whose lag is above the mark (protocol 5).

Lag is entries added minus the published checkpoint's ordinal; a stream's length
would count what is only retained. The closed flag lives in Redis, so that all
processes open and close together.
"""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis

from shared.errors import Closed, StoreDown
from shared.keys import Keys
from shared.published import published_of
from shared.redis import redis_errors, sound
from shared.settings import Settings
from shared.status import lag_of
from shared.streams import stream_info

log = structlog.get_logger()

CHECK_INTERVAL_S = 0.25


class Backpressure:
    """Knows which shards of one stream take no writes now."""

    def __init__(self, redis: Redis, keys: Keys, stream: str, settings: Settings) -> None:
        self._redis = redis
        self._keys = keys
        self._stream = stream
        self._high = settings.max_lag_entries
        self._low = settings.low_water_entries
        self._blind: set[int] = set()
        self._reachable = True
        self.closed = [False] * settings.shards

    def check_open(self, shard: int) -> None:
        """Raises `Closed` while *shard* takes no writes."""
        if self.closed[shard]:
            raise Closed("Too many writes are waiting, please retry")

    async def run(self) -> None:
        """Look at every shard again and again."""
        while True:
            try:
                await self.look()
                self._reachable = True
            except StoreDown as error:
                # What was known stays; appends fail by themselves meanwhile.
                if self._reachable:
                    log.warning("backpressure_unknown", error=str(error))
                self._reachable = False
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def look(self) -> None:
        """Open and close shards by their lag now. Raises `StoreDown`."""
        shards = range(len(self.closed))
        with redis_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for shard in shards:
                    pipe.xinfo_stream(self._keys.stream(self._stream, shard))
                    pipe.hgetall(self._keys.checkpoint(self._stream, shard))
                    pipe.exists(self._keys.closed(self._stream, shard))
                replies = await pipe.execute(raise_on_error=False)
        for shard in shards:
            about, published, flagged = replies[3 * shard : 3 * shard + 3]
            lag = lag_of(stream_info(about), published_of(sound(published)))
            await self._judge(shard, lag, flagged=flagged == 1)

    async def _judge(self, shard: int, lag: int | None, *, flagged: bool) -> None:
        self._note_blind(shard, blind=lag is None)
        key = self._keys.closed(self._stream, shard)
        with redis_errors():
            if lag is not None and lag >= self._high:
                if not flagged:
                    await self._redis.set(key, 1)
                flagged = True
            elif lag is None or lag <= self._low:
                if flagged:
                    await self._redis.delete(key)
                flagged = False
        if flagged != self.closed[shard]:
            event = "shard_closed" if flagged else "shard_opened"
            log.warning(event, shard=shard, lag=lag)
        self.closed[shard] = flagged

    def _note_blind(self, shard: int, *, blind: bool) -> None:
        """An unknown ordinal keeps accepting, and says so once."""
        if blind and shard not in self._blind:
            log.warning("lag_unknown", shard=shard, reason="no checkpoint is published")
        (self._blind.add if blind else self._blind.discard)(shard)
