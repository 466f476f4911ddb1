"""`moonwake doctor`: faults of MySQL, made on a real one, are found and come with their remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from ops.checks.findings import Level
from ops.checks.mysql_checks import session
from ops.checks.mysql_facts import TABLES, facts_of
from ops.doctor import examine
from ops.mysql_server import MysqlServer
from shared.keys import Keys
from shared.mysql import Pool, open_mysql, reading
from shared.settings import Settings
from tests.databases import admin
from tests.findings import finding
from tests.plays import append, deps_of, drain_all, rows, save
from worker.jobs.aggregate import aggregate


@asynccontextmanager
async def variable(server: MysqlServer, name: str, value: str) -> AsyncIterator[None]:
    """SET GLOBAL that is taken back."""
    async with admin(server) as cursor:
        await cursor.execute(f"SELECT @@GLOBAL.{name}")
        [before] = await cursor.fetchone()
        await cursor.execute(f"SET GLOBAL {name} = {value}")
        try:
            yield
        finally:
            await cursor.execute(f"SET GLOBAL {name} = {before}")


@asynccontextmanager
async def login(server: MysqlServer, settings: Settings, *grants: str) -> AsyncIterator[Settings]:
    """The settings of another user, who has only these grants."""
    async with admin(server) as cursor:
        await cursor.execute("CREATE USER 'limited'@'%' IDENTIFIED BY 'limited-secret'")
        try:
            for grant in grants:
                await cursor.execute(f"GRANT {grant} TO 'limited'@'%'")
            yield replace(settings, mysql_user="limited", mysql_password="limited-secret")
        finally:
            await cursor.execute("DROP USER 'limited'@'%'")


async def test_a_schema_that_is_not_this_programs_is_found(migrated: Settings, pool: Pool) -> None:
    """What a worker refuses at its start is told beforehand, with the command that mends it."""
    async with reading(pool) as cursor:
        await cursor.execute("DELETE FROM schema_migrations ORDER BY version DESC LIMIT 1")

    found = await finding(migrated, "mysql-schema")

    assert Level.ERROR is found.level
    assert "python -m schema" in found.remedy


async def test_an_empty_database_is_found_without_further_ado(settings: Settings) -> None:
    """Before the schema was applied the other checks do not stumble over missing tables."""
    report = await examine(settings)

    faulty = {each.check for each in report.findings if each.level is Level.ERROR}
    assert {"mysql-schema"} == faulty
    assert 1 == report.exit_code


async def test_another_default_character_set_is_a_warning(migrated: Settings, pool: Pool) -> None:
    """Tables name theirs; what a later one might forget is worth a word."""
    name = migrated.mysql_database
    async with reading(pool) as cursor:
        await cursor.execute(f"ALTER DATABASE {name} CHARACTER SET latin1")
        try:
            found = await finding(migrated, "mysql-charset")
        finally:
            await cursor.execute(
                f"ALTER DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"
            )

    assert Level.WARNING is found.level
    assert "latin1" in found.found


async def test_a_table_in_another_character_set_is_an_error(migrated: Settings, pool: Pool) -> None:
    """It would refuse titles, or fold names that differ; the table is named."""
    convert = "ALTER TABLE instance_settings CONVERT TO CHARACTER SET"
    async with reading(pool) as cursor:
        await cursor.execute(f"{convert} latin1")
        try:
            found = await finding(migrated, "mysql-charset")
        finally:
            await cursor.execute(f"{convert} utf8mb4 COLLATE utf8mb4_bin")

    assert Level.ERROR is found.level
    assert "instance_settings" in found.found


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("SET time_zone = '+08:00'", "time_zone is +08:00"),
        ("SET sql_mode = ''", "sql_mode is empty"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ", "isolation is REPEATABLE-READ"),
        ("SET NAMES latin1", "character_set_client is latin1"),
    ],
)
async def test_a_session_that_is_not_as_pinned_is_found(
    migrated: Settings, pool: Pool, statement: str, told: str
) -> None:
    """As behind a proxy that hands one client's session to another."""
    assert Level.OK is session(await facts_of(pool), migrated).level
    async with reading(pool) as cursor:
        await cursor.execute(statement)

    found = session(await facts_of(pool), migrated)  # the pool's only connection

    assert Level.ERROR is found.level
    assert told == found.found


