"""`moonwake doctor` as it is typed: its report, its exit code, and both stores together."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from ops.checks.findings import Level
from ops.checks.mysql_facts import facts_of, read_mysql
from ops.checks.redis_facts import read_redis
from ops.checks.shared_checks import Stores, clocks
from ops.doctor import examine
from ops.servers import free_port
from shared.keys import Keys
from shared.mysql import Pool, open_mysql, reading
from shared.settings import Settings
from tests.commands import moonwake
from tests.findings import finding
from tests.plays import rows


@pytest.fixture(name="keys")
def _keys(migrated: Settings) -> Keys:
    return Keys(migrated.key_prefix)


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
    migrated: Settings, redis: Redis, keys: Keys
) -> None:
    """0 for warnings alone, 1 for an error; the JSON document is the same for both."""
    fine = await moonwake(migrated, "doctor", "--json")
    await redis.set(keys.stopped("plays", 0), "MySQL refused 60 of 120 entries")
    faulty = await moonwake(migrated, "doctor", "--json")
    shown = await moonwake(migrated, "doctor")

    assert (0, 1, 1) == (fine.exit_code, faulty.exit_code, shown.exit_code)
    assert ("warning", True) == _summary(orjson.loads(fine.output))
    assert ("error", True) == _summary(orjson.loads(faulty.output))
    for told in orjson.loads(faulty.output)["findings"]:
        assert {"check", "level", "found", "why", "remedy"} == set(told)
        assert told["check"] in shown.output
    assert "do:  mend the cause, then: moonwake resume --all" in shown.output


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
