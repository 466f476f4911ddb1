"""Draining: a worker against the same SQL without one, and how far coalescing carries."""

from __future__ import annotations

from bench import workers
from bench.replay import record, replay
from bench.report import Result, Target
from bench.servers import Lab
from bench.workers import Drained
from bench.workload import Backlog, Backlogs

#: A worker may spend this much processor on an event when a key has a hundred of them.
CPU_US_MAX = 12.0


def measure(lab: Lab, rounds: int, scale: int) -> list[Result]:
    """All backlogs in turn, *rounds* times; sizes are divided by *scale*."""
    distinct = Backlog(100_000 // scale, 100_000 // scale)
    many = Backlog(1_000_000 // scale, 10_000 // scale)
    few = Backlog(100_000 // scale, 10_000 // scale)
    backlogs = Backlogs(lab.redis, lab.settings(SHARDS="1"))
    script = record(lab, backlogs, distinct)
    drained: dict[Backlog, list[Drained]] = {distinct: [], many: [], few: []}
    replayed_s: list[float] = []
    for _ in range(rounds):
        for backlog, runs in drained.items():
            with lab.database() as database:
                runs.append(workers.drain(lab, backlogs, backlog, database))
        with lab.database() as database:
            replayed_s.append(replay(lab, script, database))
    rates = {each: [run.events_per_s for run in runs] for each, runs in drained.items()}
    cpu = [run.cpu_us_per_event for run in drained[many]]
    peaks = {each: [run.peak_kib / 1024 for run in runs] for each, runs in drained.items()}
    per_replay = [distinct.events / seconds for seconds in replayed_s]
    limit, at_most = "12 us allowed", Target(1.25, at_most=True)
    return [
        Result("drain", "events/s", rates[distinct], "same SQL replayed", per_replay, Target(0.85)),
        Result("coalescing", "events/s", rates[many], "distinct keys", rates[distinct], Target(4)),
        Result("coalescing CPU", "us/event", cpu, limit, [CPU_US_MAX], Target(1, at_most=True)),
        Result("memory at 1 M pending", "MiB", peaks[many], "at 0.1 M", peaks[few], at_most),
    ]