@pytest.mark.parametrize(
    ("name", "value", "check", "level"),
    [
        ("max_allowed_packet", "1048576", "mysql-packet", Level.ERROR),
        ("innodb_flush_log_at_trx_commit", "2", "mysql-durability", Level.WARNING),
        ("max_connections", "30", "mysql-connections", Level.WARNING),
    ],
)
async def test_a_server_too_small_or_too_lax_is_found(
    migrated: Settings, mysql_server: MysqlServer, name: str, value: str, check: str, level: Level
) -> None:
    """Each limit is held against what moonwake needs of it."""
    assert Level.OK is (await finding(migrated, check)).level

    async with variable(mysql_server, name, value):
        assert level is (await finding(migrated, check)).level


async def test_a_pool_too_large_for_the_server_is_found(migrated: Settings) -> None:
    """Every web process and worker with a full pool; the remedy names a size that fits."""
    found = await finding(
        replace(migrated, mysql_pool_size=100, web_concurrency=4), "mysql-connections"
    )

    assert Level.WARNING is found.level
    assert "5 processes x MYSQL_POOL_SIZE 100" in found.found


async def test_a_user_who_may_only_read_is_found(
    migrated: Settings, mysql_server: MysqlServer
) -> None:
    """What is lacking is named before a worker meets it."""
    async with login(mysql_server, migrated, f"SELECT ON {migrated.mysql_database}.*") as limited:
        found = await finding(limited, "mysql-rights")

    assert Level.ERROR is found.level
    assert "INSERT on users" in found.found
    assert "SELECT on" not in found.found


async def test_the_rights_that_are_asked_for_are_all_a_worker_needs(
    migrated: Settings, redis: Redis, mysql_server: MysqlServer
) -> None:
    """With exactly these, events are drained and days folded: the list lacks nothing."""
    verbs = {"S": "SELECT", "I": "INSERT", "U": "UPDATE", "D": "DELETE"}
    grants = [
        f"{', '.join(verbs[verb] for verb in needed)} ON {migrated.mysql_database}.{table}"
        for table, (needed, _) in TABLES.items()
    ]
    migrations = f"SELECT ON {migrated.mysql_database}.schema_migrations"
    async with (
        login(mysql_server, migrated, *grants, migrations) as limited,
        open_mysql(limited, drain=True) as pool,
    ):
        assert Level.OK is (await finding(limited, "mysql-rights")).level
        await append(limited, redis, [save("ann"), save("ann", index=2), save("bob")])
        await drain_all(deps_of(replace(limited, flush_interval_ms=0), redis, pool))
        run = await aggregate(pool, limited)
        assert [(3,)] == await rows(pool, "SELECT total_plays FROM play_stats_daily")

    assert "ok" == run.outcome


async def test_a_read_only_server_is_found(migrated: Settings, mysql_server: MysqlServer) -> None:
    """A replica of MySQL answers every question and takes no batch."""
    everything = f"ALL ON {migrated.mysql_database}.*"
    async with (
        login(mysql_server, migrated, everything) as limited,
        variable(mysql_server, "read_only", "ON"),
    ):
        found = await finding(limited, "mysql-rights")

    assert Level.ERROR is found.level
    assert "read-only" in found.found


async def test_dead_letters_that_wait_are_told(migrated: Settings, redis: Redis) -> None:
    """Only undecided ones: what was replayed or discarded asks for nothing."""
    keys = Keys(migrated.key_prefix)
    for shard in range(2):
        await redis.xadd(keys.stream("plays", shard), {"d": b"{"})
    async with open_mysql(migrated, drain=True) as pool:
        await drain_all(deps_of(replace(migrated, flush_interval_ms=0), redis, pool))
        async with reading(pool) as cursor:
            await cursor.execute("UPDATE dead_letters SET state = 'discarded' WHERE shard = 0")

    found = await finding(migrated, "dead-letters")

    assert Level.WARNING is found.level
    assert found.found.startswith("1 ")
