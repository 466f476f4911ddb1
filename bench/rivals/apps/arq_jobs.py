"""
One arq job per event.

Two workers of 20 jobs at once, each with as many connections; polled every 20 ms, JSON by
orjson in place of pickle, no results kept. A job may take 5 s, so what a killed worker
had begun is seen again after 15.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

from bench.rivals.apps.front import Accept, Front, Heartbeat
from bench.rivals.apps.one import writer
from shared.events import Save, decode
from shared.mysql import open_mysql
from shared.settings import Settings, from_env

JOBS_AT_ONCE, JOB_TIMEOUT_S = 20, 5


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Accept]:
    redis = await create_pool(
        RedisSettings.from_dsn(settings.redis_url), job_serializer=orjson.dumps
    )

    async def accept(event: Heartbeat) -> None:
        await redis.enqueue_job("save", event.body.decode(), event.ms)

    try:
        yield accept
    finally:
        await redis.aclose()


def create_app() -> Front:
    return Front(opened)


async def save(ctx: dict[str, Any], body: str, ms: int) -> None:
    event = decode(body.encode())
    assert isinstance(event, Save)
    await ctx["write"](Heartbeat(event.user, event.source, event.id, event.record, b"", ms))


async def work() -> None:
    settings = from_env()
    async with open_mysql(settings) as pool:
        worker = Worker(
            [save],
            redis_settings=RedisSettings.from_dsn(settings.redis_url),
            max_jobs=JOBS_AT_ONCE,
            job_timeout=JOB_TIMEOUT_S,
            keep_result=0,
            poll_delay=0.02,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
            ctx={"write": writer(pool, settings.stats_timezone)},
        )
        await worker.async_run()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    sys.exit(0)
