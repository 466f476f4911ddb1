"""Checks whose fault no server here can be brought to: judged on the facts it would tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ops.checks import mysql_checks, redis_checks
from ops.checks.findings import Finding, Level, error, numbers, ok, warning, worst
from ops.checks.mysql_facts import MysqlFacts
from ops.checks.redis_facts import Clock, RedisFacts, clock_between
from ops.checks.shared_checks import Stores, clocks, connections
from ops.doctor import Report
from shared.mysql import Dialect
from shared.settings import Settings, from_env

NOW_MS = 1_795_367_000_000
MARIADB = MysqlFacts(
    dialect=Dialect.MARIADB,
    version="10.11.19-MariaDB-0+deb12u1",
    variables={"max_connections": "151"},
    clock=Clock(NOW_MS, NOW_MS),
)


@pytest.fixture(name="settings")
def _settings() -> Settings:
    return from_env(
        {
            "MYSQL_HOST": "db.example",
            "REDIS_URL": "redis://someone:hidden@cache.example:6400/2",
            "USERNAME": "owner",
            "PASSWORD": "hidden",
        }
    )


def redis_facts(config: dict[str, str] | None = None, /, **info: Any) -> RedisFacts:
    return RedisFacts({"redis_version": "7.0.15", **info}, Clock(NOW_MS, NOW_MS), config)


@pytest.mark.parametrize(
    ("info", "level", "named"),
    [
        ({"redis_version": "7.0.0"}, Level.OK, "Redis 7.0.0"),
        ({"redis_version": "8.2.1"}, Level.OK, "Redis 8.2.1"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, Level.OK, "Valkey 8.1.0"),
        ({"redis_version": "6.2.14"}, Level.ERROR, "Redis 6.2.14"),
        ({"redis_version": "7.0.0", "kvrocks_version": "2.9.0"}, Level.ERROR, "Kvrocks"),
        ({"redis_version": "7.2.0", "upstash_version": "1.10.5"}, Level.ERROR, "Upstash"),
        ({"redis_version": "7.4.0", "dragonfly_version": "1.30"}, Level.ERROR, "Dragonfly"),
    ],
)
def test_only_redis_7_and_valkey_are_taken(
    settings: Settings, info: dict[str, str], level: Level, named: str
) -> None:
    """What resembles Redis and lacks entries-added is named; the address shows no password."""
    found = redis_checks.version(redis_facts(**info), settings)

    assert level is found.level
    assert named in found.found
    assert "cache.example:6400/2" in found.found
    assert "hidden" not in found.found


def test_a_server_whose_streams_count_nothing_is_refused_whatever_it_calls_itself(
    settings: Settings,
) -> None:
    """The field itself decides, where a stream exists to see it at."""
    facts = replace(redis_facts(redis_version="9.9.9"), counts_added=False)

    assert Level.ERROR is redis_checks.version(facts, settings).level


SNAPSHOTS = {"save": "3600 1"}


@pytest.mark.parametrize(
    ("config", "info", "level"),
    [
        ({}, {"aof_enabled": 1, "aof_last_write_status": "ok"}, Level.OK),
        ({}, {"aof_enabled": 1, "aof_last_write_status": "err"}, Level.ERROR),
        ({}, {"aof_enabled": 0, "aof_last_write_status": "err"}, Level.OK),
        (SNAPSHOTS, {"rdb_last_bgsave_status": "err"}, Level.ERROR),
        ({"save": ""}, {"rdb_last_bgsave_status": "err"}, Level.WARNING),
        (
            {**SNAPSHOTS, "stop-writes-on-bgsave-error": "no"},
            {"rdb_last_bgsave_status": "err"},
            Level.WARNING,
        ),
        ({}, {"aof_last_bgrewrite_status": "err"}, Level.WARNING),
    ],
)
def test_a_disk_that_fails_redis_is_an_error_when_writes_stop(
    settings: Settings, config: dict[str, str], info: dict[str, Any], level: Level
) -> None:
    """MISCONF refuses every append; a failure that refuses none yet is a warning."""
    assert level is redis_checks.disk(redis_facts(config, **info), settings).level


def test_without_a_file_a_replica_is_better_than_nothing(settings: Settings) -> None:
    """Hosted Redis often keeps no file and replicates: worth a warning, not an error."""
    alone = redis_checks.durability(redis_facts(aof_enabled=0), settings)
    followed = redis_checks.durability(redis_facts(aof_enabled=0, connected_slaves=1), settings)

    assert (Level.ERROR, Level.WARNING) == (alone.level, followed.level)


def test_without_maxmemory_the_hosts_memory_is_the_limit(settings: Settings) -> None:
    """A backlog that fills the host gets Redis killed, long before any mark is reached."""
    small = redis_facts(maxmemory=0, total_system_memory=512 << 20, used_memory=1 << 20)
    large = redis_facts(maxmemory=0, total_system_memory=8 << 30, used_memory=1 << 20)

    found = redis_checks.memory(small, settings)
    assert Level.WARNING is found.level
    fitting = int(found.remedy.partition("MAX_LAG_ENTRIES to ")[2].partition(" ")[0])
    fits = replace(settings, max_lag_entries=fitting)
    assert Level.OK is redis_checks.memory(small, fits).level
    assert Level.OK is redis_checks.memory(large, settings).level


@pytest.mark.parametrize(
    ("dialect", "version", "level"),
    [
        (Dialect.MARIADB, "10.11.0-MariaDB", Level.OK),
        (Dialect.MARIADB, "11.8.3-MariaDB-ubu2404", Level.OK),
        (Dialect.MARIADB, "10.6.18-MariaDB", Level.ERROR),
        (Dialect.MYSQL, "8.4.0", Level.OK),
        (Dialect.MYSQL, "9.7.4", Level.OK),
        (Dialect.MYSQL, "8.0.36-28", Level.ERROR),
    ],
)
def test_only_versions_that_were_tried_are_taken(
    settings: Settings, dialect: Dialect, version: str, level: Level
) -> None:
    """MySQL 8.4 and MariaDB 10.11 are the oldest that the tests ever ran on."""
    found = mysql_checks.version(replace(MARIADB, dialect=dialect, version=version), settings)

    assert level is found.level
    assert version in found.found


@pytest.mark.parametrize(
    ("variables", "level"),
    [
        ({"log_bin": "ON", "sync_binlog": "1"}, Level.OK),
        ({"log_bin": "ON", "sync_binlog": "0"}, Level.WARNING),
        ({"log_bin": "OFF", "sync_binlog": "0"}, Level.OK),
    ],
)
def test_the_binary_log_counts_only_where_there_is_one(
    settings: Settings, variables: dict[str, str], level: Level
) -> None:
    """MariaDB's default of 0 says nothing while it writes no binary log."""
    assert level is mysql_checks.durability(replace(MARIADB, variables=variables), settings).level


