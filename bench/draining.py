"""Draining: a worker against the same SQL without one, and how far coalescing carries."""

from __future__ import annotations

from collections.abc import Collection

from bench import workers
from bench.replay import record, replay
from bench.report import Result, Target
from bench.servers import Lab
from bench.workers import Drained
from bench.workload import Backlog, Backlogs

DRAIN, COALESCING, MEMORY = "drain", "coalescing", "memory"
#: A worker may spend this much processor on an event when a key has a hundred of them.
CPU_US_MAX = 12.0


def measure(lab: Lab, rounds: int, scale: int, wanted: Collection[str]) -> list[Result]:
    """What the *wanted* benchmarks need, in turn, *rounds* times; sizes are divided by *scale*."""
    distinct = Backlog(100_000 // scale, 100_000 // scale)
    many = Backlog(1_000_000 // scale, 10_000 // scale)
    few = Backlog(100_000 // scale, 10_000 // scale)
    needed = {DRAIN: [distinct], COALESCING: [distinct, many], MEMORY: [many, few]}
    backlogs = Backlogs(lab.redis, lab.settings(SHARDS="1"))
    drained: dict[Backlog, list[Drained]] = {each: [] for name in wanted for each in needed[name]}
    replayed_s: list[float] = []
    script = record(lab, backlogs, distinct) if DRAIN in wanted else None
    for _ in range(rounds):
        for backlog, runs in drained.items():
            with lab.database() as database:
                runs.append(workers.drain(lab, backlogs, backlog, database))
                workers.check(lab, database, backlog.keys, backlog.events)
        if script is not None:
            with lab.database() as database:
                replayed_s.append(replay(lab, script, database))
                workers.check(lab, database, distinct.keys, distinct.events)
    results: list[Result] = []
    if DRAIN in wanted:
        results += _drain_results(drained[distinct], replayed_s)
    if COALESCING in wanted:
        results += _coalescing_results(drained[many], drained[distinct])
    if MEMORY in wanted:
        results += _memory_results(drained[many], drained[few])
    return results


def _drain_results(drained: list[Drained], replayed_s: list[float]) -> list[Result]:
    ours = [run.events_per_s for run in drained]
    limit = [run.events / seconds for run, seconds in zip(drained, replayed_s, strict=True)]
    return [Result("drain", "events/s", ours, "same SQL replayed", limit, Target(0.85))]


def _coalescing_results(many: list[Drained], distinct: list[Drained]) -> list[Result]:
    ours, plain = ([run.events_per_s for run in runs] for runs in (many, distinct))
    cpu = [run.cpu_us_per_event for run in many]
    allowed = Target(1, at_most=True)
    return [
        Result("coalescing", "events/s", ours, "distinct keys", plain, Target(4)),
        Result("coalescing CPU", "us/event", cpu, "12 us allowed", [CPU_US_MAX], allowed),
    ]


def _memory_results(many: list[Drained], few: list[Drained]) -> list[Result]:
    ours, before = ([run.peak_kib / 1024 for run in runs] for runs in (many, few))
    name, against = f"memory at {many[0].events:,} pending", f"at {few[0].events:,}"
    return [Result(name, "MiB", ours, against, before, Target(1.25, at_most=True))]
