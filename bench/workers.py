"""One real worker process at work on a backlog: how long it took, what it used."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
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
_TIMEOUT_S = 300
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class _Batch(NamedTuple):
    """One batch as the worker's log tells it."""

    at_s: float
    entries: int
    rows: int


@dataclass(frozen=True, slots=True)
class Drained:
    """One backlog drained: from taking the shard to the last commit."""

    events: int
    duration_s: float
    cpu_s: float
    rows: int
    batches: int
    #: Most memory that was resident at any time of the process' life.
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
        assert worker.pid is not None
        begun_s = _await_taken(lab, worker)
        cpu_before_s = cpu_s(worker.pid)
        written = _await_written(worker, backlog.events)
        return Drained(
            events=backlog.events,
            duration_s=written[-1].at_s - begun_s,
            cpu_s=cpu_s(worker.pid) - cpu_before_s,
            rows=sum(batch.rows for batch in written),
            batches=len(written),
            peak_kib=peak_kib(worker.pid),
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


def _await_taken(lab: Lab, worker: Process) -> float:
    """When the worker took the shard, which is right before it reads the first entry."""
    key = Keys(PREFIX).checkpoint(STREAM, 0)
    deadline_s = time.monotonic() + _TIMEOUT_S
    while not lab.redis.hexists(key, "holder"):
        if worker.pid is None or time.monotonic() > deadline_s:
            raise RunFailed(f"the worker took no shard; its log ends:\n{worker.tail()}")
        time.sleep(_POLL_S)
    return time.time()


def _await_written(worker: Process, events: int) -> list[_Batch]:
    """Every batch, once all *events* are applied."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    batches: list[_Batch] = []
    while sum(batch.entries for batch in batches) < events:
        if worker.pid is None or time.monotonic() > deadline_s:
            raise RunFailed(f"the backlog was not drained; the log ends:\n{worker.tail()}")
        time.sleep(_POLL_S)
        batches = _batches(worker.log)
    return batches


def _batches(log: Path) -> list[_Batch]:
    """The batches in a worker's *log*; its last line may still be in the making."""
    lines = [orjson.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]
    return [
        _Batch(datetime.fromisoformat(line["time"]).timestamp(), line["entries"], line["rows"])
        for line in lines
        if line["event"] == "batch_written"
    ]


# --- what the kernel counts -------------------------------------------------------


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
