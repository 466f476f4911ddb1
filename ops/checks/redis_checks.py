"""The checks of Redis: fit to keep what it acknowledged, and with room for a backlog."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from ops.checks.findings import Finding, error, mib, numbers, ok, warning
from ops.checks.redis_facts import RedisFacts
from shared.durability import FSYNC, MEMORY
from shared.errors import AckUnmet
from shared.instance import REDIS_MIN
from shared.settings import Settings

RedisCheck = Callable[[RedisFacts, Settings], Finding]

#: Memory of an entry with a record of 350 bytes.
ENTRY_BYTES = 440
#: Servers that speak Redis' protocol and lack something that is needed, by their own field in INFO.
_UNFIT = {
    "kvrocks_version": "Kvrocks",
    "upstash_version": "Upstash",
    "dragonfly_version": "Dragonfly",
    "garnet_version": "Garnet",
}
#: What lets WAITAOF answer at once: name, value, why not another.
_FSYNCS_AT_ONCE = (
    ("appendfsync", "always", "each acknowledgement waits for the next fsync, a second or two"),
    (
        "no-appendfsync-on-rewrite",
        "no",
        "while the file is rewritten nothing is fsynced, and every write is answered 503",
    ),
)


def address(url: str) -> str:
    """Where *url* leads, without its password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"


def version(facts: RedisFacts, settings: Settings) -> Finding:
    """Redis 7.0+ or Valkey; nothing that only resembles them."""
    info = facts.info
    unfit = next((name for key, name in _UNFIT.items() if key in info), None)
    name = unfit or ("Valkey" if "valkey_version" in info else "Redis")
    known = str(info.get("valkey_version") or info.get("redis_version", "0"))
    found = f"{name} {known} at {address(settings.redis_url)}"
    if unfit or not facts.counts_added or numbers(str(info.get("redis_version", "0"))) < REDIS_MIN:
        return error(
            "redis-version",
            found,
            "without entries-added of XINFO STREAM no loss could be counted",
            "point REDIS_URL to Redis 7.0 or newer, or to Valkey",
        )
    return ok("redis-version", found)


def role(facts: RedisFacts, _: Settings) -> Finding:
    """A master, and no cluster."""
    info = facts.info
    if info.get("role") == "slave":
        return error(
            "redis-role",
            f"a replica of {info.get('master_host')}:{info.get('master_port')}",
            "a replica refuses every write (READONLY)",
            "point REDIS_URL to the master, or promote this one: REPLICAOF NO ONE",
        )
    if info.get("cluster_enabled") == 1:
        return error(
            "redis-role",
            "a node of a Redis Cluster",
            "shards lie on several nodes, and moonwake asks one",
            "point REDIS_URL to a single Redis or Valkey server",
        )
    return ok("redis-role", f"master with {info.get('connected_slaves', 0)} replicas")


def eviction(facts: RedisFacts, _: Settings) -> Finding:
    """noeviction: web and workers do not start with anything else."""
    policy = _configured(facts, "maxmemory-policy", "maxmemory_policy")
    if policy == "noeviction":
        return ok("redis-eviction", policy)
    why = (
        "a full Redis would evict acknowledged events"
        if policy.startswith("allkeys-")
        else "a full Redis would evict leases and cached copies, then refuse writes all the same"
    )
    remedy = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    return error("redis-eviction", policy, f"{why}; web and workers do not start", remedy)


def durability(facts: RedisFacts, _: Settings) -> Finding:
    """The append-only file: what a restart or a power cut leaves."""
    if facts.info.get("aof_enabled") != 1:
        return _without_aof(facts)
    if facts.config is None:
        return warning(
            "redis-durability",
            "append-only file on; CONFIG is denied, so appendfsync is unknown",
            "with appendfsync no a power cut loses whatever the kernel held back",
            "ask whoever runs this Redis for appendfsync everysec or always",
        )
    fsync = facts.config.get("appendfsync", "unknown")
    found = f"append-only file on, appendfsync {fsync}"
    if fsync == "no":
        return warning(
            "redis-durability",
            found,
            "a power cut loses whatever the kernel held back, often 30 s",
            "CONFIG SET appendfsync everysec, or always where no second may be lost",
        )
    return ok("redis-durability", found)


def _without_aof(facts: RedisFacts) -> Finding:
    remedy = "CONFIG SET appendonly yes, and the same in redis.conf"
    if facts.info.get("connected_slaves", 0):
        return warning(
            "redis-durability",
            "append-only file off, replicated",
            "what a replica has not received yet is lost with this server",
            remedy,
        )
    return error(
        "redis-durability",
        "append-only file off, no replica",
        "a restart loses every acknowledged event that MySQL does not hold yet",
        remedy,
    )


