"""Injects what is planned, as much of it at the same time as the faults allow."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.faults.fault import Fault, NotInjected
from tests.faults.plan import AT_ONCE_MAX, Planned
from tests.faults.site import Site

#: How long workers may take to go on after a rewind while other faults go on.
_DETECTED_WITHIN_S = 180.0
_POLL_S = 0.2


class _Room:
    """Admits a fault when nothing it needs for itself is in use."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._held: set[str] = set()
        self._running = 0
        self._exclusive_waiting = 0

    @asynccontextmanager
    async def admitted(self, fault: type[Fault]) -> AsyncIterator[None]:
        needs = set(fault.holds) | ({"rewind"} if fault.loses_redis_data else set())
        most = 1 if fault.exclusive else AT_ONCE_MAX
        async with self._changed:
            self._exclusive_waiting += fault.exclusive
            try:
                await self._changed.wait_for(
                    lambda: (
                        self._running < most
                        and not needs & self._held
                        and (fault.exclusive or not self._exclusive_waiting)
                    )
                )
            finally:
                if fault.exclusive:
                    # While it runs it is among the running, and counts as all of them.
                    self._exclusive_waiting -= 1
            weight = AT_ONCE_MAX if fault.exclusive else 1
            self._running += weight
            self._held |= needs
        try:
            yield
        finally:
            async with self._changed:
                self._running -= weight
                self._held -= needs
                self._changed.notify_all()


class Injector:
    """One run's faults. `injected` counts by kind; nothing else counts as a fault."""

    def __init__(self, site: Site, kinds: Mapping[str, type[Fault]], seed: int) -> None:
        self._site = site
        self._kinds = kinds
        self._seed = seed
        self._room = _Room()
        self._over = False
        self.running: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        #: (kind, reason) of those that could not be done.
        self.refused: Counter[tuple[str, str]] = Counter()
        #: Faults that were not healed as they should: a process that would not stop, ...
        self.failed: list[str] = []

    async def run(self, planned: Sequence[Planned], duration_s: float) -> None:
        """Inject each at its time; return when the last is healed.

        What waits for others when the time is over is left out.
        """
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for each in planned:
                await asyncio.sleep(each.at_s - (time.monotonic() - started_s))
                group.create_task(self._inject(each))
            await asyncio.sleep(duration_s - (time.monotonic() - started_s))
            self._over = True

    async def _inject(self, planned: Planned) -> None:
        fault = self._kinds[planned.kind]
        async with self._room.admitted(fault):
            if self._over:
                return
            # A dice of its own: what overlaps must not take each other's numbers.
            dice = random.Random(f"{self._seed}:fault:{planned.number}")
            self.running[planned.kind] += 1
            try:
                await self._try(fault, replace(self._site, dice=dice))
            finally:
                self.running[planned.kind] -= 1

    async def _try(self, fault: type[Fault], site: Site) -> None:
        before = len(site.rewinds)
        site.note(f"{fault.kind}: begins")
        try:
            await fault().inject(site)
        except NotInjected as reason:
            site.note(f"{fault.kind}: not injected, {reason}")
            self.refused[fault.kind, str(reason)] += 1
            return
        except Exception as error:  # noqa: BLE001 -- a fault that fails is a finding, not an end
            site.note(f"{fault.kind}: failed\n{traceback.format_exc()}")
            self.failed.append(f"{fault.kind}: {error!r}")
            return
        site.note(f"{fault.kind}: over")
        self.injected[fault.kind] += 1
        await self._await_detection(fault, site, before)

    async def _await_detection(self, fault: type[Fault], site: Site, before: int) -> None:
        """Let nobody rewind again before the workers went on after *fault*."""
        deadline_s = time.monotonic() + _DETECTED_WITHIN_S
        while any(rewind.open for rewind in site.rewinds[before:]):
            if time.monotonic() > deadline_s:
                shards = [sorted(rewind.open) for rewind in site.rewinds[before:]]
                self.failed.append(
                    f"{fault.kind}: shards {shards} did not go on in {_DETECTED_WITHIN_S:.0f} s"
                )
                return
            await asyncio.sleep(_POLL_S)
