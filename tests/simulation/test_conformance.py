"""The models do what the servers do, or the simulation would prove only itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random

import pytest
from redis.asyncio import Redis

from shared.keys import Keys
from shared.mysql import open_mysql, reading
from shared.settings import Settings
from tests.simulation.conformance import Case, Stores
from tests.simulation.conformance_mysql import MYSQL_CASES
from tests.simulation.conformance_redis import REDIS_CASES
from tests.simulation.loop import virtual_loop
from tests.simulation.mysql_text import SINK_TABLES
from tests.simulation.network import Trace
from tests.simulation.product import SETTINGS
from tests.simulation.world import World
from worker.deps import Deps

pytestmark = pytest.mark.integration


@pytest.fixture(name="servers")
async def _servers(migrated: Settings, redis: Redis) -> AsyncIterator[Stores]:
    """Real ones, with the tables of the simulation's sink."""
    settings, keys = replace(migrated, shards=2), Keys(migrated.key_prefix)
    names = [table.split()[2] for table in SINK_TABLES]
    async with open_mysql(settings, drain=True) as pool, open_mysql(settings, drain=True) as other:
        async with reading(pool) as cursor:
            for table in SINK_TABLES:
                await cursor.execute(table)
        yield Stores(Deps(settings, redis, pool, keys), Deps(settings, redis, other, keys))
        async with reading(pool) as cursor:
            for name in names:
                await cursor.execute(f"DROP TABLE {name}")


@pytest.mark.parametrize("case", [*REDIS_CASES, *MYSQL_CASES], ids=lambda case: case.__name__)
async def test_the_models_do_what_the_servers_do(case: Case, servers: Stores) -> None:
    """
    The same steps, the same answers: counts, errors, locks and what is left behind.
    """
    observed = await case(servers)

    assert observed == _in_simulation(case)


def _in_simulation(case: Case) -> list[object]:
    loop = virtual_loop()
    world = World(replace(SETTINGS, shards=2), Random(1), Trace(loop))
    world.redis.watch, world.mysql.committed = (lambda *_: None), (lambda: None)
    mine, others = world.process("mine"), world.process("other")
    return loop.run(case(Stores(world.deps(mine), world.deps(others))))
