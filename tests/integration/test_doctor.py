"""`moonwake doctor`: each fault, made on real servers, is found and comes with its remedy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from ops.checks.findings import Finding, Level
from ops.checks.mysql_checks import session
from ops.checks.mysql_facts import TABLES, facts_of, read_mysql
from ops.checks.redis_facts import read_redis
from ops.checks.shared_checks import Stores, clocks
from ops.doctor import examine
from ops.mysql_server import MysqlServer
from ops.redis_server import RedisServer
from ops.servers import free_port
from shared.connections import Pool, open_mysql, reading
from shared.keys import Keys
from shared.settings import Settings
from tests.commands import moonwake
from tests.databases import admin
from tests.plays import append, deps_of, drain_all, rows, save
from tests.servers import temporary_directory
from worker.jobs.aggregate import aggregate

Configure = Callable[[str, str], Awaitable[None]]


async def finding(settings: Settings, check: str) -> Finding:
    """What the doctor finds under the name *check*; whatever is no ok has a reason and a remedy."""
    report = await examine(settings)
    for each in report.findings:
        assert (each.level is Level.OK) == (not each.why) == (not each.remedy)
    [found] = [each for each in report.findings if each.check == check]
    return found


@pytest.fixture(name="keys")
def _keys(migrated: Settings) -> Keys:
    return Keys(migrated.key_prefix)


@pytest.fixture(name="configure")
async def _configure(redis: Redis) -> AsyncIterator[Configure]:
    """CONFIG SET that is taken back after the test."""
    before: dict[str, str] = {}

    async def configure(name: str, value: str) -> None:
        before.update(await redis.config_get(name))
        await redis.config_set(name, value)

    yield configure
    for name, value in before.items():
        await redis.config_set(name, value)


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


# --- a healthy site ----------------------------------------------------------------


async def test_a_healthy_site_has_no_error(migrated: Settings) -> None:
    """On servers as `moonwake up` makes them nothing is found but that no worker runs yet."""
    report = await examine(migrated)

    assert (0, True) == (report.exit_code, report.complete)
    assert {"workers"} == {each.check for each in report.findings if each.level is not Level.OK}


async def test_the_doctor_changes_nothing(migrated: Settings, redis: Redis) -> None:
    """It may be typed on a site under load, or before the first start."""
    await examine(migrated)

    assert [] == await redis.keys("*")
    async with open_mysql(migrated) as pool:
        assert [(0,)] == await rows(pool, "SELECT COUNT(*) FROM instance_settings")


async def test_the_command_prints_every_finding_and_exits_by_the_worst(
    migrated: Settings, configure: Configure
) -> None:
    """0 for warnings alone, 1 for an error; the JSON document is the same for both."""
    fine = await moonwake(migrated, "doctor", "--json")
    await configure("maxmemory-policy", "allkeys-lru")
    faulty = await moonwake(migrated, "doctor", "--json")
    shown = await moonwake(migrated, "doctor")

    assert (0, 1, 1) == (fine.exit_code, faulty.exit_code, shown.exit_code)
    assert ("warning", True) == _summary(orjson.loads(fine.output))
    assert ("error", True) == _summary(orjson.loads(faulty.output))
    for told in orjson.loads(faulty.output)["findings"]:
        assert {"check", "level", "found", "why", "remedy"} == set(told)
        assert told["check"] in shown.output
    assert "do:  CONFIG SET maxmemory-policy noeviction" in shown.output


def _summary(document: dict[str, Any]) -> tuple[str, bool]:
    return document["result"], document["complete"]


# --- stores that cannot be asked ------------------------------------------------------


async def test_without_redis_the_rest_is_still_checked(migrated: Settings) -> None:
    """Exit code 2: not everything could be looked at, and MySQL's checks are there."""
    down = replace(migrated, redis_url=f"redis://127.0.0.1:{free_port()}/0")
    report = await examine(down)

    assert (2, False) == (report.exit_code, report.complete)
    assert Level.ERROR is (await finding(down, "redis")).level
    assert Level.OK is (await finding(down, "mysql-schema")).level


async def test_without_mysql_the_rest_is_still_checked(migrated: Settings) -> None:
    """Exit code 2, and Redis' checks are there."""
    down = replace(migrated, mysql_port=free_port())
    report = await examine(down)

    assert (2, False) == (report.exit_code, report.complete)
    assert "does not answer" in (await finding(down, "mysql")).found
    assert Level.OK is (await finding(down, "redis-version")).level


