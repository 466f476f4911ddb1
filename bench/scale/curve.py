"""Events per second and processor per event, by workers and shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from bench.servers import Lab, RunFailed
from bench.workers import Drained, check, drained, running_worker
from bench.workload import PREFIX, STREAM, Backlog, Backlogs
from ops.processes import Process, wait_until
from shared.keys import Keys

WORKERS = (1, 2, 4)
#: Players whose every record is posted to this often before somebody drains.
EVENTS_PER_KEY = 5
_START_TIMEOUT_S = 60


def measure(
    lab: Lab, rounds: int, events: int, shard_counts: Sequence[int], told: Callable[[str], None]
) -> dict[str, Any]:
    """Drain the same *events* over so many shards each, by every number of workers.

    All combinations in turn, *rounds* times. Returns the points of the curve.
    """
    backlogs = Backlogs(lab.redis, lab.settings())
    runs: dict[tuple[int, int], list[Drained]] = {
        (workers, shards): [] for shards in shard_counts for workers in WORKERS
    }
    for number in range(1, rounds + 1):
        for (workers, shards), done in runs.items():
            told(f"round {number} of {rounds}: {workers} workers, {shards} shards")
            backlog = Backlog(events, events // EVENTS_PER_KEY, shards)
            done.append(_drain(lab, backlogs, backlog, workers))
    return {
        "events": events,
        "keys": events // EVENTS_PER_KEY,
        "rounds": rounds,
        "points": [_point(*at, done) for at, done in sorted(runs.items())],
    }


def _drain(lab: Lab, backlogs: Backlogs, backlog: Backlog, workers: int) -> Drained:
    with lab.database() as database, backlogs.staged(backlog):
        release = _hold(lab, backlog.shards)
        with _running(lab, database, workers, backlog.shards) as processes:
            release()
            done = drained(lab, processes, backlog.events, backlog.shards)
        check(lab, database, backlog.keys, backlog.events)
    return done


def _hold(lab: Lab, shards: int) -> Callable[[], object]:
    """Nobody takes a shard until what this returns is called: workers start at different speeds."""
    marks = [Keys(PREFIX).stopped(STREAM, shard) for shard in range(shards)]
    lab.redis.mset(dict.fromkeys(marks, "the benchmark has not begun"))
    return lambda: lab.redis.delete(*marks)


@contextmanager
def _running(lab: Lab, database: str, workers: int, shards: int) -> Iterator[list[Process]]:
    """*workers* worker processes that all look for shards."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                running_worker(lab, database, f"worker-{number}", SHARDS=str(shards))
            )
            for number in range(workers)
        ]
        live = Keys(PREFIX).workers
        if not wait_until(lambda: lab.redis.hlen(live) == workers, _START_TIMEOUT_S):
            raise RunFailed(f"not every worker started; a log ends:\n{processes[0].tail()}")
        yield processes


def _point(workers: int, shards: int, done: list[Drained]) -> dict[str, Any]:
    """The medians of one combination's rounds; processor in microseconds per event."""
    rates = [run.events_per_s for run in done]

    def us_per_event(used_s: Callable[[Drained], float]) -> float:
        return round(median(used_s(run) / run.events * 1e6 for run in done), 2)

    return {
        "workers": workers,
        "shards": shards,
        "events_per_s": round(median(rates)),
        "slowest": round(min(rates)),
        "fastest": round(max(rates)),
        "worker_us": us_per_event(lambda run: run.cpu_s),
        "mysql_us": us_per_event(lambda run: run.mysql_cpu_s),
        "redis_us": us_per_event(lambda run: run.redis_cpu_s),
        "rows_per_event": round(median(run.rows / run.events for run in done), 3),
    }
