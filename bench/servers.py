"""The servers of a run: private, in a directory that goes away with them."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from ops.mysql_server import Account, MysqlServer
from ops.programs import (
    Flavour,
    MysqlProgram,
    ProgramMissing,
    find,
    find_mysql,
    find_real_mysql,
)
from ops.redis_server import RedisServer
from shared.settings import Settings, from_env

OWNER = {"USERNAME": "admin", "PASSWORD": "bench-secret"}


class RunFailed(Exception):
    """A benchmark could not be carried out; the message says why."""


class Lab:
    """A MariaDB or MySQL and a Redis, and what the benchmarks do with both."""

    def __init__(self, directory: Path, mysql: MysqlServer, redis: RedisServer) -> None:
        self.directory = directory
        self.mysql = mysql
        self.redis_server = redis
        self.redis: Redis = Redis.from_url(redis.url)

    def environ(self, database: str = "moonwake", **more: str) -> dict[str, str]:
        """The environment of a process of ours on these servers; *more* are its settings."""
        account = self.mysql.account
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "MYSQL_HOST": "127.0.0.1",
            "MYSQL_PORT": str(self.mysql.port),
            "MYSQL_USER": account.user,
            "MYSQL_PASSWORD": account.password,
            "MYSQL_DATABASE": database,
            "REDIS_URL": self.redis_server.url,
            **OWNER,
            **more,
        }

    def settings(self, database: str = "moonwake", **more: str) -> Settings:
        return from_env(self.environ(database, **more))

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new database that holds the schema and no events."""
        name = f"bench_{secrets.token_hex(4)}"
        done = subprocess.run(
            [sys.executable, "-m", "schema"],
            env=self.environ(name),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RunFailed(f"the schema was not applied: {done.stdout}{done.stderr}")
        try:
            yield name
        finally:
            self.sql(f"DROP DATABASE {name}")

    # --- the server's own client --------------------------------------------------

    def client(self, database: str = "") -> tuple[list[str], dict[str, str]]:
        """(argv, environment) of the server's command-line client, results one row a line."""
        account, root = self.mysql.account, self.mysql.program.root
        program = "/usr/bin/mysql" if root else find(*_CLIENTS[self.mysql.program.flavour])
        if program is None:
            raise ProgramMissing("no mariadb or mysql client on this machine: run `make setup`")
        enter = [find("chroot") or "chroot", str(root)] if root else []
        where = ["--protocol=tcp", "--host=127.0.0.1", f"--port={self.mysql.port}"]
        options = [*where, f"--user={account.user}", "--default-character-set=utf8mb4"]
        argv = [*enter, program, "--no-defaults", *options, "--batch", "--skip-column-names"]
        environ = {"PATH": os.environ.get("PATH", os.defpath), "MYSQL_PWD": account.password}
        return [*argv, database] if database else argv, environ

    def sql(self, text: str, database: str = "") -> list[list[str]]:
        """Run *text*; the rows it selects. Raises `RunFailed`."""
        argv, environ = self.client(database)
        done = subprocess.run(
            argv, env=environ, input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RunFailed(f"{text[:200]}: {done.stderr}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    @property
    def versions(self) -> dict[str, str]:
        """What runs here."""
        ((mysql,),) = self.sql("SELECT VERSION()")
        redis = self.redis.info("server")["redis_version"]  # type: ignore[index]
        return {self.mysql.title: mysql, "Redis": str(redis)}


_CLIENTS = {Flavour.MARIADB: ("mariadb", "mysql"), Flavour.MYSQL: ("mysql",)}


@contextmanager
def running_lab(flavour: Flavour, buffer_pool_mib: int = 512) -> Iterator[Lab]:
    """Both servers, stopped and removed at the end. Raises `ProgramMissing`."""
    program = _program(flavour)
    account = Account(
        user="bench", password=secrets.token_hex(16), database="moonwake", everything=True
    )
    home = program.root / "tmp" if program.root else None
    directory = Path(tempfile.mkdtemp(prefix="moonwake-bench-", dir=home))
    mysql = MysqlServer(
        directory / "mysql",
        account,
        program=program,
        buffer_pool_mib=buffer_pool_mib,
        death_signal=signal.SIGKILL,
    )
    redis = RedisServer(directory / "redis", death_signal=signal.SIGKILL)
    try:
        mysql.start()
        redis.start()
        yield Lab(directory, mysql, redis)
    finally:
        mysql.kill()  # their data goes away anyway
        redis.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _program(flavour: Flavour) -> MysqlProgram:
    if flavour is Flavour.MYSQL:
        return find_real_mysql(os.environ.get("MOONWAKE_MYSQL_ROOT"))
    program = find_mysql()
    if program.flavour is not flavour:
        raise ProgramMissing("no mariadbd on this machine: run `make setup`, or --server mysql")
    return program
