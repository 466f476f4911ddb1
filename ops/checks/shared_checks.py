"""The checks that hold both stores and the settings against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from ops.checks.findings import Finding, error, ok, warning
from ops.checks.mysql_facts import MysqlFacts
from ops.checks.redis_facts import Clock, RedisFacts
from shared.settings import Settings

CLOCKS_APART_MS, CLOCKS_WRONG_MS = 1_000, 60_000
#: Left for an operator's own client and this program.
_SPARE_CONNECTIONS = 5


@dataclass(frozen=True, slots=True)
class Stores:
    """What is known of both stores; None stands for one that did not answer."""

    settings: Settings
    redis: RedisFacts | None
    mysql: MysqlFacts | None


SharedCheck = Callable[[Stores], Finding]


def shard_count(stores: Stores) -> Finding:
    """SHARDS against what both stores were begun with."""
    shards = stores.settings.shards
    both = (("Redis", stores.redis), ("MySQL", stores.mysql))
    kept = {
        name: facts.shard_count
        for name, facts in both
        if facts is not None and facts.shard_count is not None
    }
    if not kept:
        return ok("shard-count", f"SHARDS is {shards}; the first start fixes it")
    if set(kept.values()) == {shards}:
        return ok("shard-count", f"{shards}, in {' and '.join(kept)}")
    counts = set(kept.values())
    return error(
        "shard-count",
        f"SHARDS is {shards}"
        + "".join(f", {name} was begun with {count}" for name, count in kept.items()),
        "another count would send a user's events to another shard, out of order",
        f"set SHARDS={counts.pop()}"
        if len(counts) == 1
        else "these two stores do not belong together: correct REDIS_URL or MYSQL_HOST",
    )


def connections(stores: Stores) -> Finding:
    """Every process with a full pool, against the server's max_connections."""
    settings = stores.settings
    live = sum(worker.is_live for worker in stores.redis.workers) if stores.redis else 0
    processes = settings.web_concurrency + max(live, 1)
    pools = f"{processes} processes x MYSQL_POOL_SIZE {settings.mysql_pool_size}"
    if stores.mysql is None:
        return ok("mysql-connections", pools)
    limit = _connections_allowed(stores.mysql)
    needed = processes * settings.mysql_pool_size + _SPARE_CONNECTIONS
    found = f"{pools}, {limit} connections allowed"
    if needed <= limit:
        return ok("mysql-connections", found)
    fitting = max(1, (limit - _SPARE_CONNECTIONS) // processes)
    return warning(
        "mysql-connections",
        found,
        "under load the server turns connections away (1040)",
        f"raise max_connections to {needed}, or set MYSQL_POOL_SIZE={fitting}",
    )


def _connections_allowed(facts: MysqlFacts) -> int:
    per_user = int(facts.variables.get("max_user_connections", 0))
    limit = int(facts.variables.get("max_connections", 0))
    return min(limit, per_user) if per_user else limit


def clocks(stores: Stores) -> Finding:
    """Redis', MySQL's and this host's clock against each other."""
    asked: dict[str, Clock] = {"this host": Clock(0, 0)}
    for name, facts in (("Redis", stores.redis), ("MySQL", stores.mysql)):
        if facts is not None:
            asked[name] = facts.clock
    first = max(asked, key=lambda name: asked[name].ahead_ms)
    last = min(asked, key=lambda name: asked[name].ahead_ms)
    apart_ms = asked[first].ahead_ms - asked[last].ahead_ms
    apart_ms -= asked[first].within_ms + asked[last].within_ms
    if apart_ms < CLOCKS_APART_MS:
        return ok("clocks", f"{', '.join(asked)}: less than {CLOCKS_APART_MS / 1000:g} s apart")
    judge = error if apart_ms >= CLOCKS_WRONG_MS else warning
    return judge(
        "clocks",
        f"the clock of {first} is {apart_ms / 1000:.1f} s ahead of that of {last}",
        "events are dated by Redis' clock, rows by MySQL's",
        "run an NTP service (chrony, systemd-timesyncd) on every host",
    )


def time_zone(stores: Stores) -> Finding:
    """Whose days the statistics count; a zone that is not known is refused with the settings."""
    zone = stores.settings.stats_timezone
    return ok("stats-timezone", f"{zone}, now {datetime.now(ZoneInfo(zone)):%Y-%m-%d %H:%M %z}")


SHARED_CHECKS: tuple[SharedCheck, ...] = (shard_count, connections, clocks, time_zone)