@pytest.mark.parametrize(
    ("field", "wrong"), [("mysql_password", "no-such"), ("mysql_database", "no_such_database")]
)
async def test_a_login_that_is_refused_is_told_from_a_server_that_is_down(
    migrated: Settings, field: str, wrong: str
) -> None:
    """The remedy differs: correct the login, not start the server."""
    found = await finding(replace(migrated, **{field: wrong}), "mysql")  # type: ignore[arg-type]

    assert Level.ERROR is found.level
    assert "refuses" in found.found
    assert "MYSQL_PASSWORD" in found.remedy


async def test_no_secret_is_shown(migrated: Settings) -> None:
    """What is shown may be pasted into an issue: passwords in URLs and settings stay out."""
    secret = "a-secret-of-redis"
    url = migrated.redis_url.replace("redis://", f"redis://someone:{secret}@")
    wrong = replace(migrated, redis_url=url, arq_redis_url=url, mysql_password=secret)

    for settings in (wrong, replace(migrated, arq_redis_url=url)):
        shown = await moonwake(settings, "doctor")
        assert "someone" not in shown.output.replace("username", "")
        assert secret not in shown.output


async def test_wrong_settings_are_a_finding(migrated: Settings) -> None:
    """A time zone nobody knows is named, not a traceback; exit code 2."""
    wrong = await moonwake(replace(migrated, stats_timezone="Mars/Base"), "doctor", "--json")
    document = orjson.loads(wrong.output)

    assert (2, "error", False) == (wrong.exit_code, *_summary(document))
    assert "STATS_TIMEZONE" in document["findings"][0]["found"]


# --- Redis ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "check", "level"),
    [
        ("maxmemory-policy", "allkeys-lru", "redis-eviction", Level.ERROR),
        ("maxmemory-policy", "volatile-ttl", "redis-eviction", Level.ERROR),
        ("appendonly", "no", "redis-durability", Level.ERROR),
        ("appendfsync", "no", "redis-durability", Level.WARNING),
        ("maxmemory", "64mb", "redis-memory", Level.WARNING),
    ],
)
async def test_a_redis_that_does_not_keep_what_it_acknowledged_is_found(
    migrated: Settings, configure: Configure, name: str, value: str, check: str, level: Level
) -> None:
    """Each setting that loses events, or stops them, is found under its own name."""
    assert Level.OK is (await finding(migrated, check)).level

    await configure(name, value)

    found = await finding(migrated, check)
    assert level is found.level
    assert value.removesuffix("mb") in found.found or "append-only file off" in found.found


async def test_memory_for_a_full_backlog_counts_what_already_waits(
    migrated: Settings, redis: Redis, configure: Configure
) -> None:
    """A backlog within the limit is no fault, and is not counted twice while it waits."""
    await configure("maxmemory", "64mb")
    small = replace(migrated, max_lag_entries=1_000)

    assert Level.OK is (await finding(small, "redis-memory")).level
    facts = await read_redis(small)
    await append(small, redis, [save("ann")])
    assert facts.entries + 1 == (await read_redis(small)).entries


async def test_a_replica_is_found(migrated: Settings, redis: Redis) -> None:
    """Pointed to a replica nothing could be written; the master is named."""
    port = free_port()
    await cast("Awaitable[Any]", redis.execute_command("REPLICAOF", "127.0.0.1", port))  # type: ignore[no-untyped-call]
    try:
        found = await finding(migrated, "redis-role")
    finally:
        await redis.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]

    assert Level.ERROR is found.level
    assert f"127.0.0.1:{port}" in found.found


class ClusterNode(RedisServer):
    """A Redis that is a node of a cluster."""

    def prepare(self) -> None:
        super().prepare()
        self._config.write_text(self._config.read_text() + "cluster-enabled yes\n")


async def test_a_cluster_is_found_on_either_url(migrated: Settings) -> None:
    """Neither arq nor shards on several nodes would work."""
    with temporary_directory() as directory:
        node = ClusterNode(directory)
        node.start()
        try:
            arq = await finding(replace(migrated, arq_redis_url=node.url), "arq-redis")
            role = await finding(replace(migrated, redis_url=node.url), "redis-role")
        finally:
            node.kill()

    assert (Level.ERROR, Level.ERROR) == (arq.level, role.level)
    assert "cluster" in arq.why
    assert "Cluster" in role.found


async def test_arqs_redis_must_answer(migrated: Settings) -> None:
    """Its jobs go through it; that it is down is told by its own variable's name."""
    down = replace(migrated, arq_redis_url=f"redis://127.0.0.1:{free_port()}/0")

    found = await finding(down, "arq-redis")

    assert Level.ERROR is found.level
    assert "ARQ_REDIS_URL" in found.remedy


