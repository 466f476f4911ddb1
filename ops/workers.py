"""The worker processes, as each tells of itself in Redis, and the streams they drain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from worker.dispatch import LIVE_MS
from worker.sinks.plays import PlaysSink

STREAMS = (PlaysSink.stream,)


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process. *silent_ms*: how long nothing was heard of it, by Redis' clock."""

    id: str
    host: str
    pid: int
    started_ms: int
    silent_ms: int
    #: What it drains at this moment, as `plays:3`.
    shards: tuple[str, ...]

    @property
    def is_live(self) -> bool:
        return self.silent_ms < LIVE_MS

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"


def workers_of(told: Mapping[bytes, bytes], now_ms: int) -> list[Worker]:
    """The processes in the hash of workers, the longest at work first."""
    found = [_worker_of(name.decode(), orjson.loads(about), now_ms) for name, about in told.items()]
    return sorted(found, key=lambda worker: (not worker.is_live, worker.started_ms, worker.id))


def _worker_of(name: str, about: Mapping[str, Any], now_ms: int) -> Worker:
    return Worker(
        id=name,
        host=str(about.get("host", "?")),
        pid=int(about.get("pid", 0)),
        started_ms=int(about.get("started_ms", 0)),
        silent_ms=max(0, now_ms - int(about.get("seen_ms", 0))),
        shards=tuple(about.get("shards", ())),
    )
