"""
Redis Streams as the manual shows them: XADD per request; consumer group, upsert, then XACK.

One consumer: two would count one key from the same stored record at once. It reads up to
a thousand entries at a time, first of all those it was given before it died, and removes
what it acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bench.rivals.apps.front import Accept, Front, Heartbeat
from bench.rivals.apps.many import BatchWriter, Timed
from shared.events import Save, decode
from shared.mysql import open_mysql
from shared.settings import Settings, from_env

STREAM, GROUP, CONSUMER = "heartbeats", "writers", "writer"
READ_MAX = 1_000


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Accept]:
    async with Redis.from_url(settings.redis_url) as redis:

        async def accept(event: Heartbeat) -> None:
            await redis.xadd(STREAM, {"d": event.body})

        yield accept


def create_app() -> Front:
    return Front(opened)


async def work() -> None:
    settings = from_env()
    async with Redis.from_url(settings.redis_url) as redis, open_mysql(settings) as pool:
        try:
            await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        batches = BatchWriter(settings, pool)
        after = "0"  # what was given to us before we died
        while True:
            read: Any = await redis.xreadgroup(
                GROUP, CONSUMER, {STREAM: after}, count=READ_MAX, block=1_000
            )
            entries = read[0][1] if read else []
            if not entries:
                after = ">"
                continue
            await batches.write([_timed(identity, fields) for identity, fields in entries])
            done = [identity for identity, _ in entries]
            async with redis.pipeline(transaction=False) as pipe:
                pipe.xack(STREAM, GROUP, *done)
                pipe.xtrim(STREAM, minid=done[-1], approximate=True)
                await pipe.execute()


def _timed(identity: bytes, fields: dict[bytes, bytes]) -> Timed:
    event = decode(fields[b"d"])
    assert isinstance(event, Save)
    return event, int(identity.partition(b"-")[0])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    sys.exit(0)
