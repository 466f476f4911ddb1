"""
Fixtures every test may use; a server starts when the first test asks for it.

`settings` names an empty database and an empty Redis, `migrated` a database that
holds the whole schema and no events, `pool` and `redis` are clients of the latter
two. Only `own_servers` may be killed, frozen or restarted.
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from redis.asyncio import Redis

import ops.servers
from ops.mysql_server import MysqlServer
from ops.redis_server import RedisServer
from shared.mysql import Pool, open_mysql
from shared.redis import open_redis
from shared.settings import Settings
from tests.databases import SchemaDatabase, empty_database
from tests.servers import OwnServers, empty_redis, running_mysql, running_redis, settings_for

#: Folders of tests, quick ones first, each with the marker its tests get.
FOLDERS = {
    "unit": None,
    "simulation": None,
    "integration": "integration",
    "e2e": "e2e",
    "faults": "e2e",
}

# What its assertions compare is shown, as for those of the tests themselves.
pytest.register_assert_rewrite("tests.faults.account_trouble")

# A busy machine is no failure: nothing here is judged by how long it took.
hypothesis.settings.register_profile(
    "moonwake", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# For a night: `pytest --hypothesis-profile=thorough`.
hypothesis.settings.register_profile(
    "thorough", hypothesis.settings.get_profile("moonwake"), max_examples=2_000
)
hypothesis.settings.load_profile("moonwake")


def pytest_configure() -> None:
    """Beside others (`pytest -n`) with ports of our own: two would see the same one free."""
    environ = os.environ
    ours = int(environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ops.servers.PORTS = ops.servers.PORTS[ours :: int(environ.get("PYTEST_XDIST_WORKER_COUNT", 1))]


def pytest_collection_finish() -> None:
    """The garbage collector need not look at thousands of tests again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, and the marker of each test's folder."""
    order = list(FOLDERS)
    items.sort(key=lambda item: order.index(_folder(item)))
    for item in items:
        if marker := FOLDERS[_folder(item)]:
            item.add_marker(marker)


def _folder(item: pytest.Item) -> str:
    """The folder right under tests/ that *item* lies in."""
    return item.path.relative_to(Path(__file__).parent).parts[0]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers and the database on them that holds the schema."""

    mysql: MysqlServer
    redis: RedisServer
    schema: SchemaDatabase


@pytest.fixture(name="mysql_server", scope="session")
def _mysql_server() -> Iterator[MysqlServer]:
    with running_mysql() as server:
        yield server


@pytest.fixture(name="redis_server", scope="session")
def _redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture(name="schema_database", scope="session")
def _schema_database(mysql_server: MysqlServer, redis_server: RedisServer) -> SchemaDatabase:
    return SchemaDatabase(mysql_server, redis_server)


@pytest.fixture(name="empty_redis_server")
async def _empty_redis_server(redis_server: RedisServer) -> RedisServer:
    await empty_redis(redis_server)
    return redis_server


@pytest.fixture(name="settings")
async def _settings(
    mysql_server: MysqlServer, empty_redis_server: RedisServer
) -> AsyncIterator[Settings]:
    async with empty_database(mysql_server) as name:
        yield settings_for(mysql_server, empty_redis_server, name)


@pytest.fixture(name="migrated")
async def _migrated(schema_database: SchemaDatabase, empty_redis_server: RedisServer) -> Settings:
    return await schema_database.restore()


@pytest.fixture(name="redis")
async def _redis(empty_redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with open_redis(empty_redis_server.url) as client:
        yield client


@pytest.fixture(name="pool")
async def _pool(migrated: Settings) -> AsyncIterator[Pool]:
    async with open_mysql(migrated) as pool:
        yield pool


@pytest.fixture(name="own_pair", scope="session")
def _own_pair() -> Iterator[Pair]:
    # Acknowledged means on disk here: a killed Redis may not lose what it answered for.
    with running_mysql() as mysql, running_redis(appendfsync="always") as redis:
        yield Pair(mysql, redis, SchemaDatabase(mysql, redis))


@pytest.fixture(name="own_servers")
async def _own_servers(own_pair: Pair) -> OwnServers:
    for server in (own_pair.mysql, own_pair.redis):
        server.resume()
        if server.pid is None:
            server.start()
    await empty_redis(own_pair.redis)
    return OwnServers(own_pair.mysql, own_pair.redis, await own_pair.schema.restore())
