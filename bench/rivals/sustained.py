"""How much a contender takes in and brings into MySQL, and what that takes of the machine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import wrk
from bench.rivals.contenders import Contender
from bench.rivals.heartbeats import KEYS, write_script
from bench.rivals.staging import Stage, staged
from bench.servers import Lab, RunFailed
from bench.workers import cpu_s
from shared.mysql import Pool, open_mysql, reading

WARM_UP_S = 1
_POLL_S = 0.1
#: No new event for so long, and every one that was accepted is there: it has settled.
_QUIET_S = 0.4
_TIMEOUT_S = 120
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sustained:
    """One round of one contender."""

    events: int
    accepted_per_s: float
    p99_ms: float
    #: Accepted and in MySQL: events / the time in which they arrived there, or in which they
    #: were accepted if that is longer (who writes once a second has its first batch at once).
    sustained_per_s: float
    #: How long after the load the last of them was in MySQL.
    behind_s: float
    #: User and system time per 1,000 events of front, consumers, Redis and MariaDB.
    cpu_s_per_1000: float
    front_cpu_s: float
    consumers_cpu_s: float
    redis_cpu_s: float
    mysql_cpu_s: float
    #: Most resident memory of its processes and most data in Redis, at one moment.
    memory_mib: float

    def document(self) -> dict[str, Any]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Scripts:
    """wrk's requests: one set to warm up with, and one with other episodes to measure."""

    def __init__(self, directory: Path) -> None:
        self.warm_up = write_script(directory / "warm-up.lua", 3)
        self.measured = write_script(directory / "measured.lua", 1)


async def measure(lab: Lab, contender: Contender, scripts: Scripts, duration_s: int) -> Sustained:
    """One round. Raises `RunFailed` if an accepted event does not arrive or counts wrong."""
    with staged(lab, contender) as stage:
        async with open_mysql(lab.settings(stage.database)) as pool:
            watch = _Watch(lab, stage, pool)
            load = await watch.until_settled(scripts.warm_up, WARM_UP_S, 0)
            before = await watch.arrived()
            watch.peak_bytes = 0
            cpu = _cpu(lab, stage)
            load = await watch.until_settled(scripts.measured, duration_s, before)
            front, consumers, redis, mysql = (
                after - earlier for after, earlier in zip(_cpu(lab, stage), cpu, strict=True)
            )
            await _check(pool, before, load.requests)
    accepting_s = load.requests / load.requests_per_s
    return Sustained(
        load.requests,
        load.requests_per_s,
        load.p99_ms,
        load.requests / max(accepting_s, watch.complete_at_s - watch.first_at_s),
        watch.complete_at_s - watch.loaded_at_s,
        (front + consumers + redis + mysql) / load.requests * 1000,
        front,
        consumers,
        redis,
        mysql,
        watch.peak_bytes / _MIB,
    )


class _Watch:
    """Counts what has arrived in MySQL and the memory in use, while a load runs and after."""

    def __init__(self, lab: Lab, stage: Stage, pool: Pool) -> None:
        self._lab, self._stage, self._pool = lab, stage, pool
        self.peak_bytes = 0
        #: When the first event of the load was seen in MySQL, and when the load had ended.
        self.first_at_s = self.loaded_at_s = 0.0
        #: When the last of the accepted events was seen in MySQL.
        self.complete_at_s = 0.0

    async def arrived(self) -> int:
        return await _number(self._pool, "SELECT COALESCE(SUM(play_count), 0) FROM content_stats")

    async def until_settled(self, script: Path, duration_s: int, before: int) -> wrk.Load:
        """Load, and wait until everything accepted is in MySQL."""
        argv = wrk.command(script, self._stage.url, duration_s)
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        reporting = asyncio.create_task(process.communicate())
        self.first_at_s = 0.0
        while not reporting.done():
            self._see_memory()
            if not self.first_at_s and await self.arrived() > before:
                self.first_at_s = time.monotonic()
            await asyncio.wait([reporting], timeout=_POLL_S)
        self.loaded_at_s = self.complete_at_s = time.monotonic()
        self.first_at_s = self.first_at_s or self.loaded_at_s
        load = wrk.load_of(reporting.result()[0].decode())
        await self._settle(before + load.requests)
        return load

    async def _settle(self, expected: int) -> None:
        deadline_s = time.monotonic() + _TIMEOUT_S
        count = await self.arrived()
        complete = count >= expected
        quiet_since_s = time.monotonic()
        while not complete or time.monotonic() - quiet_since_s < _QUIET_S:
            if time.monotonic() > deadline_s:
                raise RunFailed(f"{expected - count} of {expected} events have not arrived")
            self._see_memory()
            await asyncio.sleep(_POLL_S)
            now = await self.arrived()
            if not complete and now >= expected:
                complete, self.complete_at_s = True, time.monotonic()
            if now != count:
                count, quiet_since_s = now, time.monotonic()

    def _see_memory(self) -> None:
        data = self._lab.redis.info("memory")["used_memory"]  # type: ignore[index]
        self.peak_bytes = max(self.peak_bytes, int(data) + sum(map(_rss, self._stage.pids)))


def _cpu(lab: Lab, stage: Stage) -> list[float]:
    """Processor seconds so far of front, consumers, Redis and MySQL."""
    front, *consumers = stage.pids
    redis, mysql = lab.redis_server.pid, lab.mysql.pid
    assert redis is not None
    assert mysql is not None
    return [cpu_s(front), sum(map(cpu_s, consumers)), cpu_s(redis), cpu_s(mysql)]


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


async def _check(pool: Pool, before: int, accepted: int) -> None:
    """Raises `RunFailed` unless every counter tells of the same events, none twice."""
    plays = await _number(pool, "SELECT SUM(play_count) FROM content_stats")
    days = await _number(pool, "SELECT SUM(plays) FROM user_watch_daily")
    users = await _number(pool, "SELECT SUM(unique_users) FROM content_stats")
    viewers = await _number(pool, "SELECT COUNT(*) FROM content_viewers")
    records = await _number(pool, "SELECT COUNT(*) FROM play_records")
    # At the end of a load every connection may have had one more under way.
    if not before + accepted <= plays <= before + accepted + wrk.CONNECTIONS:
        raise RunFailed(f"{accepted} events were accepted, {plays - before} plays were counted")
    if plays != days or not records == viewers == users <= KEYS:
        raise RunFailed(f"{plays=} {days=} {records=} {viewers=} {users=} do not agree")


async def _number(pool: Pool, query: str) -> int:
    async with reading(pool) as cursor:
        await cursor.execute(query)
        ((number,),) = await cursor.fetchall()
    return int(number)
