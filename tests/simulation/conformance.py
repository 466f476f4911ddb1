"""
What the models must do as the real servers do: the same steps on either, compared.

Each case takes open connections and returns what it observed. Ids are given, and what
depends on a server's clock or name is left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from shared.errors import CheckpointMoved, DataRefused, Transient
from tests.simulation.sink import STREAM
from worker.deps import Deps


@dataclass(frozen=True, slots=True)
class Stores:
    """Two clients of both stores; the second is somebody else's."""

    deps: Deps
    other: Deps

    @property
    def redis(self) -> Any:
        return self.deps.redis

    @property
    def stream(self) -> str:
        return self.deps.keys.stream(STREAM, 0)


Case = Callable[[Stores], Coroutine[Any, Any, list[Any]]]


async def outcome(work: Awaitable[Any]) -> Any:
    """What *work* returns, or what kind of error it raises (Redis' with its words)."""
    try:
        return await work
    except RedisError as error:
        return f"{type(error).__name__}: {error}"
    except (CheckpointMoved, DataRefused, Transient) as error:
        return type(error).__name__
