"""What the checks need to know of Redis, read in two round trips; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from redis.asyncio import Redis

from ops.workers import STREAMS, Worker, workers_of
from shared.durability import IN_MEMORY, Promise, promise_on
from shared.errors import AckUnmet, StoreDown
from shared.keys import Keys
from shared.redis import connected, open_redis, redis_errors
from shared.settings import Settings
from shared.streams import EntryId, entry_id, now_ms_of

_CONFIG = (
    *("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save"),
    "no-appendfsync-on-rewrite",
    "stop-writes-on-bgsave-error",
)
_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Clock:
    """A server's time and this host's at the same moment, give or take *within_ms*."""

    server_ms: int
    host_ms: int
    within_ms: int = 0

    @property
    def ahead_ms(self) -> int:
        """How far the server's clock is ahead of this host's."""
        return self.server_ms - self.host_ms


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """One Redis server; *config* is None where it denies CONFIG."""

    info: Mapping[str, Any]
    clock: Clock
    config: Mapping[str, str] | None = None
    shard_count: int | None = None
    workers: tuple[Worker, ...] = ()
    #: Entries that its streams hold, pending or retained.
    entries: int = 0
    #: Last entry id of every stream that exists, by `plays:3`.
    last_ids: Mapping[str, EntryId] = field(default_factory=dict)
    #: Does XINFO STREAM tell entries-added? True while there is no stream to see it at.
    counts_added: bool = True
    #: Reasons of stopped shards, by `plays:3`.
    stopped: Mapping[str, str] = field(default_factory=dict)
    #: How this server keeps the level of INGEST_ACK, or why it cannot.
    promise: Promise | AckUnmet = IN_MEMORY
    #: ARQ_REDIS_URL: empty if it answers, else what it says.
    arq_fault: str = ""
    arq_is_cluster: bool = False


async def read_redis(settings: Settings) -> RedisFacts:
    """Ask Redis. Raises `StoreDown` if it does not answer or denies the asking."""
    keys = Keys(settings.key_prefix)
    every = [(stream, shard) for stream in STREAMS for shard in range(settings.shards)]
    async with open_redis(settings.redis_url, timeout_s=_TIMEOUT_S) as redis:
        clock = await _clock(redis)
        with redis_errors():
            async with redis.pipeline(transaction=False) as pipe:
                pipe.info()
                pipe.execute_command("CONFIG GET", *_CONFIG)
                pipe.get(keys.shard_count)
                pipe.hgetall(keys.workers)
                pipe.mget([keys.stopped(*shard) for shard in every])
                for shard in every:
                    pipe.xinfo_stream(keys.stream(*shard))
                info, config, *replies = await pipe.execute(raise_on_error=False)
        if isinstance(info, Exception):
            raise StoreDown(f"Redis: {info}") from info
        promise = await _promise(redis, settings.ingest_ack)
    facts = RedisFacts(info, clock, config if isinstance(config, dict) else None, promise=promise)
    facts = replace(facts, **await _arq(settings))
    if info.get("cluster_enabled") == 1:
        return facts  # which answers for some of its keys at most
    names = [f"{stream}:{shard}" for stream, shard in every]
    return replace(
        facts, **_ours(names, clock.server_ms, *replies[:3]), **_streams(names, replies[3:])
    )


async def _promise(redis: Redis, level: str) -> Promise | AckUnmet:
    with redis_errors():
        async with connected(redis) as connection:
            try:
                return await promise_on(connection, level)
            except AckUnmet as unmet:
                return unmet


def _ours(
    names: Sequence[str], now_ms: int, shard_count: Any, workers: Any, reasons: Any
) -> dict[str, Any]:
    """What moonwake itself keeps there."""
    for reply in (shard_count, workers, reasons):
        if isinstance(reply, Exception):
            raise StoreDown(f"Redis: {reply}") from reply
    told = zip(names, reasons, strict=True)
    return {
        "shard_count": None if shard_count is None else int(shard_count),
        "workers": tuple(workers_of(workers, now_ms)),
        "stopped": {name: reason.decode() for name, reason in told if reason is not None},
    }


def _streams(names: Sequence[str], replies: Sequence[Any]) -> dict[str, Any]:
    streams: dict[str, dict[str, Any]] = {}
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, dict):
            streams[name] = reply
        elif "no such key" not in str(reply):
            raise StoreDown(f"Redis, stream {name}: {reply}")
    return {
        "entries": sum(about["length"] for about in streams.values()),
        "last_ids": {name: entry_id(about["last-generated-id"]) for name, about in streams.items()},
        "counts_added": all("entries-added" in about for about in streams.values()),
    }


async def _clock(redis: Redis) -> Clock:
    with redis_errors():
        await redis.ping()  # the next round trip opens no connection
        before_ns = time.time_ns()
        reply = await redis.time()
        after_ns = time.time_ns()
    return clock_between(now_ms_of(reply), before_ns, after_ns)


def clock_between(server_ms: int, before_ns: int, after_ns: int) -> Clock:
    """The clock of a server asked at *before_ns* that had answered at *after_ns*."""
    within_ms = (after_ns - before_ns) // 2_000_000
    return Clock(server_ms, (before_ns + after_ns) // 2_000_000, within_ms)


async def _arq(settings: Settings) -> dict[str, Any]:
    """How ARQ_REDIS_URL answers."""
    try:
        async with open_redis(settings.arq_redis_url, timeout_s=_TIMEOUT_S) as redis:
            with redis_errors():
                about = await redis.info("cluster")
    except StoreDown as fault:
        return {"arq_fault": str(fault)}
    return {"arq_is_cluster": about.get("cluster_enabled") == 1}
