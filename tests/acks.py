"""Redis servers for the levels of INGEST_ACK, and what a front on one of them does."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ops.programs import ProgramMissing, find_newer_redis
from ops.redis_server import RedisServer
from shared.redis import open_redis
from shared.settings import Settings, from_env
from tests.servers import running_redis
from tests.waiting import until

#: Login of a user to whom CONFIG is denied, as hosted servers do.
HOSTED = "hosted:hosted-secret"


def settings_on(server: RedisServer, level: str, **more: str) -> Settings:
    """Settings of a front at *level* on *server*; MySQL, which no write asks for, is not there."""
    return from_env(
        {
            "MYSQL_HOST": "127.0.0.1",
            "MYSQL_PORT": "1",
            "REDIS_URL": server.url,
            "USERNAME": "admin",
            "PASSWORD": "secret",
            "SHARDS": "2",
            "INGEST_ACK": level,
            **more,
        }
    )


def root_of(kind: str) -> Path | None:
    """The chroot directory of a server of that kind, None for this machine's own; or skips."""
    if kind == "newer":
        try:
            return find_newer_redis(os.environ.get("MOONWAKE_REDIS_ROOT"))
        except ProgramMissing as missing:
            pytest.skip(str(missing))
    with suppress(ProgramMissing):
        find_newer_redis(None)
        pytest.skip("this machine's Redis has WAITAOF, and this is about one that has not")
    return None


@asynccontextmanager
async def redis_of(kind: str, appendfsync: str) -> AsyncIterator[tuple[RedisServer, Redis]]:
    """A server of the *kind* `newer` (it has WAITAOF) or `older`; skips the test without one."""
    with running_redis(appendfsync, root=root_of(kind)) as server:
        async with open_redis(server.url) as redis:
            yield server, redis


@asynccontextmanager
async def master_and_replica() -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """Two servers, the second in step with the first."""
    with running_redis() as master, running_redis() as replica:
        await follow(replica, master)
        yield master, replica


async def follow(replica: RedisServer, master: RedisServer) -> None:
    """Make *replica* one of *master*; returns once it is in step."""
    async with open_redis(replica.url) as there, open_redis(master.url) as here:
        await here.config_set("repl-diskless-sync-delay", 0)  # nobody else will come
        await there.replicaof("127.0.0.1", str(master.port))

        async def in_step() -> bool:
            about: dict[str, Any] = await here.info("replication")
            return any(
                isinstance(value, dict) and value["state"] == "online"
                for name, value in about.items()
                if name.startswith("slave")
            )

        await until(in_step, "the replica is in step")


async def calls_of(redis: Redis, command: str) -> int:
    """How often *command* was called."""
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def configure(server: RedisServer, **values: str) -> None:
    """CONFIG SET; `_` stands for `-`."""
    async with open_redis(server.url) as redis:
        for name, value in values.items():
            await redis.config_set(name.replace("_", "-"), value)


async def deny_config(redis: Redis) -> None:
    """Make the user of HOSTED."""
    name, _, password = HOSTED.partition(":")
    commands = ["+@all", "-config"]
    await redis.acl_setuser(
        name, enabled=True, passwords=[f"+{password}"], keys=["*"], commands=commands
    )
