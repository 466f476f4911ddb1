"""Waiting for a condition: the time-out only catches what would hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.02


async def until(
    met: Callable[[], bool] | Callable[[], Awaitable[bool]],
    what: str,
    *,
    timeout_s: float = 60,
    poll_s: float = POLL_S,
) -> float:
    """Poll *met* until it is true; the seconds that took.

    Fails after *timeout_s*, saying *what* never came true.
    """
    started_s = time.monotonic()
    while not await _holds(met):
        if time.monotonic() - started_s > timeout_s:
            raise AssertionError(f"in {timeout_s} s it never came true that {what}")
        await asyncio.sleep(poll_s)
    return time.monotonic() - started_s


async def _holds(met: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> bool:
    answer = met()
    return answer if isinstance(answer, bool) else await answer
