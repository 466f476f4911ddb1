"""
celery with celery-batches over Redis.

One worker of the solo pool: a batch at a time is what counts right, and nothing is
pickled to a child. Batches of 500 or what came in half a second, prefetch to match;
acknowledged late, no results. Unacknowledged ones may come back after 8 s, but a consumer
looks for them only when it starts and every 100 s: the bench restarts it for that.
`delay()` blocks, and is called in the event loop all the same: a thread for each costs
more than it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop
from celery import Celery
from celery_batches import Batches

from bench.rivals.apps.front import Accept, Front, Heartbeat
from bench.rivals.apps.many import BatchWriter, Timed
from shared.events import Save, decode
from shared.mysql import open_mysql
from shared.settings import Settings, from_env

BATCH, FLUSH_S = 500, 0.5
VISIBILITY_S = 8

app = Celery("rival", broker=from_env().redis_url)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_serializer="json",
    worker_prefetch_multiplier=4 * BATCH,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    broker_transport_options={"visibility_timeout": VISIBILITY_S},
    broker_pool_limit=10,
)


class _Batches:
    """The writer of this process, opened with the first batch."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._stack = AsyncExitStack()
        self._writer: BatchWriter | None = None

    def write(self, batch: Sequence[Timed]) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._write(batch))

    async def _write(self, batch: Sequence[Timed]) -> None:
        if self._writer is None:
            settings = from_env()
            pool = await self._stack.enter_async_context(open_mysql(settings))
            self._writer = BatchWriter(settings, pool)
        await self._writer.write(batch)


_batches = _Batches()


def save_batch(requests: Sequence[Any]) -> None:
    # A queue gives no order within what it gives back: time does.
    batch = sorted((_timed(*request.args) for request in requests), key=lambda timed: timed[1])
    _batches.write(batch)


def _timed(body: str, ms: int) -> Timed:
    event = decode(body.encode())
    assert isinstance(event, Save)
    return event, ms


save = app.task(name="save", base=Batches, flush_every=BATCH, flush_interval=FLUSH_S)(save_batch)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Accept]:
    async def accept(event: Heartbeat) -> None:
        save.delay(event.body.decode(), event.ms)

    yield accept


def create_app() -> Front:
    return Front(opened)
