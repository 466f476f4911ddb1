"""A whole site under test: servers, fronts and workers, reached through proxies, and a tap."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from shared.settings import Settings
from tests.e2e.processes import WorkerProcess
from tests.faults.processes import ApiProcess
from tests.faults.tap import Tap

if TYPE_CHECKING:
    from tests.faults.mysql_control import MysqlControl
    from tests.faults.redis_control import RedisControl


@dataclass(slots=True)
class Site:
    """What a fault gets into its hands.

    The processes of the site know only the proxies' ports. What the checker itself asks
    (the tap, the last comparison) goes to the servers directly.
    """

    folder: Path
    #: As every process of the site has them: MYSQL_PORT and REDIS_URL are the proxies'.
    settings: Settings
    #: The only source of chance while faults are injected.
    dice: random.Random
    redis: RedisControl
    mysql: MysqlControl
    tap: Tap
    workers: list[WorkerProcess] = field(default_factory=list)
    fronts: list[ApiProcess] = field(default_factory=list)
    #: Counts up, per shard, whenever what users may read is in doubt; odd while it is.
    epochs: list[int] = field(default_factory=list)
    #: What happened: (Unix time, text).
    notes: list[tuple[float, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep *text* for the run's log."""
        self.notes.append((time.time(), text))

    @contextmanager
    def doubting_reads(self, shards: Iterable[int] | None = None) -> Iterator[None]:
        """Reads of these shards' users (None: of all) may show old data: begin anew afterwards.

        For what takes acknowledged data away from readers, such as a MySQL that is restored
        from a backup. `rewinding` does it by itself.
        """
        affected = list(range(self.settings.shards) if shards is None else shards)
        for shard in affected:
            self.epochs[shard] += 1
        try:
            yield
        finally:
            for shard in affected:
                self.epochs[shard] += 1

    @asynccontextmanager
    async def rewinding(self, shards: Iterable[int] | None = None) -> AsyncIterator[None]:
        """Inside this block these shards' streams (None: all) may come to hold less or others.

        Before anything that was ever readable by a worker is destroyed, the tap must have
        read it: `last_words`. When the block ends the master is up and reachable by
        `redis.direct()`; the tap reads its streams from their start.
        """
        affected = list(range(self.settings.shards) if shards is None else shards)
        with self.doubting_reads(affected):
            async with self.tap.rewinding(affected):
                yield

    async def last_words(self, redis: Redis, *command: Any) -> Any:
        """Let the tap read every stream of the server behind *redis* to its end.

        With a *command* (FLUSHALL, DEL key, XTRIM key ...) it runs in the same MULTI, so that
        nothing comes in between; its reply. Without one, see that no client can reach the
        server any more (proxy refusing, connections killed), then call, then destroy it.
        """
        return await self.tap.last_words(redis, *command)
