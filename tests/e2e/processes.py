"""Real worker processes on servers of their own, and what must hold after any trouble."""

from __future__ import annotations

import itertools
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from ops.processes import Process
from ops.servers import Server
from shared.errors import StoreDown, Transient
from shared.mysql import open_mysql
from shared.redis import open_redis, redis_errors
from shared.settings import Settings
from shared.streams import now_ms_of, stream_info
from tests.loads import nonce_of
from tests.mysql_state import assert_mysql_equals, books
from tests.plays import STREAM, deps_of, rows
from tests.servers import OwnServers, to_environ
from tests.taps import entries_after, tapped
from tests.waiting import until
from worker import checkpoints
from worker.deps import Deps
from worker.dispatch import LIVE_MS


class WorkerProcess(Process):
    """One `python -m worker`; what it logs is in `events`."""

    def __init__(self, settings: Settings, folder: Path, name: str) -> None:
        super().__init__(
            name,
            folder,
            argv=[sys.executable, "-m", "worker"],
            environ=to_environ(settings),
            death_signal=signal.SIGKILL,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log events called *name*, oldest first."""
        lines = self.log.read_bytes().splitlines() if self.log.exists() else []
        parsed = [orjson.loads(line) for line in lines if line.startswith(b"{")]
        return [event for event in parsed if event.get("event") == name]

    async def says(self, name: str, detail: str = "") -> None:
        """Return when it has logged an event called *name* in which *detail* stands."""

        def said() -> bool:
            return any(detail in str(event) for event in self.events(name))

        await until(said, f"{self.name} logs {name} {detail}")

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        await until(lambda: self.pid is None, f"{self.name} ends")
        assert self.exit_status is not None
        return self.exit_status


@dataclass(slots=True)
class Site:
    """Own servers, the workers on them, and clients of the test's own."""

    servers: OwnServers
    deps: Deps
    folder: Path
    workers: list[WorkerProcess] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def settings(self) -> Settings:
        return self.deps.settings

    def start_worker(self, settings: Settings | None = None) -> WorkerProcess:
        """A new worker process; *settings* are the site's where not given."""
        name = f"worker-{next(self._numbers)}"
        worker = WorkerProcess(settings or self.settings, self.folder, name)
        worker.launch()
        self.workers.append(worker)
        return worker

    def kill_worker(self, worker: WorkerProcess) -> None:
        """SIGKILL."""
        self.workers.remove(worker)
        worker.kill()

    # --- what can be seen from outside ------------------------------------------------

    async def held(self) -> dict[int, set[int]]:
        """pid -> the shards it holds, of the workers that reported lately."""
        with redis_errors():
            now_ms = now_ms_of(await self.deps.redis.time())
            reports = await self.deps.redis.hvals(self.deps.keys.workers)  # type: ignore[misc]
        return {
            about["pid"]: {int(name.rpartition(":")[2]) for name in about["shards"]}
            for about in map(orjson.loads, reports)
            if now_ms - about["seen_ms"] < LIVE_MS
        }

    async def holder(self) -> WorkerProcess:
        """A worker that holds a shard, once there is one."""
        await self.until_workers_hold(1)
        held = await self.held()
        return next(worker for worker in self.workers if held.get(worker.pid or 0))

    async def until_workers_hold(self, workers: int) -> None:
        """Return when at least *workers* of them hold a shard."""

        async def they_do() -> bool:
            return sum(map(bool, (await self.held()).values())) >= workers

        await until(they_do, f"{workers} workers hold shards")

    async def until_others_hold_all(self, worker: WorkerProcess) -> float:
        """Wait until the workers other than *worker* hold every shard; the seconds that took."""
        pid = worker.pid

        async def others_hold_all() -> bool:
            held = [shards for each, shards in (await self.held()).items() if each != pid]
            return len(set().union(*held)) == self.settings.shards

        return await until(others_hold_all, "the others hold every shard")

    async def batch_numbers(self) -> dict[int, int]:
        """shard -> its last committed batch."""
        query = "SELECT shard, batch_no FROM stream_checkpoints"
        found = await rows(self.deps.pool, query)
        return {row[0]: row[1] for row in found}

    async def added(self) -> int:
        """How many entries were ever added to the site's streams."""
        with redis_errors():
            async with self.deps.redis.pipeline(transaction=False) as pipe:
                for shard in range(self.settings.shards):
                    pipe.xinfo_stream(self.deps.keys.stream(STREAM, shard))
                replies = await pipe.execute(raise_on_error=False)
        return sum(stream_info(reply).added for reply in replies)

    async def pending(self) -> int:
        """Entries after the committed checkpoints, counted by reading them."""
        count = 0
        for shard in range(self.settings.shards):
            checkpoint = await checkpoints.load(self.deps.pool, STREAM, shard)
            count += len([_ async for _ in entries_after(self.deps, shard, checkpoint.last)])
        return count

    async def drained(self) -> float:
        """Return when every entry is in MySQL; the seconds that took."""

        async def is_drained() -> bool:
            try:
                return (await books(self.deps.pool))[0] == await self.added()
            except (StoreDown, Transient):
                return False

        return await until(is_drained, "every entry is in MySQL")

    # --- trouble --------------------------------------------------------------------

    async def restart(self, server: Server, number: signal.Signals = signal.SIGKILL) -> None:
        """End *server* by SIGKILL (a crash) or SIGTERM and start it again, load going on."""
        if number is signal.SIGKILL:
            server.kill()
        else:
            server.terminate()
        await until(lambda: server.pid is None, f"{server.name} ends")
        server.launch()
        await until(server.answers, f"{server.name} answers")

    # --- what must hold ---------------------------------------------------------------

    async def assert_exact(self, acknowledged: Iterable[str]) -> None:
        """Protocol 26: *acknowledged* nonces are there, nothing is there twice, MySQL agrees.

        And the books balance: added = applied + dead + pending + lost.
        """
        await self.drained()
        oracle = await tapped(self.deps)
        nonces = [
            nonce_of(event)
            for shard in range(self.settings.shards)
            async for _, event in entries_after(self.deps, shard)
        ]
        ordinal, applied, dead, lost = await books(self.deps.pool)

        assert set() == set(acknowledged) - set(nonces)
        assert len(nonces) == len(set(nonces))
        await assert_mysql_equals(self.deps.pool, oracle)
        assert (len(nonces), 0, 0) == (applied, dead, lost)
        assert await self.added() == ordinal + await self.pending()
        assert [] == [event for worker in self.workers for event in worker.events("drain_failed")]


@asynccontextmanager
async def running_site(
    servers: OwnServers, folder: Path, workers: int, shards: int = 4
) -> AsyncIterator[Site]:
    """A site with that many workers; they are killed at the end."""
    settings = replace(
        servers.settings,
        shards=shards,
        # Many small batches: the more commits, the more of them meet the trouble.
        flush_interval_ms=20,
        batch_max_entries=200,
        stream_retention_s=3600,
    )
    async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
        site = Site(servers, deps_of(settings, redis, pool), folder)
        try:
            for _ in range(workers):
                site.start_worker()
            yield site
        finally:
            for worker in site.workers:
                worker.kill()
