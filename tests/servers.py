"""The servers of a test session: real, private, in a directory that goes away with them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from ops.mysql_server import Account, MysqlServer
from ops.programs import MysqlProgram, find_mysql, find_real_mysql
from ops.redis_server import RedisServer
from shared.settings import Settings, from_env

#: A test user may create databases, kill connections and read every counter.
ACCOUNT = Account(user="tester", password="tester-secret", database="moonwake", everything=True)


@dataclass(frozen=True, slots=True)
class OwnServers:
    """A pair of servers whose tests may kill, freeze and restart them.

    `settings` name a database of theirs that holds the whole schema and no events.
    """

    mysql: MysqlServer
    redis: RedisServer
    settings: Settings


def mysql_program() -> MysqlProgram:
    """MariaDB, or with MOONWAKE_TEST_SERVER=mysql the real MySQL that `make test-mysql` found."""
    if os.environ.get("MOONWAKE_TEST_SERVER", "mariadb") == "mysql":
        return find_real_mysql(os.environ.get("MOONWAKE_MYSQL_ROOT"))
    return find_mysql()


@contextmanager
def running_mysql(folder: Path | None = None) -> Iterator[MysqlServer]:
    """A database server with an empty data directory, stopped and removed at the end.

    In *folder*, if one is given, it stays there; not so one in a chroot.
    """
    program = mysql_program()
    stays = nullcontext(folder) if folder and program.root is None else None
    with stays or temporary_directory(program.root) as directory:
        server = MysqlServer(
            directory,
            ACCOUNT,
            program=program,
            buffer_pool_mib=128,
            death_signal=signal.SIGKILL,
        )
        server.start()
        try:
            yield server
        finally:
            server.kill()  # its data goes away anyway


@contextmanager
def running_redis(
    appendfsync: str = "everysec", *, root: Path | None = None
) -> Iterator[RedisServer]:
    """An empty Redis, that of the chroot *root* if given, stopped and removed at the end."""
    with temporary_directory(root) as directory:
        server = RedisServer(
            directory, appendfsync=appendfsync, root=root, death_signal=signal.SIGKILL
        )
        server.start()
        try:
            yield server
        finally:
            server.kill()  # its data goes away anyway


@contextmanager
def temporary_directory(root: Path | None = None) -> Iterator[Path]:
    """A directory for a server, inside the chroot *root* if it runs in one."""
    directory = Path(tempfile.mkdtemp(prefix="moonwake-", dir=root / "tmp" if root else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def settings_for(mysql: MysqlServer, redis: RedisServer, database: str) -> Settings:
    """Settings of a site whose owner is admin, with two shards, on these servers."""
    return from_env(
        {
            "MYSQL_HOST": "127.0.0.1",
            "MYSQL_PORT": str(mysql.port),
            "MYSQL_USER": mysql.account.user,
            "MYSQL_PASSWORD": mysql.account.password,
            "MYSQL_DATABASE": database,
            "REDIS_URL": redis.url,
            "USERNAME": "admin",
            "PASSWORD": "secret",
            "SHARDS": "2",
        }
    )


def to_environ(settings: Settings) -> dict[str, str]:
    """The environment of a child process that is to have these settings."""
    known = {name: _text(getattr(settings, name)) for name in Settings.__dataclass_fields__}
    fields = Settings.__dataclass_fields__
    variables = {fields[name].metadata["variable"]: value for name, value in known.items()}
    return {"PATH": os.environ.get("PATH", os.defpath), **variables}


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


async def empty_redis(server: RedisServer) -> None:
    """Remove every key."""
    async with Redis.from_url(server.url) as redis:
        await redis.flushall()
