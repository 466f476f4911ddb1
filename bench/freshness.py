"""Freshness: from an event's acknowledgement to its row in MySQL, at a steady pace."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from statistics import quantiles

from bench.report import Result, Target
from bench.servers import Lab, RunFailed
from bench.workers import running_worker
from bench.workload import STREAM, append_of
from shared.appends import AppendConnection
from shared.connections import Pool, open_mysql, open_redis, reading
from shared.errors import AppendRefused
from shared.events import encode_save
from shared.keys import Keys, shard_of
from shared.settings import Settings
from shared.streams import Append, written_field

EVENTS_PER_S = 1_000
P99_MAX_MS = 1_500.0
PREFIX = "fresh:"
SHARDS = 8
_TICK_S = 0.02
_POLL_S = 0.01
_WARM_UP_S = 5
_TIMEOUT_S = 30
_RECORD = b'{"title":"Probe","source_name":"Probe","index":1}'


class Probes:
    """Events whose arrival is waited for: one a tick, on every shard in turn."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.users = [_user_in(shard) for shard in range(SHARDS)]
        #: probe -> when it was acknowledged
        self.acknowledged_s: dict[str, float] = {}
        self.waits_ms: list[float] = []

    def append(self, number: int) -> Append:
        shard = number % SHARDS
        user, content_id = self.users[shard], str(number)
        body, offset = encode_save(user, "probe", content_id, _RECORD)
        field = written_field("probe", content_id)
        return Append(shard, self._keys.play_records(shard, user), b"s", field, body, offset)

    async def watch(self, pool: Pool, sent: asyncio.Event) -> None:
        """Note how long each probe took to become visible, until all *sent* ones are."""
        marks = ",".join(["%s"] * len(self.users))
        query = f"SELECT content_id FROM play_records WHERE username IN ({marks})"
        seen: set[str] = set()
        while not sent.is_set() or len(seen) < len(self.acknowledged_s):
            async with reading(pool) as cursor:
                await cursor.execute(query, self.users)
                rows = await cursor.fetchall()
            now_s = time.monotonic()
            for (number,) in rows:
                # A row may be seen before the acknowledgement is: the next look finds both.
                if number not in seen and number in self.acknowledged_s:
                    seen.add(number)
                    self.waits_ms.append((now_s - self.acknowledged_s[number]) * 1000)
            await asyncio.sleep(_POLL_S)


def measure(lab: Lab, duration_s: int) -> list[Result]:
    """Two workers at default settings, *duration_s* of steady load after a warm-up."""
    more = {"KEY_PREFIX": PREFIX, "SHARDS": str(SHARDS), "STREAM_RETENTION_S": "60"}
    with lab.database() as database, ExitStack() as stack:
        for name in ("worker-1", "worker-2"):
            stack.enter_context(running_worker(lab, database, name, **more))
        waits_ms = asyncio.run(_run(lab.settings(database, **more), duration_s))
    cuts = quantiles(waits_ms, n=100)
    bound = "1,500 ms"
    return [
        Result("freshness p50", "ms", [cuts[49]], bound, [P99_MAX_MS], Target(1, at_most=True)),
        Result("freshness p99", "ms", [cuts[98]], bound, [P99_MAX_MS], Target(1, at_most=True)),
    ]


async def _run(settings: Settings, duration_s: int) -> list[float]:
    keys = Keys(PREFIX)
    probes = Probes(keys)
    async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
        connection = AppendConnection(redis, keys, STREAM)
        sent = asyncio.Event()
        try:
            await _load(connection, keys, _WARM_UP_S, None)
            watching = asyncio.create_task(probes.watch(pool, sent))
            await _load(connection, keys, duration_s, probes)
            sent.set()
            async with asyncio.timeout(_TIMEOUT_S):
                await watching
        except (TimeoutError, AppendRefused) as error:
            raise RunFailed(f"not every event became visible: {error!r}") from error
        finally:
            await connection.close()
    return probes.waits_ms


async def _load(
    connection: AppendConnection, keys: Keys, duration_s: int, probes: Probes | None
) -> None:
    """Send at a steady pace, a probe with every tick."""
    begun_s = time.monotonic()
    per_tick, sent = round(EVENTS_PER_S * _TICK_S) - 1, 0
    for tick in range(round(duration_s / _TICK_S)):
        now_ms = time.time_ns() // 1_000_000
        events = [
            append_of(keys, SHARDS, number % 20_000, number // 2_000, now_ms)
            for number in range(sent, sent + per_tick)
        ]
        sent += per_tick
        if probes is not None:
            events.append(probes.append(tick))
        shards: dict[int, list[Append]] = {}
        for event in events:
            shards.setdefault(event.shard, []).append(event)
        await connection.append(list(shards.values()))
        if probes is not None:
            probes.acknowledged_s[str(tick)] = time.monotonic()
        await asyncio.sleep(max(0.0, begun_s + (tick + 1) * _TICK_S - time.monotonic()))


def _user_in(shard: int) -> str:
    """A user whose events go to *shard*."""
    return next(
        name
        for name in (f"probe{number}" for number in range(1_000))
        if shard_of(name, SHARDS) == shard
    )
