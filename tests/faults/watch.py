"""What looks after a site while faults go on: dead processes, positions, incidents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from ops.processes import Process
from shared.errors import StoreDown, Transient
from shared.mysql import Pool
from tests.faults.accounts import accounts, incidents
from tests.faults.site import Site

_POLL_S = 0.2
_BACKOFF_S = 1.0

Look = Callable[[], Awaitable[None]]


@asynccontextmanager
async def watching(*looks: Look) -> AsyncIterator[None]:
    """Do each of *looks* again and again while the block lasts; a store may be away.

    They are told to end, not cancelled: asyncmy makes another error of a cancellation.
    """
    over = asyncio.Event()

    async def keep_looking(look: Look) -> None:
        while not over.is_set():
            with suppress(StoreDown, Transient):
                await look()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), _POLL_S)

    async with asyncio.TaskGroup() as group:
        for look in looks:
            group.create_task(keep_looking(look))
        try:
            yield
        finally:
            over.set()


class Supervisor:
    """Starts again what ended by itself, as a service manager would; faults look after theirs."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ended_at_s: dict[str, float] = {}
        #: What ended though nobody asked it to.
        self.unasked: list[str] = []
        self.refused_starts = 0

    async def look(self) -> None:
        """Start whatever has been down for a while."""
        for process in (*self._site.workers, *self._site.fronts):
            if process.name not in self._site.taken and process.pid is None:
                self._see_dead(process)

    def _see_dead(self, process: Process) -> None:
        if process.name not in self._ended_at_s:
            self._ended_at_s[process.name] = time.monotonic()
            self._site.note(f"{process.name} ended {process.exit_status}:\n{process.tail(5)}")
            if _is_refused_start(process):
                self.refused_starts += 1
            else:
                self.unasked.append(f"{process.name} with status {process.exit_status}")
        elif time.monotonic() - self._ended_at_s[process.name] > _BACKOFF_S:
            del self._ended_at_s[process.name]
            process.launch()


class Clerk:
    """Reads checkpoints and incidents all the time, so that each rewind gets its own."""

    def __init__(self, site: Site, pool: Pool) -> None:
        self._site = site
        self._pool = pool
        self._known: set[int] = set()

    async def look(self) -> None:
        """Bring the rewinds up to what MySQL says now. Raises `Transient` if it is away."""
        # Incidents last: whoever went on has written what was lost before.
        found = await accounts(self._pool)
        told = await incidents(self._pool)
        for rewind in self._site.rewinds:
            rewind.see({shard: account.last for shard, account in found.items()})
        for incident in told:
            if incident.id in self._known:
                continue
            self._known.add(incident.id)
            self._site.note(f"{incident}")
            latest = [r for r in self._site.rewinds if incident.shard in r.shards]
            if latest:
                latest[-1].incidents[incident.shard].add(incident.id)


def _is_refused_start(process: Process) -> bool:
    """Whether it is a front that found no Redis, said so and left it to us to try again.

    A front needs Redis to start, and nothing else (a worker waits for both stores).
    """
    told = process.tail(5)
    return process.exit_status == 3 and "Application startup failed" in told and "Redis: " in told
