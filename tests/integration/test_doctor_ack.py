"""`moonwake doctor` and INGEST_ACK: what a front would refuse is found before it is started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ops.checks.findings import Level
from shared.redis import open_redis
from tests.acks import (
    HOSTED,
    calls_of,
    configure,
    deny_config,
    master_and_replica,
    redis_of,
    settings_on,
)
from tests.findings import finding


@pytest.mark.parametrize(
    ("kind", "level", "values", "found_as", "named"),
    [
        ("older", "memory", {"appendonly": "no"}, Level.OK, "memory"),
        ("older", "fsync", {}, Level.OK, "appendfsync always"),
        ("older", "fsync", {"appendonly": "no"}, Level.ERROR, "append-only file is off"),
        ("older", "fsync", {"appendfsync": "everysec"}, Level.ERROR, "it has no WAITAOF"),
        ("older", "replica", {}, Level.ERROR, "no replica that is in step"),
        ("newer", "fsync", {}, Level.OK, "WAITAOF"),
        ("newer", "fsync", {"appendonly": "no"}, Level.ERROR, "append-only file is off"),
        ("newer", "fsync", {"appendfsync": "everysec"}, Level.WARNING, "appendfsync is everysec"),
        (
            "newer",
            "fsync",
            {"no-appendfsync-on-rewrite": "yes"},
            Level.WARNING,
            "no-appendfsync-on-rewrite is yes",
        ),
    ],
)
async def test_a_level_that_redis_cannot_keep_is_found(
    kind: str, level: str, values: dict[str, str], found_as: Level, named: str
) -> None:
    """Each fault has its remedy; what only costs time is a warning."""
    async with redis_of(kind, "always") as (server, _):
        await configure(server, **values)
        found = await finding(settings_on(server, level), "ack-level")

    assert found_as is found.level
    assert named in found.found


async def test_a_replica_in_step_is_enough_and_nothing_is_written() -> None:
    """The doctor changes nothing, so it asks and does not try."""
    async with master_and_replica() as (master, _), open_redis(master.url) as redis:
        found = await finding(settings_on(master, "replica"), "ack-level")
        written = await calls_of(redis, "set")

    assert (Level.OK, "replica, by WAIT") == (found.level, found.found)
    assert 0 == written


async def test_where_config_is_denied_it_says_what_is_not_known() -> None:
    """A hosted Redis 7.0 with a file may fsync or not: only who runs it knows."""
    async with redis_of("older", "always") as (server, redis):
        await deny_config(redis)
        url = server.url.replace("redis://", f"redis://{HOSTED}@")
        settings = replace(settings_on(server, "fsync"), redis_url=url)
        known = await finding(settings, "ack-level")
        await redis.config_set("appendonly", "no")
        off = await finding(settings, "ack-level")

    assert (Level.WARNING, Level.ERROR) == (known.level, off.level)
    assert "CONFIG is denied" in known.found