async def test_where_config_is_denied_the_rest_is_checked(migrated: Settings, redis: Redis) -> None:
    """Hosted servers deny CONFIG: INFO tells the policy, and what stays unknown is said."""
    await redis.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "hosted", "on", ">hosted-secret", "~*", "&*", "+@all", "-config"
    )
    try:
        url = migrated.redis_url.replace("redis://", "redis://hosted:hosted-secret@")
        report = await examine(replace(migrated, redis_url=url))
    finally:
        await redis.execute_command("ACL", "DELUSER", "hosted")  # type: ignore[no-untyped-call]
    levels = {each.check: each.level for each in report.findings}

    assert Level.OK is levels["redis-eviction"]
    assert Level.WARNING is levels["redis-durability"]


async def test_ids_ahead_of_the_clock_are_found_from_a_minute_on(
    migrated: Settings, redis: Redis, keys: Keys
) -> None:
    """One such id pins every later one; clocks that differ by seconds are no incident."""
    now_ms = (await read_redis(migrated)).clock.server_ms
    await redis.xadd(keys.stream("plays", 0), {"d": b"{}"}, id=f"{now_ms + 30_000}-0")
    assert Level.OK is (await finding(migrated, "entry-ids")).level

    await redis.xadd(keys.stream("plays", 1), {"d": b"{}"}, id=f"{now_ms + 600_000}-0")

    found = await finding(migrated, "entry-ids")
    assert Level.ERROR is found.level
    assert "plays:1" in found.found
    assert "plays:0" not in found.found


async def test_a_stopped_shard_is_found_with_its_reason(
    migrated: Settings, redis: Redis, keys: Keys
) -> None:
    """An operator who only types `doctor` learns of it too."""
    await redis.set(keys.stopped("plays", 1), "MySQL refused 60 of 120 entries")

    found = await finding(migrated, "stopped-shards")

    assert Level.ERROR is found.level
    assert "plays:1: MySQL refused 60 of 120 entries" == found.found
    assert "moonwake resume" in found.remedy


async def test_only_live_workers_count(migrated: Settings, redis: Redis, keys: Keys) -> None:
    """A worker not heard of for seconds drains nothing."""
    now_ms = (await read_redis(migrated)).clock.server_ms
    about = {"host": "h", "pid": 7, "started_ms": now_ms, "shards": []}
    gone = orjson.dumps({**about, "seen_ms": now_ms - 60_000}).decode()
    await cast("Awaitable[int]", redis.hset(keys.workers, "gone", gone))
    assert Level.WARNING is (await finding(migrated, "workers")).level

    live = orjson.dumps({**about, "seen_ms": now_ms + 60_000}).decode()
    await cast("Awaitable[int]", redis.hset(keys.workers, "live", live))

    assert "1 live: h:7" == (await finding(migrated, "workers")).found


# --- MySQL ----------------------------------------------------------------------------


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


# --- both -----------------------------------------------------------------------------


async def test_a_shard_count_that_is_not_the_stores_is_found(
    migrated: Settings, redis: Redis, pool: Pool, keys: Keys
) -> None:
    """The remedy is the count the stores agree on; where they do not, they are not a pair."""
    await redis.set(keys.shard_count, 4)
    found = await finding(migrated, "shard-count")
    assert Level.ERROR is found.level
    assert "set SHARDS=4" == found.remedy

    async with reading(pool) as cursor:
        await cursor.execute("INSERT INTO instance_settings VALUES ('shards', '2')")

    found = await finding(migrated, "shard-count")
    assert Level.ERROR is found.level
    assert "Redis was begun with 4, MySQL was begun with 2" in found.found
    assert "SHARDS=" not in found.remedy


async def test_clocks_that_differ_are_found(migrated: Settings, pool: Pool) -> None:
    """A MySQL two minutes ahead is an error, one within a second is not told from ours."""
    redis = await read_redis(migrated)
    near = clocks(Stores(migrated, redis, await facts_of(pool)))
    async with reading(pool) as cursor:
        await cursor.execute("SET timestamp = %s", (time.time() + 120,))

    far = clocks(Stores(migrated, redis, await facts_of(pool)))

    assert Level.OK is near.level
    assert Level.ERROR is far.level
    assert far.found.startswith("the clock of MySQL is ")


async def test_both_clocks_are_read_as_unix_milliseconds(migrated: Settings) -> None:
    """Redis and MySQL run on this host here: read at different moments they agree all the same."""
    redis, mysql = await read_redis(migrated), await read_mysql(migrated)
    doubt_ms = redis.clock.within_ms + mysql.clock.within_ms + 10

    assert abs(redis.clock.ahead_ms) <= doubt_ms
    assert abs(mysql.clock.ahead_ms) <= doubt_ms