def test_a_users_own_limit_of_connections_counts(settings: Settings) -> None:
    """max_user_connections is often lower than the server's; 0 means there is none."""
    limited = {"max_connections": "151", "max_user_connections": "10"}
    free = {"max_connections": "151", "max_user_connections": "0"}

    def level(variables: dict[str, str]) -> Level:
        return connections(Stores(settings, None, replace(MARIADB, variables=variables))).level

    assert (Level.WARNING, Level.OK) == (level(limited), level(free))


@pytest.mark.parametrize(
    ("redis_ms", "mysql_ms", "level", "told"),
    [
        (900, -50, Level.OK, "less than 1 s"),
        (0, 5_000, Level.WARNING, "of MySQL is 5.0 s ahead of that of"),
        (-5_000, 0, Level.WARNING, "s ahead of that of Redis"),
        (-40_000, 40_000, Level.ERROR, "of MySQL is 80.0 s ahead of that of Redis"),
    ],
)
def test_every_two_clocks_are_compared(
    settings: Settings, redis_ms: int, mysql_ms: int, level: Level, told: str
) -> None:
    """Redis' against MySQL's too, not only each against this host's."""
    redis = RedisFacts({}, Clock(NOW_MS + redis_ms, NOW_MS))
    mysql = replace(MARIADB, clock=Clock(NOW_MS + 7 + mysql_ms, NOW_MS + 7))

    found = clocks(Stores(settings, redis, mysql))

    assert level is found.level
    assert told in found.found


def test_an_answer_that_took_long_is_no_difference_of_clocks(settings: Settings) -> None:
    """The doubt of half a round trip is taken off."""
    slow = clock_between(NOW_MS, (NOW_MS - 10_000) * 1_000_000, NOW_MS * 1_000_000)

    assert 5_000 == slow.ahead_ms
    assert Level.OK is clocks(Stores(settings, RedisFacts({}, slow), None)).level


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.11.19-MariaDB", (10, 11, 19)), ("8.4.0", (8, 4, 0)), ("7.0-rc1.2", (7, 0)), ("x", ())],
)
def test_versions_compare_by_their_leading_numbers(text: str, expected: tuple[int, ...]) -> None:
    """10.11 is newer than 10.6; suffixes of distributions mean nothing."""
    assert expected == numbers(text)


@pytest.mark.parametrize(
    ("findings", "complete", "exit_code"),
    [
        ([ok("a", "")], True, 0),
        ([ok("a", ""), warning("b", "", "why", "do")], True, 0),
        ([error("a", "", "why", "do"), ok("b", "")], True, 1),
        ([ok("a", "")], False, 2),
        ([error("a", "", "why", "do")], False, 2),
    ],
)
def test_the_exit_code_is_the_worst_news(
    findings: list[Finding], complete: bool, exit_code: int
) -> None:
    """0 with warnings too, 1 for an error, 2 if not everything could be checked."""
    assert exit_code == Report(findings, complete).exit_code


def test_the_worst_of_nothing_is_ok() -> None:
    """No finding is no fault."""

    assert Level.OK is worst([])
