"""Real worker processes at work on a backlog: how long they took, what they used."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import orjson

from bench.servers import Lab, RunFailed
from bench.workload import PREFIX, STREAM, Backlog, Backlogs
from ops.processes import Process
from shared.keys import Keys

_POLL_S = 0.01
#: Logs tell the time of a batch themselves; reading them takes processor from who is measured.
_LOG_POLL_S = 0.05
_TIMEOUT_S = 300
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Batch(NamedTuple):
    """One batch as the worker's log tells it."""

    at_s: float
    entries: int
    rows: int


@dataclass(frozen=True, slots=True)
class Drained:
    """One backlog drained: from taking the first shard to the last commit."""

    events: int
    duration_s: float
    #: Of all workers together, and of both servers meanwhile.
    cpu_s: float
    mysql_cpu_s: float
    redis_cpu_s: float
    rows: int
    batches: int
    #: Most memory of one worker that was resident at any time of its life.
    peak_kib: int

    @property
    def events_per_s(self) -> float:
        return self.events / self.duration_s

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_s / self.events * 1e6


def drain(lab: Lab, backlogs: Backlogs, backlog: Backlog, database: str) -> Drained:
    """Have a worker process drain a fresh copy of *backlog* into *database*."""
    with backlogs.staged(backlog), running_worker(lab, database) as worker:
        return drained(lab, [worker], backlog.events, shards=1)


def drained(lab: Lab, workers: Sequence[Process], events: int, shards: int) -> Drained:
    """Wait until the *workers* have drained *events*, which lie in *shards* shards."""
    begun_s = _await_taken(lab, workers, shards)
    used_before_s = _cpu_of_all_s(lab, workers)
    written = _await_written(workers, events)
    used_s = [
        after - before
        for before, after in zip(used_before_s, _cpu_of_all_s(lab, workers), strict=True)
    ]
    return Drained(
        events=events,
        duration_s=max(batch.at_s for batch in written) - begun_s,
        cpu_s=used_s[0],
        mysql_cpu_s=used_s[1],
        redis_cpu_s=used_s[2],
        rows=sum(batch.rows for batch in written),
        batches=len(written),
        peak_kib=max(peak_kib(pid_of(worker)) for worker in workers),
    )


@contextmanager
def running_worker(lab: Lab, database: str, name: str = "worker", **more: str) -> Iterator[Process]:
    """`python -m worker`, with one shard unless *more* says otherwise, stopped at the end."""
    # Every round trims what it applied, as a worker in steady state does.
    variables = {"KEY_PREFIX": PREFIX, "SHARDS": "1", "STREAM_RETENTION_S": "0"} | more
    worker = Process(
        name,
        lab.directory,
        argv=[sys.executable, "-m", "worker"],
        environ=lab.environ(database, **variables),
        death_signal=signal.SIGKILL,
    )
    worker.log.unlink(missing_ok=True)
    worker.launch()
    try:
        yield worker
    finally:
        worker.stop()


def check(lab: Lab, database: str, records: int, events: int) -> None:
    """Raises `RunFailed` unless *database* has *records* records and each event counted once."""
    ((found, applied, ordinal),) = lab.sql(
        "SELECT (SELECT COUNT(*) FROM play_records), SUM(applied), SUM(ordinal)"
        " FROM stream_checkpoints",
        database,
    )
    if (found, applied, ordinal) != (str(records), str(events), str(events)):
        raise RunFailed(
            f"{found} records of {records}, {applied} events applied of {events}"
            f" ({ordinal} with dead letters and losses)"
        )


def _await_taken(lab: Lab, workers: Sequence[Process], shards: int) -> float:
    """When a worker took the first shard, which is right before it reads the first entry."""
    names = [Keys(PREFIX).checkpoint(STREAM, shard) for shard in range(shards)]
    pipe = lab.redis.pipeline(transaction=False)
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        for name in names:
            pipe.hexists(name, "holder")
        if any(pipe.execute()):
            return time.time()
        _check_alive(workers, deadline_s, "no shard was taken")
        time.sleep(_POLL_S)


def _await_written(workers: Sequence[Process], events: int) -> list[_Batch]:
    """Every batch, once all *events* are applied."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        batches = [batch for worker in workers for batch in _batches(worker.log)]
        if sum(batch.entries for batch in batches) >= events:
            return batches
        _check_alive(workers, deadline_s, "the backlog was not drained")
        time.sleep(_LOG_POLL_S)


def _check_alive(workers: Sequence[Process], deadline_s: float, trouble: str) -> None:
    late = time.monotonic() > deadline_s
    for worker in workers:
        if late or worker.pid is None:
            raise RunFailed(f"{trouble}; the log of {worker.name} ends:\n{worker.tail()}")


def _batches(log: Path) -> list[_Batch]:
    """The batches in a worker's *log*; its last line may still be in the making."""
    lines = [orjson.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]
    return [
        _Batch(datetime.fromisoformat(line["time"]).timestamp(), line["entries"], line["rows"])
        for line in lines
        if line["event"] == "batch_written"
    ]


# --- what the kernel counts -------------------------------------------------------


def _cpu_of_all_s(lab: Lab, workers: Sequence[Process]) -> tuple[float, float, float]:
    """Seconds of processor that the workers, MySQL and Redis have used."""
    used = sum(cpu_s(pid_of(worker)) for worker in workers)
    return used, cpu_s(pid_of(lab.mysql)), cpu_s(pid_of(lab.redis_server))


def pid_of(process: Process) -> int:
    """The pid of a running *process*. Raises `RunFailed`."""
    pid = process.pid
    if pid is None:
        raise RunFailed(f"{process.name} ended; its log ends:\n{process.tail()}")
    return pid


def cpu_s(pid: int) -> float:
    """Seconds of processor that process *pid* has used, the kernel's for it included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def peak_kib(pid: int) -> int:
    """The most memory of process *pid* that was ever resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RunFailed("this kernel tells no VmHWM")
