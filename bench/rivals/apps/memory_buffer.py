"""A buffer in the web process, written every second: nothing else lies between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.rivals.apps.front import Accept, Front, Heartbeat
from bench.rivals.apps.many import BatchWriter, Timed
from shared.events import Save
from shared.mysql import open_mysql
from shared.settings import Settings

FLUSH_EVERY_S = 1.0


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Accept]:
    waiting: list[Timed] = []

    async def accept(event: Heartbeat) -> None:
        save = Save(1, event.user, event.source, event.content_id, event.record)
        waiting.append((save, event.ms))

    async def flush(batches: BatchWriter) -> None:
        if waiting:
            batch = waiting.copy()
            waiting.clear()
            await batches.write(batch)

    async def keep_flushing(batches: BatchWriter) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await flush(batches)

    async with open_mysql(settings) as pool:
        batches = BatchWriter(settings, pool)
        flushing = asyncio.create_task(keep_flushing(batches))
        try:
            yield accept
        finally:
            flushing.cancel()
            await asyncio.wait([flushing])
            await flush(batches)


def create_app() -> Front:
    return Front(opened)
