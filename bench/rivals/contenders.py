"""Who takes part: the processes of each, and what is known of them beforehand."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

NODE = Path(__file__).parent / "node"
ROOT = Path(__file__).parents[2]


class Kind(Enum):
    """Which set-up a contender runs in."""

    OURS = "moonwake's own environment"
    CELERY = "a virtualenv of its own"
    NODE = "Node"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to bring heartbeats into MySQL; `{port}` in *front* is where it listens."""

    name: str
    title: str
    front: tuple[str, ...]
    #: Without consumers the front itself writes, and is what is killed.
    consumers: tuple[tuple[str, ...], ...] = ()
    kind: Kind = Kind.OURS
    #: So long after a kill everything it will ever repeat has been repeated.
    recovery_s: float = 4.0
    #: What a dead consumer left is looked for when one starts, and else only after minutes.
    looks_at_start: bool = False
    #: Consumers of a run in which every event is noted, where these are others.
    audited: tuple[tuple[str, ...], ...] = field(default=())
    #: Is it held against moonwake? Its own variant is not, and shows nothing new when killed.
    is_rival: bool = True
    is_killed: bool = True


def _uvicorn(module: str) -> tuple[str, ...]:
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
    return ("-m", "uvicorn", *options, "--port={port}", "--factory", f"{module}:create_app")


def _app(name: str) -> str:
    return f"bench.rivals.apps.{name}"


_WORKER = ("-m", "worker")
_AUDITED = ("-m", _app("audited_worker"))
MOONWAKE, WITHOUT_OVERLAY, WRITE_THROUGH = "moonwake", "without overlay", "write-through"

CONTENDERS = (
    Contender(
        MOONWAKE,
        "moonwake: one web process, two workers",
        _uvicorn("api.app"),
        (_WORKER, _WORKER),
        recovery_s=8.0,
        audited=(_AUDITED, _AUDITED),
        is_rival=False,
    ),
    Contender(
        WITHOUT_OVERLAY,
        "moonwake without the overlay (no read-your-writes)",
        _uvicorn("api.app"),
        (_WORKER, _WORKER),
        audited=(_AUDITED, _AUDITED),
        is_rival=False,
        is_killed=False,
    ),
    Contender(
        WRITE_THROUGH,
        "write-through per request, Python",
        _uvicorn(_app("write_through")),
    ),
    Contender(
        "write-through, Node",
        "write-through per request, Node and mysql2",
        (str(NODE / "write_through.mjs"), "{port}"),
        kind=Kind.NODE,
    ),
    Contender(
        "arq",
        "one arq job per event, two workers",
        _uvicorn(_app("arq_jobs")),
        (("-m", _app("arq_jobs")),) * 2,
        recovery_s=20.0,
    ),
    Contender(
        "celery-batches",
        "celery with celery-batches over Redis",
        _uvicorn(_app("celery_batches_app")),
        (
            (
                *("-m", "celery", "-A", _app("celery_batches_app"), "worker", "--pool=solo"),
                *("--without-gossip", "--without-mingle", "--without-heartbeat"),
                "--loglevel=WARNING",
            ),
        ),
        kind=Kind.CELERY,
        recovery_s=12.0,
        looks_at_start=True,
    ),
    Contender(
        "BullMQ",
        "BullMQ, one job per event, two workers",
        (str(NODE / "bullmq.mjs"), "{port}"),
        ((str(NODE / "bullmq.mjs"), "work"),) * 2,
        kind=Kind.NODE,
        recovery_s=16.0,
    ),
    Contender(
        "Redis Streams",
        "Redis Streams: consumer group, batch, then XACK",
        _uvicorn(_app("redis_streams")),
        (("-m", _app("redis_streams")),),
    ),
    Contender(
        "memory buffer",
        "buffer in memory, flushed every second",
        _uvicorn(_app("memory_buffer")),
    ),
)

BY_NAME = {contender.name: contender for contender in CONTENDERS}
PYTHON = sys.executable
