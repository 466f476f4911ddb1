"""Freshness: from an event's acknowledgement to its row in MySQL, at a steady pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import quantiles

from bench.report import Result, Target
from bench.servers import Lab, RunFailed
from bench.workers import running_worker
from bench.workload import STREAM, append_of, send
from shared.appends import AppendConnection
from shared.errors import AppendRefused
from shared.events import encode_save
from shared.keys import Keys, shard_of
from shared.mysql import Pool, open_mysql, reading
from shared.redis import open_redis
from shared.settings import Settings
from shared.streams import Append, written_field

EVENTS_PER_S = 1_000
#: Keys that players post to, each every five seconds.
KEYS = 5_000
P99_MAX_MS = 1_500.0
#: What `moonwake up` runs by default.
SHARDS, WORKERS = 8, 2
PREFIX = "fresh:"
_TICK_S = 0.02
_PROBES_PER_TICK = 2
_POLL_S = 0.01
_WARM_UP_S = 5
_TIMEOUT_S = 30
_RECORD = b'{"title":"Probe","source_name":"Probe","index":1}'


class Probes:
    """Events whose arrival is waited for, on every shard in turn."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._users = [_user_in(shard) for shard in range(SHARDS)]
        #: Probe -> when it was acknowledged, until it is seen.
        self._waiting_s: dict[int, float] = {}
        #: Probe -> how long it took to become visible.
        self.waits_ms: dict[int, float] = {}
        #: Set once no more will follow.
        self.sent = asyncio.Event()

    def append(self, number: int) -> Append:
        shard = number % SHARDS
        user, content_id = self._users[shard], str(number)
        body, offset = encode_save(user, "probe", content_id, _RECORD)
        field = written_field("probe", content_id)
        return Append(shard, self._keys.play_records(shard, user), b"s", field, body, offset)

    def acknowledged(self, numbers: Sequence[int]) -> None:
        now_s = time.monotonic()
        self._waiting_s.update((number, now_s) for number in numbers)

    async def watch(self, pool: Pool) -> None:
        """Look for them until all that were sent are seen."""
        while not self.sent.is_set() or self._waiting_s:
            if self._waiting_s:
                await self._look(pool)
            await asyncio.sleep(_POLL_S)

    async def _look(self, pool: Pool) -> None:
        users = ",".join(f"'{user}'" for user in self._users)
        numbers = ",".join(f"'{number}'" for number in self._waiting_s)
        async with reading(pool) as cursor:
            await cursor.execute(
                f"SELECT content_id FROM play_records WHERE username IN ({users})"
                f" AND source = 'probe' AND content_id IN ({numbers})"
            )
            rows = await cursor.fetchall()
        now_s = time.monotonic()
        for (text,) in rows:
            number = int(text)
            self.waits_ms[number] = (now_s - self._waiting_s.pop(number)) * 1000


def measure(lab: Lab, rounds: int, round_s: int) -> list[Result]:
    """A steady load on two workers; the rounds are stretches of it, one after the other."""
    more = {"KEY_PREFIX": PREFIX, "SHARDS": str(SHARDS), "STREAM_RETENTION_S": "60"}
    with lab.database() as database, ExitStack() as stack:
        for number in range(WORKERS):
            stack.enter_context(running_worker(lab, database, f"worker-{number}", **more))
        waits_ms = asyncio.run(_run(lab.settings(database, **more), rounds * round_s))
    size = len(waits_ms) // rounds
    cuts = [quantiles(waits_ms[size * i : size * (i + 1)], n=100) for i in range(rounds)]
    bound, allowed = "1,500 ms allowed", Target(1, at_most=True)
    p50s, p99s = [cut[49] for cut in cuts], [cut[98] for cut in cuts]
    return [
        Result("freshness p50", "ms", p50s, bound, [P99_MAX_MS], allowed),
        Result("freshness p99", "ms", p99s, bound, [P99_MAX_MS], allowed),
    ]


async def _run(settings: Settings, duration_s: int) -> list[float]:
    """The probes' waits, in the order they were sent."""
    probes = Probes(Keys(PREFIX))
    async with open_redis(settings.redis_url) as redis, open_mysql(settings) as pool:
        connection = AppendConnection(redis, Keys(PREFIX), STREAM)
        watching = asyncio.create_task(probes.watch(pool))
        try:
            await _load(connection, _WARM_UP_S, None)
            await _load(connection, duration_s, probes)
            probes.sent.set()
            async with asyncio.timeout(_TIMEOUT_S):
                await watching
        except (TimeoutError, AppendRefused) as error:
            raise RunFailed(f"not every event became visible: {error!r}") from error
        finally:
            await connection.close()
    return [probes.waits_ms[number] for number in sorted(probes.waits_ms)]


async def _load(connection: AppendConnection, duration_s: int, probes: Probes | None) -> None:
    """Send at a steady pace, in groups as the front does; *probes* are among the events."""
    keys = Keys(PREFIX)
    begun_s = time.monotonic()
    per_tick = round(EVENTS_PER_S * _TICK_S)
    for tick in range(round(duration_s / _TICK_S)):
        now_ms = time.time_ns() // 1_000_000
        due = range(tick * per_tick, (tick + 1) * per_tick)
        events = [append_of(keys, SHARDS, n % KEYS, 5 * (n // KEYS), now_ms) for n in due]
        watched = range(tick * _PROBES_PER_TICK, (tick + 1) * _PROBES_PER_TICK)
        if probes is not None:
            events[: len(watched)] = [probes.append(number) for number in watched]
        await send(connection, events)
        if probes is not None:
            probes.acknowledged(watched)
        await asyncio.sleep(max(0.0, begun_s + (tick + 1) * _TICK_S - time.monotonic()))


def _user_in(shard: int) -> str:
    """A user whose events go to *shard*."""
    names = (f"probe{number}" for number in range(1_000))
    return next(name for name in names if shard_of(name, SHARDS) == shard)
