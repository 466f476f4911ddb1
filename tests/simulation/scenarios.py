"""What a seed decides: who works on what, what is appended, and what goes wrong when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from tests.simulation.disasters import DISASTERS, Disasters
from tests.simulation.fronts import Front
from tests.simulation.network import Faults
from tests.simulation.product import LOOK_S
from tests.simulation.world import Dispatched, Jobs, Rival, Worker, World

#: Everything that goes wrong does so in the first seconds; after this it is given time.
TROUBLE_S, REST_S = 2.0, 300.0
RATES = (0.0, 0.0, 0.01, 0.05, 0.2)


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule before it runs."""

    seed: int
    dispatched: bool
    workers: int
    fronts: int
    entries: int
    shards: int
    batch_max_entries: int
    flush_interval_ms: int
    stream_retention_s: int
    redis_faults: Faults
    mysql_faults: Faults
    mysql_trouble: float
    mysql_slowness: float
    odd_entries: float
    kills: int
    stops: int
    restarts: int
    disasters: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


def plan_of(seed: int) -> Plan:
    """The plan that *seed* stands for."""
    rng = Random(seed)
    return Plan(
        seed=seed,
        dispatched=rng.random() < 0.15,
        workers=rng.choice((1, 2, 2, 3)),
        fronts=rng.choice((1, 1, 2)),
        entries=rng.choice((3, 8, 20)),
        shards=rng.choice((1, 1, 2)),
        batch_max_entries=rng.choice((1, 2, 3, 5, 100)),
        flush_interval_ms=rng.choice((0, 0, 20, 500)),
        stream_retention_s=rng.choice((0, 0, 1, 60)),
        redis_faults=Faults(rng.choice(RATES), rng.choice(RATES)),
        mysql_faults=Faults(rng.choice(RATES), rng.choice(RATES)),
        mysql_trouble=rng.choice(RATES),
        mysql_slowness=rng.choice((1.0, 1.0, 20.0)),
        odd_entries=rng.choice((0.0, 0.0, 0.2)),
        kills=rng.choice((0, 1, 3)),
        stops=rng.choice((0, 0, 1, 2)),
        restarts=rng.choice((0, 0, 0, 1)),
        disasters=tuple(rng.choices(DISASTERS, k=rng.choice((0, 0, 0, 1, 1, 2)))),
    )


class Schedule:
    """One plan on its way."""

    def __init__(self, plan: Plan, world: World) -> None:
        self._plan = plan
        self._world = world
        self._rng = world.rng
        self._workers: list[Worker] = []

    async def run(self) -> None:
        """Through all its trouble to the end; the world's promises tell how it went."""
        world, plan = self._world, self._plan
        world.redis_wire.faults = replace(plan.redis_faults)
        world.mysql_wire.faults = replace(plan.mysql_faults)
        world.trouble = plan.mysql_trouble
        world.mysql_wire.slowness = plan.mysql_slowness
        world.promises.several_losses = len(plan.disasters) + plan.restarts > 1
        self._hire()
        numbers = count(1)
        fronts = [Front(world, f"front{number}", numbers) for number in range(plan.fronts)]
        if plan.disasters or plan.restarts:
            for front in fronts:
                front.watch()
        share = max(1, plan.entries // plan.fronts)
        appending = [front.start(share, TROUBLE_S, plan.odd_entries) for front in fronts]
        await self._make_trouble()
        world.trace.tell("-", "no more trouble")
        world.end_faults()
        await asyncio.wait(appending)
        await self._rest(fronts)
        world.ending = True
        ends = [worker.process.start(worker.end()) for worker in self._workers]
        _, late = await asyncio.wait(ends, timeout=REST_S)
        if late:
            world.promises.breaks("a worker does not end when it is told to")
        if not world.promises.broken:
            world.promises.check_end()

    def _hire(self) -> None:
        names = [f"worker{number}" for number in range(1, self._plan.workers + 1)]
        if self._plan.dispatched:
            jobs = Jobs(self._world, lost=self._plan.redis_faults.lost_before)
            self._workers += [Dispatched(self._world, name, jobs) for name in names]
        else:
            self._workers += [Rival(self._world, name) for name in names]
        for worker in self._workers:
            worker.start()

    async def _rest(self, fronts: list[Front]) -> None:
        """Wait until all is applied and published: that it comes to this is a promise too."""
        world = self._world
        until_s = world.loop.time() + REST_S
        # A front sees a loss when it looks, and testifies of it when it next reports.
        await asyncio.sleep(3 * LOOK_S if self._plan.disasters or self._plan.restarts else 0.0)
        while not world.promises.broken:
            waits = world.promises.is_at_rest() or _untold(fronts)
            if not waits:
                return
            if world.loop.time() > until_s:
                world.promises.breaks(f"it never comes to rest: {waits}")
            await asyncio.sleep(0.1)

    # --- trouble ----------------------------------------------------------------------------

    async def _make_trouble(self) -> None:
        plan, rng, disasters = self._plan, self._rng, Disasters(self._world)
        events: list[tuple[float, Callable[[], None]]] = []
        kinds = [self._kill] * plan.kills + [self._stop] * plan.stops
        kinds += [rng.choice((disasters.restart_redis, disasters.restart_mysql))] * plan.restarts
        events += [(rng.random() * TROUBLE_S, kind) for kind in kinds]
        for name in plan.disasters:
            before_s, at_s = sorted((rng.random() * TROUBLE_S, rng.random() * TROUBLE_S))
            prepare, strike = disasters.named(name)
            events += [(before_s, prepare), (at_s, strike)]
        for at_s, happen in sorted(events, key=lambda event: event[0]):
            await asyncio.sleep(max(0.0, at_s - self._world.loop.time()))
            if self._world.promises.broken:
                return
            happen()
        await asyncio.sleep(max(0.0, TROUBLE_S - self._world.loop.time()))

    def _kill(self) -> None:
        worker = self._rng.choice(self._workers)
        if worker.process.alive:
            worker.kill(back_in_s=self._rng.choice((0.01, 0.5, 5.0)))

    def _stop(self) -> None:
        self._rng.choice(self._workers).stop(self._rng.choice((0.05, 1.0, 4.0, 8.0)))


def _untold(fronts: list[Front]) -> str:
    return "a front has not testified" if any(front.is_silent for front in fronts) else ""
