"""Faults of the site's own processes: killed, frozen or stopped, each started again."""

from __future__ import annotations

import asyncio
import signal
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from ops.processes import Process
from tests.faults.fault import Fault, NotInjected, register
from tests.faults.site import Site
from tests.waiting import until

#: Longer than any lease (3 s): whoever thaws is a zombie.
_FROZEN_S = (4.0, 12.0)
_DOWN_S = (0.0, 3.0)
#: The longest that other faults may keep a store away, and the batch in hand after that.
_STOP_TIMEOUT_S = 90.0


class _ProcessFault(Fault):
    """Something done to one process, which no other fault touches meanwhile."""

    async def inject(self, site: Site) -> None:
        free = [
            each
            for each in self.candidates(site)
            if each.name not in site.taken and each.pid is not None
        ]
        if not free:
            raise NotInjected("other faults have every process of this kind")
        process = site.dice.choice(free)
        with site.taking(process.name):
            site.note(f"{self.kind}: {process.name}, pid {process.pid}")
            await self.strike(process, site)

    @abstractmethod
    def candidates(self, site: Site) -> Sequence[Process]:
        """Which processes it may be done to."""

    @abstractmethod
    async def strike(self, process: Process, site: Site) -> None:
        """Do it to *process*."""


class _Worker(_ProcessFault):
    def candidates(self, site: Site) -> Sequence[Process]:
        return site.workers


class _Front(_ProcessFault):
    def candidates(self, site: Site) -> Sequence[Process]:
        return site.fronts


class _Kill(_ProcessFault):
    """SIGKILL at a random moment, and a new process some time later."""

    async def strike(self, process: Process, site: Site) -> None:
        process.kill()
        await asyncio.sleep(site.dice.uniform(*_DOWN_S))
        process.launch()


class _Freeze(_ProcessFault):
    """SIGSTOP past every lease and time-out, then SIGCONT: what it has in hand is outdated."""

    async def strike(self, process: Process, site: Site) -> None:
        process.pause()
        try:
            await asyncio.sleep(site.dice.uniform(*_FROZEN_S))
        finally:
            process.resume()


class _Stop(_ProcessFault):
    """SIGTERM, as every deployment sends it: it finishes what is in hand and ends in order."""

    async def strike(self, process: Process, site: Site) -> None:
        process.terminate()
        took_s = await until(
            lambda: process.pid is None, f"{process.name} ends", timeout_s=_STOP_TIMEOUT_S
        )
        site.note(f"{self.kind}: {process.name} ended {process.exit_status} in {took_s:.1f} s")
        # uvicorn passes the signal on to itself when it has ended in order.
        assert process.exit_status in {0, -signal.SIGTERM}, f"{process.name} did not end in order"
        await asyncio.sleep(site.dice.uniform(*_DOWN_S))
        process.launch()


@register
class WorkerKill(_Worker, _Kill):
    kind: ClassVar[str] = "worker_kill"


@register
class WorkerFreeze(_Worker, _Freeze):
    kind: ClassVar[str] = "worker_freeze"


@register
class WorkerStop(_Worker, _Stop):
    kind: ClassVar[str] = "worker_stop"


@register
class ApiKill(_Front, _Kill):
    kind: ClassVar[str] = "api_kill"


@register
class ApiFreeze(_Front, _Freeze):
    kind: ClassVar[str] = "api_freeze"


@register
class ApiStop(_Front, _Stop):
    kind: ClassVar[str] = "api_stop"
