"""Tasks that live as long as the process, and take it with them if they die."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()

_CANCEL_INTERVAL_S = 0.1


class BackgroundTask:
    """Runs *work* until `stop`; if it ends by itself, so does the process, loudly.

    A front whose flusher is dead would accept requests and never answer them:
    nobody restarts a process that only looks alive.
    """

    def __init__(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._stopping = False
        self._task = asyncio.create_task(work, name=name)
        self._task.add_done_callback(self._ended)

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Give the work *grace_s* to end, then cancel it."""
        self._stopping = True
        if grace_s:
            await asyncio.wait([self._task], timeout=grace_s)
        while not self._task.done():
            # Again and again: up to Python 3.11 asyncio.wait_for, which redis-py uses,
            # swallows a cancellation that meets the end of what it waits for.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_INTERVAL_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._stopping and error is None:
            return
        log.critical("background_task_died", task=task.get_name(), exc_info=error)
        if not self._stopping:
            os.kill(os.getpid(), signal.SIGTERM)
