"""The product's modules under the simulation's clock, dice and log, and nothing else changed."""

from __future__ import annotations

import os
import random
import socket
import sys
import time
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import structlog

import worker.dispatch
import worker.drain  # noqa: F401 (whatever it imports is patched below)
from shared import witness
from shared.settings import Settings, from_env
from tests.simulation.network import Trace
from worker import batches, retained, takeover

#: Some day in 2023: the time at which every simulation begins.
BEGIN_MS = 1_700_000_000_000
#: How often a front looks at its streams, and reports.
LOOK_S = 0.6
SETTINGS: Settings = from_env(
    {
        "USERNAME": "admin",
        "PASSWORD": "secret",
        "MYSQL_HOST": "127.0.0.1",
        "REDIS_URL": "redis://127.0.0.1",
    }
)


@dataclass(frozen=True, slots=True)
class _Clock:
    """Stands for the module `time`."""

    trace: Trace

    def monotonic(self) -> float:
        return self.trace.loop.time()

    def time(self) -> float:
        return BEGIN_MS / 1000 + self.trace.loop.time()


@dataclass(frozen=True, slots=True)
class _Ids:
    """Stands for the module `uuid`."""

    rng: Random

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.rng.getrandbits(128), version=4)


class _Machine:
    """Stands for the modules `os` and `socket`."""

    def getpid(self) -> int:
        return 1

    def gethostname(self) -> str:
        return "simulated"


class _Log:
    """Where the product's log lines go: into the trace, faults of the program also into *died*."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.died: list[str] = []

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if event["event"] == "drain_failed":
            self.died.append(repr(sys.exc_info()[1]))
        self._trace.tell("log", " ".join(f"{name}={value}" for name, value in event.items()))
        raise structlog.DropEvent


@contextmanager
def simulated_product(trace: Trace, rng: Random) -> Iterator[list[str]]:
    """The product in a simulation; yields a list of what its drains died of."""
    machine = _Machine()
    stand_ins: dict[Any, Any] = {time: _Clock(trace), uuid: _Ids(rng), random: rng}
    stand_ins |= {os: machine, socket: machine}
    replaced = _places()
    before_numbers: dict[tuple[Any, str], Any] = {}
    log = _Log(trace)
    before = structlog.get_config()
    level = 0 if trace.wanted else 40
    structlog.configure(
        processors=[log], wrapper_class=structlog.make_filtering_bound_logger(level)
    )
    for module, name, value in replaced:
        setattr(module, name, stand_ins[value])
    numbers = _numbers(rng)
    for (module, name), value in numbers.items():
        before_numbers[module, name] = getattr(module, name)
        setattr(module, name, value)
    try:
        yield log.died
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
        for (module, name), value in before_numbers.items():
            setattr(module, name, value)
        structlog.configure(**before)


@lru_cache(maxsize=1)
def _places() -> list[tuple[Any, str, Any]]:
    """(module, name there, what it stands for) wherever the product asks for time or chance."""
    wanted = {"worker": (time, uuid, random, os, socket), "shared": (time, uuid, random)}
    return [
        (module, name, value)
        for path, module in sys.modules.items()
        for name, value in vars(module).items()
        if value in wanted.get(path.partition(".")[0], ())
    ]


def _numbers(rng: Random) -> dict[tuple[Any, str], float]:
    """Sizes that fit so few entries: what is read page by page in life must be so here too."""
    pages = ((batches, "_CHUNK_ENTRIES"), (takeover, "_PAGE"), (retained, "_PAGE"))
    # A front that looks less often leaves more to chance, and time for more schedules.
    return {(witness, "LOOK_S"): LOOK_S} | {page: rng.choice((2, 1_000, 1_000)) for page in pages}
