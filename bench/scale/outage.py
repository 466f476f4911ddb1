"""An outage of MySQL under a steady load through the API: the lag it leaves, and catching up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any, NamedTuple

from redis.asyncio import Redis

from bench.ingest import served
from bench.scale.heartbeats import Heartbeats
from bench.servers import Lab, RunFailed
from bench.workers import pid_of, running_worker
from bench.workload import STREAM
from shared.keys import Keys
from shared.published import published_of
from shared.redis import open_redis
from shared.settings import Settings
from shared.status import lag_of
from shared.streams import entry_id, now_ms_of, stream_info

#: What `moonwake up` runs by default.
SHARDS, WORKERS = 8, 2
PREFIX = "outage:"
#: The lag is that of every day again once the oldest waiting event is no older than this.
CAUGHT_UP_S = 1.5
_SAMPLE_S = 1.0
_BEFORE_S, _AFTER_S = 20, 20
_CATCH_UP_TIMEOUT_S = 900


class Sample(NamedTuple):
    """The lag of all shards at one moment, *at_s* after the load began."""

    at_s: float
    #: Entries past the checkpoints, and the age of the oldest in seconds.
    lag: int
    lag_s: float
    #: Slowest of a hundred answers of the front since the sample before, in milliseconds.
    p99_ms: float


def measure(
    lab: Lab, outage_s: int, events_per_s: int, told: Callable[[str], None]
) -> dict[str, Any]:
    """Kill MySQL under load, start it again after *outage_s*, and watch the lag go."""
    more = {"KEY_PREFIX": PREFIX, "SHARDS": str(SHARDS), "STREAM_RETENTION_S": "60"}
    with lab.database() as database, ExitStack() as stack:
        mark = str(lab.settings().max_lag_entries)
        url = stack.enter_context(served(lab, database, "moonwake", MAX_LAG_ENTRIES=mark, **more))
        for number in range(WORKERS):
            stack.enter_context(running_worker(lab, database, f"worker-{number}", **more))
        outage = _Outage(lab, lab.settings(database, **more), Heartbeats(url, events_per_s), told)
        asyncio.run(outage.run(outage_s))
        outage.check_books(database)
        return {"outage_s": outage_s, "events_per_s": events_per_s, **outage.document()}


class _Outage:
    """One run: a load, its samples, and when MySQL went and came."""

    def __init__(
        self, lab: Lab, settings: Settings, load: Heartbeats, told: Callable[[str], None]
    ) -> None:
        self._lab = lab
        self._settings = settings
        self._load = load
        self._told = told
        self._begun_s = time.monotonic()
        self._samples: list[Sample] = []
        self._down_s = self._up_s = self._caught_up_s = 0.0

    async def run(self, outage_s: int) -> None:
        async with open_redis(self._settings.redis_url) as redis:
            try:
                async with asyncio.TaskGroup() as tasks:
                    loading = tasks.create_task(self._load.run())
                    sampling = tasks.create_task(self._sample(redis))
                    await self._go_through(outage_s)
                    self._load.stop()
                    await loading
                    sampling.cancel()
            except ExceptionGroup as errors:
                raise RunFailed(f"the outage: {errors.exceptions[0]}") from errors
            await self._drained(redis)

    async def _go_through(self, outage_s: int) -> None:
        await asyncio.sleep(_BEFORE_S)
        await self._without_mysql(outage_s)
        await self._catch_up()
        await asyncio.sleep(_AFTER_S)

    async def _without_mysql(self, outage_s: int) -> None:
        """Killed as a crash would, started again by hand: recovery counts as outage."""
        self._told(f"MySQL is down for {outage_s} s")
        self._down_s = self._now_s()
        await asyncio.to_thread(self._lab.mysql.kill)
        await asyncio.sleep(self._down_s + outage_s - self._now_s())
        self._lab.mysql.launch()
        while not self._lab.mysql.answers():
            pid_of(self._lab.mysql)
            await asyncio.sleep(0.05)
        self._up_s = self._now_s()

    async def _catch_up(self) -> None:
        self._told(f"MySQL is back; {self._samples[-1].lag:,} events wait")
        deadline_s = self._up_s + _CATCH_UP_TIMEOUT_S
        while not (caught_up := self._first_caught_up()):
            if self._now_s() > deadline_s:
                raise RunFailed(f"not caught up {_CATCH_UP_TIMEOUT_S} s after the outage")
            await asyncio.sleep(_SAMPLE_S / 4)
        self._caught_up_s = caught_up.at_s

    def _first_caught_up(self) -> Sample | None:
        after = (sample for sample in self._samples if sample.at_s > self._up_s)
        return next((sample for sample in after if sample.lag_s <= CAUGHT_UP_S), None)

    async def _drained(self, redis: Redis) -> None:
        """Wait until the last event is applied and published."""
        deadline_s = time.monotonic() + 30
        while (await _lag(redis, self._settings))[0]:
            if time.monotonic() > deadline_s:
                raise RunFailed("the last events were not drained in 30 s")
            await asyncio.sleep(0.1)

    async def _sample(self, redis: Redis) -> None:
        while True:
            lag, lag_s = await _lag(redis, self._settings)
            waits_ms = self._load.take_waits_ms()
            p99_ms = quantiles(waits_ms, n=100)[98] if len(waits_ms) > 1 else 0.0
            self._samples.append(Sample(round(self._now_s(), 2), lag, lag_s, round(p99_ms, 2)))
            await asyncio.sleep(_SAMPLE_S - self._now_s() % _SAMPLE_S)

    def _now_s(self) -> float:
        return time.monotonic() - self._begun_s

    def check_books(self, database: str) -> None:
        """Raises `RunFailed` unless each acknowledged event, and no other, is applied once."""
        ((applied, ordinal),) = self._lab.sql(
            "SELECT SUM(applied), SUM(ordinal) FROM stream_checkpoints", database
        )
        if not applied == ordinal == str(self._load.acknowledged):
            raise RunFailed(
                f"{self._load.acknowledged} events were acknowledged, {applied} applied"
                f" ({ordinal} with dead letters and losses)"
            )

    def document(self) -> dict[str, Any]:
        before = [each for each in self._samples[1:] if each.at_s <= self._down_s]
        during = [each for each in self._samples if self._down_s < each.at_s <= self._up_s]
        return {
            "down_at_s": round(self._down_s, 2),
            "up_at_s": round(self._up_s, 2),
            "caught_up_at_s": round(self._caught_up_s, 2),
            "catch_up_s": round(self._caught_up_s - self._up_s, 2),
            "highest_lag": max(sample.lag for sample in self._samples),
            "acknowledged": self._load.acknowledged,
            "refused": self._load.refused,
            "p99_ms_before": median(sample.p99_ms for sample in before),
            "p99_ms_during": median(sample.p99_ms for sample in during),
            "samples": [list(sample) for sample in self._samples],
        }


async def _lag(redis: Redis, settings: Settings) -> tuple[int, float]:
    """(entries past the checkpoints, age of the oldest in seconds) over all shards."""
    keys = Keys(settings.key_prefix)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.time()
        for shard in range(settings.shards):
            pipe.xinfo_stream(keys.stream(STREAM, shard))
            pipe.hgetall(keys.checkpoint(STREAM, shard))
        now, *replies = await pipe.execute(raise_on_error=False)
    lag, oldest_ms = 0, now_ms_of(now)
    for shard in range(settings.shards):
        info, published = stream_info(replies[2 * shard]), published_of(replies[2 * shard + 1])
        waiting = lag_of(info, published) or 0
        lag += waiting
        if waiting and published is not None:
            key = keys.stream(STREAM, shard)
            for entry, _ in await redis.xrange(key, f"({published.last}", "+", count=1):
                oldest_ms = min(oldest_ms, entry_id(entry).ms)
    return lag, (now_ms_of(now) - oldest_ms) / 1000
