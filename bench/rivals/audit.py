"""Which events a contender has applied, by nonce: noted in each event's own transaction."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from bench.servers import RunFailed
from shared.mysql import Pool, reading

_POLL_S = 0.2
#: Nothing has been applied for so long: there is nothing more, be it that all is there
#: or that some of it is lost.
_QUIET_S, _QUIET_MISSING_S = 1.0, 10.0
_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the acknowledged events."""

    acknowledged: int
    #: Acknowledged and never applied.
    lost: int
    #: Applied more than once: how many times too often, in all.
    doubled: int


async def settled(pool: Pool, acknowledged: AbstractSet[int], not_before_s: float) -> Verdict:
    """What became of the *acknowledged*, once nothing more is applied.

    Nobody knows that before *not_before_s* (monotonic). Raises `RunFailed` if it never ends.
    """
    deadline_s = time.monotonic() + _TIMEOUT_S
    count, quiet_since_s = -1, time.monotonic()
    while True:
        now = len(await noted(pool))
        if now != count:
            count, quiet_since_s = now, time.monotonic()
        now_s = time.monotonic()
        found = await verdict(pool, acknowledged)
        quiet_s = _QUIET_MISSING_S if found.lost else _QUIET_S
        if now_s >= not_before_s and now_s - quiet_since_s >= quiet_s:
            return found
        if now_s > deadline_s:
            raise RunFailed(f"events still arrive after {_TIMEOUT_S:.0f} s: {found}")
        await asyncio.sleep(_POLL_S)


async def noted(pool: Pool) -> list[tuple[int, int]]:
    """(nonce, time) of every event that was applied, in order of application."""
    async with reading(pool) as cursor:
        await cursor.execute("SELECT nonce, ms FROM audit ORDER BY n")
        return [(int(nonce), int(ms)) for nonce, ms in await cursor.fetchall()]


async def verdict(pool: Pool, acknowledged: AbstractSet[int]) -> Verdict:
    times = Counter(nonce for nonce, _ in await noted(pool))
    return Verdict(
        len(acknowledged),
        lost=len(acknowledged - times.keys()),
        doubled=sum(count - 1 for count in times.values()),
    )
