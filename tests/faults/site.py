"""A whole site under test: servers, fronts and workers, reached through proxies, and a tap."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from shared.keys import Keys
from shared.settings import Settings
from tests.e2e.processes import WorkerProcess
from tests.faults.processes import ApiProcess
from tests.faults.rewinds import Forgotten, Rewind
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
    #: Names of processes that a fault has in its hands: what they do is its business.
    taken: set[str] = field(default_factory=set)
    #: Rewinds so far, oldest first.
    rewinds: list[Rewind] = field(default_factory=list)
    #: Losses that were counted, and whose count was taken away with a database.
    forgotten: list[Forgotten] = field(default_factory=list)

    @property
    def keys(self) -> Keys:
        return Keys(self.settings.key_prefix)

    def note(self, text: str) -> None:
        """Add *text* to the run's log, with the time."""
        with (self.folder / "notes.log").open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%H:%M:%S.%f} {text}\n")

    @contextmanager
    def taking(self, name: str) -> Iterator[None]:
        """Inside this block the process called *name* is one fault's alone."""
        self.taken.add(name)
        try:
            yield
        finally:
            self.taken.discard(name)

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

        Before anything that a worker could have read is destroyed, the tap must have read
        it: `last_words`. When the block ends the master is up and reachable by
        `redis.direct()`; the tap reads its streams from their start.
        """
        affected = list(range(self.settings.shards) if shards is None else shards)
        with self.doubting_reads(affected):
            rewind = Rewind(affected)
            async with self.tap.rewinding(affected):
                # Known from here on: workers may find it before the block ends.
                self.rewinds.append(rewind)
                yield
            rewind.begin(self.tap)

    async def last_words(self, redis: Redis, *command: Any) -> Any:
        """Let the tap read every stream of the server behind *redis* to its end.

        With a *command* (FLUSHALL, DEL key, XTRIM key ...) it runs in the same MULTI, so that
        nothing comes in between; its reply. Without one, see that no client can reach the
        server any more (proxy refusing, connections killed), then call, then destroy it.
        Only inside `rewinding`.
        """
        return await self.tap.last_words(redis, *command)
