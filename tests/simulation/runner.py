"""Run schedules by their seeds, one after the other or on every core."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

from tests.simulation.loop import Stalled, virtual_loop
from tests.simulation.network import Trace
from tests.simulation.product import SETTINGS, simulated_product
from tests.simulation.scenarios import Schedule, plan_of
from tests.simulation.world import World, with_settings

#: Schedules that a core is given at a time.
CHUNK = 200
SCHEDULES_PER_SWEEP = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the schedule of *seed* went: *broken* is the promise that was, '' if none."""

    seed: int
    broken: str
    steps: list[str]


def run_schedule(seed: int, *, traced: bool = False) -> Outcome:
    """Run the schedule of *seed*, with its steps if *traced*."""
    plan, loop = plan_of(seed), virtual_loop()
    trace, rng = Trace(loop, wanted=traced), Random(f"run {seed}")
    trace.tell("-", str(plan))
    settings = with_settings(
        SETTINGS,
        shards=plan.shards,
        batch_max_entries=plan.batch_max_entries,
        flush_interval_ms=plan.flush_interval_ms,
        stream_retention_s=plan.stream_retention_s,
    )
    with simulated_product(trace, rng) as died:
        world = World(settings, rng, trace)

        async def run() -> None:
            try:
                await Schedule(plan, world).run()
            finally:
                await world.clear_away()

        try:
            loop.run(run())
        except Stalled as stalled:
            world.promises.breaks(f"it never ends: {stalled}")
        for what in died:
            world.promises.breaks(f"a drain died of {what}")
    trace.tell("-", world.promises.broken or "every promise held")
    return Outcome(seed, world.promises.broken, trace.steps)


def first_broken(seeds: range) -> Outcome | None:
    """The first of *seeds* whose schedule breaks a promise."""
    gc.disable()  # what a schedule leaves behind is small; looking for it takes longer
    try:
        for seed in seeds:
            outcome = run_schedule(seed)
            if outcome.broken:
                return outcome
            if seed % SCHEDULES_PER_SWEEP == 0:
                gc.collect()
    finally:
        gc.enable()
    return None


def run_on_every_core(first_seed: int, schedules: int) -> Iterator[tuple[int, Outcome | None]]:
    """(schedules that were run, the first among them that broke a promise) per part."""
    last = first_seed + schedules
    parts = [range(at, min(at + CHUNK, last)) for at in range(first_seed, last, CHUNK)]
    # Not forked: whoever calls may have threads and open servers.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as cores:
        for part, outcome in zip(parts, cores.map(first_broken, parts), strict=True):
            yield len(part), outcome
