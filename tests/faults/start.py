"""Brings a whole site up: servers behind proxies, schema, fronts and workers, and down again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from ops.servers import free_port
from shared.keys import Keys
from shared.settings import Settings, from_env
from tests.databases import apply_schema
from tests.e2e.processes import WorkerProcess
from tests.faults import mysql_control, redis_control
from tests.faults.http_client import HttpClient, NoAnswer, NotSent
from tests.faults.mysql_control import MysqlControl
from tests.faults.processes import ApiProcess
from tests.faults.redis_control import RedisControl
from tests.faults.site import Site
from tests.faults.tap import Tap
from tests.waiting import until

WORKERS, FRONTS, SHARDS = 3, 2, 4


@asynccontextmanager
async def running_site(folder: Path) -> AsyncIterator[Site]:
    """A site that answers; everything of it is killed at the end. Raises `ProgramMissing`."""
    async with redis_control.running(folder) as redis, mysql_control.running(folder) as mysql:
        settings = _settings(redis, mysql)
        await apply_schema(replace(settings, mysql_port=mysql.server.port))
        keys = Keys(settings.key_prefix)
        site = Site(
            folder=folder,
            settings=settings,
            dice=random.Random(0),
            redis=redis,
            mysql=mysql,
            tap=Tap(keys, SHARDS, redis.direct),
            epochs=[0] * SHARDS,
        )
        try:
            _start_processes(site)
            await until_fronts_answer(site)
            yield site
        finally:
            for process in (*site.fronts, *site.workers):
                process.kill()


def _settings(redis: RedisControl, mysql: MysqlControl) -> Settings:
    account = mysql.account
    return from_env(
        {
            "MYSQL_HOST": "127.0.0.1",
            "MYSQL_PORT": str(mysql.proxy.port),
            "MYSQL_USER": account.user,
            "MYSQL_PASSWORD": account.password,
            "MYSQL_DATABASE": account.database,
            "REDIS_URL": redis.url,
            "USERNAME": "admin",
            "PASSWORD": "secret",
            "SHARDS": str(SHARDS),
            # Many small batches: the more commits, the more of them meet the trouble.
            "FLUSH_INTERVAL_MS": "20",
            "BATCH_MAX_ENTRIES": "200",
            # Nothing is trimmed but by strangers: what a stream lacks was taken away.
            "STREAM_RETENTION_S": "604800",
        }
    )


def _start_processes(site: Site) -> None:
    ports: set[int] = set()
    while len(ports) < FRONTS:
        ports.add(free_port())
    for number, port in enumerate(sorted(ports), start=1):
        settings = replace(site.settings, port=port)
        site.fronts.append(ApiProcess(settings, site.folder, f"front-{number}"))
    for number in range(1, WORKERS + 1):
        site.workers.append(WorkerProcess(site.settings, site.folder, f"worker-{number}"))
    for process in (*site.fronts, *site.workers):
        process.launch()


async def until_fronts_answer(site: Site) -> None:
    """Return when every front is ready to take writes."""

    async def all_ready() -> bool:
        for front in site.fronts:
            client = HttpClient(front.port, timeout_s=5)
            try:
                if (await client.request("GET", "/readyz", "")).status != 200:
                    return False
            except (NotSent, NoAnswer):
                return False
            finally:
                client.close()
        return True

    await until(all_ready, "every front is ready", timeout_s=120, poll_s=0.2)