def acknowledgement(facts: RedisFacts, settings: Settings) -> Finding:
    """INGEST_ACK: can this server keep what an acknowledgement promises?"""
    level, promise = settings.ingest_ack, facts.promise
    if isinstance(promise, AckUnmet):
        return error(
            "ack-level",
            f"INGEST_ACK is {level}, and {promise.fault}",
            "a web process does not start; one that runs answers every write with 503",
            f"{promise.remedy}; or another level",
        )
    if promise.unchecked:
        why = "where it is another, what was acknowledged may be lost with the machine"
        return warning(
            "ack-level",
            f"INGEST_ACK is {level}; CONFIG is denied, so appendfsync is unknown",
            why,
            "ask whoever runs this Redis for appendfsync always, or for Redis 7.2 or later",
        )
    for name, wanted, why in _FSYNCS_AT_ONCE if level == FSYNC else ():
        value = (facts.config or {}).get(name, wanted)
        if value != wanted:
            found = f"INGEST_ACK is {level}, by {promise.by}, and {name} is {value}"
            remedy = f"CONFIG SET {name} {wanted}, and the same in redis.conf"
            return warning("ack-level", found, why, remedy)
    return ok("ack-level", level if level == MEMORY else f"{level}, by {promise.by}")


def disk(facts: RedisFacts, _: Settings) -> Finding:
    """Did Redis' last writes to its disk succeed?"""
    info, config = facts.info, facts.config or {}
    if info.get("aof_enabled") == 1 and info.get("aof_last_write_status", "ok") != "ok":
        return error(
            "redis-disk",
            "the last write to the append-only file failed",
            "Redis refuses writes until one succeeds (MISCONF)",
            "make room on its disk, or mend it; Redis tries again by itself",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        stops = bool(config.get("save")) and config.get("stop-writes-on-bgsave-error") != "no"
        remedy = "make room on its disk and in memory (vm.overcommit_memory=1), then BGSAVE"
        found = "the last snapshot failed"
        if stops:
            return error("redis-disk", found, "Redis refuses writes meanwhile (MISCONF)", remedy)
        return warning("redis-disk", found, "a full disk stops the append-only file next", remedy)
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        return warning(
            "redis-disk",
            "the last rewrite of the append-only file failed",
            "the file grows until its disk is full",
            "make room on its disk and in memory (vm.overcommit_memory=1), then BGREWRITEAOF",
        )
    return ok("redis-disk", "the last writes to its disk succeeded")


def memory(facts: RedisFacts, settings: Settings) -> Finding:
    """Room for a backlog up to the high-water mark of every shard."""
    info = facts.info
    full = settings.max_lag_entries * settings.shards
    limit = int(info.get("maxmemory", 0))
    total = limit or int(info.get("total_system_memory", 0))
    used = int(info.get("used_memory", 0))
    needed = used + ENTRY_BYTES * max(0, full - facts.entries)
    named = f"maxmemory {mib(limit)}" if limit else f"no maxmemory, {mib(total)} on its host"
    found = f"{mib(used)} used, {named}; {mib(needed)} with a full backlog"
    if not total or needed <= total * 0.9:
        return ok("redis-memory", found)
    fitting = max(1, int(total * 0.8 / ENTRY_BYTES / settings.shards))
    return warning(
        "redis-memory",
        found,
        "Redis runs out of memory before backpressure sets in"
        if limit
        else "its host runs out of memory before backpressure sets in, and kills Redis",
        f"give Redis {mib(needed * 1.3)}, or set MAX_LAG_ENTRIES to {fitting} or less",
    )


def arq(facts: RedisFacts, settings: Settings) -> Finding:
    """ARQ_REDIS_URL, which carries the workers' jobs."""
    where = address(settings.arq_redis_url)
    if facts.arq_fault:
        return error(
            "arq-redis",
            f"{where}: {facts.arq_fault}",
            "without it no worker takes up a shard",
            "start that server, or correct ARQ_REDIS_URL (empty: REDIS_URL)",
        )
    if facts.arq_is_cluster:
        return error(
            "arq-redis",
            f"{where} is a node of a Redis Cluster",
            "arq's transactions span slots, which a cluster refuses",
            "point ARQ_REDIS_URL to a single Redis or Valkey server",
        )
    same = settings.arq_redis_url == settings.redis_url
    return ok("arq-redis", "the same server as REDIS_URL" if same else f"{where} answers")


def _configured(facts: RedisFacts, name: str, in_info: str) -> str:
    config = facts.config or {}
    return config.get(name) or str(facts.info.get(in_info, "noeviction"))


REDIS_CHECKS: tuple[RedisCheck, ...] = (
    version,
    role,
    eviction,
    durability,
    acknowledgement,
    disk,
    memory,
    arq,
)
