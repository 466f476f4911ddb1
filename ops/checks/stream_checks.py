"""The checks of the streams in Redis, and of whoever drains them."""

from __future__ import annotations

from ops.checks.findings import Finding, error, ok, warning
from ops.checks.redis_checks import RedisCheck
from ops.checks.redis_facts import RedisFacts
from shared.settings import Settings

#: An id further ahead of Redis' clock is an incident (protocol 20).
ID_AHEAD_MS = 60_000


def ids_ahead(facts: RedisFacts, _: Settings) -> Finding:
    """Entry ids in the future: each later entry gets one too."""
    now_ms = facts.clock.server_ms
    ahead = {
        name: last.ms - now_ms
        for name, last in facts.last_ids.items()
        if last.ms - now_ms > ID_AHEAD_MS
    }
    if not ahead:
        return ok("entry-ids", "none ahead of Redis' clock")
    told = ", ".join(f"{name} by {ms // 1000} s" for name, ms in ahead.items())
    return error(
        "entry-ids",
        f"ids ahead of Redis' clock: {told}",
        "every later event is dated there: wrong days, no trimming, records that seem newer",
        "let every producer XADD with *; then wait until the clock gets there, or if that is"
        " too long: moonwake repair-ids",
    )


def stopped(facts: RedisFacts, _: Settings) -> Finding:
    """Shards that stopped because MySQL refused too much."""
    if not facts.stopped:
        return ok("stopped-shards", "none")
    told = "; ".join(f"{name}: {reason}" for name, reason in facts.stopped.items())
    return error(
        "stopped-shards",
        told,
        "nothing of these shards reaches MySQL",
        "mend the cause, then: moonwake resume --all",
    )


def workers(facts: RedisFacts, _: Settings) -> Finding:
    """Does anybody drain?"""
    live = [worker.name for worker in facts.workers if worker.is_live]
    if live:
        return ok("workers", f"{len(live)} live: {', '.join(live)}")
    return warning(
        "workers",
        "no worker lives",
        "events wait in Redis until one does",
        "start `python -m worker` (two are better than one)",
    )


STREAM_CHECKS: tuple[RedisCheck, ...] = (ids_ahead, stopped, workers)
