"""What Python does while the server works: neither waits for what could be done meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

#: Made and not yet asked for: statements, about a megabyte each.
AHEAD_MAX = 3


@asynccontextmanager
async def ahead(items: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """*items*, made in a task of their own, some before they are asked for.

    What making them dies of is raised by the iterator. The task ends with the block.
    """
    room, made = asyncio.Semaphore(AHEAD_MAX), asyncio.Queue[T | None]()

    async def make() -> None:
        async for item in items:
            made.put_nowait(item)
            await room.acquire()

    async def take() -> AsyncIterator[T]:
        while (item := await made.get()) is not None:
            room.release()
            yield item
        await making

    making = asyncio.create_task(make())
    making.add_done_callback(lambda _: made.put_nowait(None))
    making.add_done_callback(_look_at)
    try:
        yield take()
    finally:
        making.cancel()


@asynccontextmanager
async def begun(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """*work*, which sends a statement, as a task that is done at the end of the block.

    What fails meanwhile waits for it: in the middle of a statement the connection can do
    nothing else, not even roll back. Only a cancellation does not, which gives the
    connection up (the driver closes it): the server may never answer.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_look_at)
    try:
        await asyncio.sleep(0)  # so that the statement is on its way
        yield task
    except asyncio.CancelledError:
        task.cancel()
        raise
    finally:
        await _end_of(task)


async def _end_of(task: asyncio.Task[Any]) -> None:
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        raise


def _look_at(task: asyncio.Task[Any]) -> None:
    """Or asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()
