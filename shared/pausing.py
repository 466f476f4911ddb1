"""Pauses before further attempts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence


async def pause(pauses_s: Sequence[float], attempt: int) -> None:
    """Wait as *pauses_s* says after attempt number *attempt* (from 0); the last one is repeated.

    A random part of it, so that those who got in each other's way do not do so again. Raises
    `CancelledError` if the attempt swallowed one: the caller would go on for ever.
    """
    # asyncio.wait_for of Python 3.11, in which drivers connect, lets an error of that moment go
    # first and forgets that it was cancelled.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    longest_s = pauses_s[min(attempt, len(pauses_s) - 1)]
    await asyncio.sleep(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
