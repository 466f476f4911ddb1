"""The local stack: its servers, its processes, and the order they start and stop in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ops import environment
from ops.files import write_private
from ops.mysql_server import Account, MysqlServer
from ops.processes import Process
from ops.redis_server import RedisServer
from ops.servers import Server, free_port, is_free
from shared.durability import FSYNC, REPLICA
from shared.errors import MoonwakeError
from shared.settings import Settings, from_env

CLIENT_CONFIG = """\
# For the mariadb and mysql clients: --defaults-file=.run/client.cnf
[client]
host = {host}
port = {port}
user = {user}
password = "{password}"
[mysql]
database = {database}
"""


class StackFailed(MoonwakeError):
    """The local stack cannot start; the message says why and what to do."""


class Web(Process):
    """The HTTP front. Figures of an earlier life would be added to the new ones: none are kept."""

    def __init__(self, run: Path, settings: Settings, environ: Mapping[str, str]) -> None:
        self._metrics = run / "metrics"
        super().__init__(
            "web",
            run,
            argv=web_command(settings),
            environ={**environ, "PROMETHEUS_MULTIPROC_DIR": str(self._metrics.resolve())},
            log=run / "logs" / "web.log",
        )

    def prepare(self) -> None:
        shutil.rmtree(self._metrics, ignore_errors=True)
        self._metrics.mkdir()


def web_command(settings: Settings) -> list[str]:
    """uvicorn on `HOST` and `PORT` with `WEB_CONCURRENCY` processes and no access log."""
    options = {
        "--host": settings.host,
        "--port": settings.port,
        "--workers": settings.web_concurrency,
        "--loop": "uvloop",
        "--http": "httptools",
        "--timeout-graceful-shutdown": max(1, settings.stop_timeout_s - 5),
    }
    words = [str(word) for option in options.items() for word in option]
    # Who the client is follows from TRUSTED_PROXIES: uvicorn would believe any local program.
    app = ["--factory", "api.app:create_app", "--no-access-log", "--no-proxy-headers"]
    return [sys.executable, "-m", "uvicorn", *app, *words]


def left_over(run: Path) -> list[list[Process]]:
    """What still runs of an earlier `moonwake up` on *run* that was killed; in stop order."""
    groups = [
        [run / "web.pid"],
        sorted(run.glob("worker-*.pid")),
        [run / "redis" / "redis.pid"],
        [run / "mysql" / "mysql.pid"],
    ]
    known = [[Process(file.stem, file.parent) for file in group] for group in groups]
    return [group for group in known if any(process.pid is not None for process in group)]


class Stack:
    """Everything `moonwake up` runs, in the folder *run*, for the *given* environment.

    A server that *given* names (MYSQL_HOST, REDIS_URL) is used; else a private one is run.
    """

    def __init__(self, run: Path, given: Mapping[str, str], workers: int) -> None:
        self.run = run
        self.logs = run / "logs"
        self._given = dict(given)
        if self._given.get("PASSWORD"):
            self._given.setdefault("USERNAME", "admin")
        self._saved = environment.complete(self._given, environment.load(run))
        self._worker_count = workers
        self._choose_web_port()
        self.settings = from_env(self.environ)
        self.redis = None if self._given.get("REDIS_URL") else self._private_redis()
        self.mysql = None if self._given.get("MYSQL_HOST") else self._private_mysql()
        self.web: list[Process] = []
        self.workers: list[Process] = []

    @property
    def environ(self) -> dict[str, str]:
        """The environment of every child."""
        return environment.merge(self._given, self._saved)

    @property
    def servers(self) -> list[Server]:
        """The private servers, in the order to start them."""
        return [server for server in (self.mysql, self.redis) if server is not None]

    @property
    def processes(self) -> list[Process]:
        """Everything that is to be kept running."""
        return [*self.servers, *self.workers, *self.web]

    def stop_order(self) -> list[list[Process]]:
        """First nobody takes events in, then they are written, then the stores may go."""
        stores: list[list[Process]] = [[store] for store in (self.redis, self.mysql) if store]
        return [group for group in (self.web, self.workers, *stores) if group]

    def make_folders(self) -> None:
        """The folder is for its owner alone: it holds secrets and everybody's history."""
        self.run.mkdir(mode=0o700, exist_ok=True)
        self.logs.mkdir(exist_ok=True)

    def remember(self) -> None:
        """Write `.run/env` and the client's configuration, with the ports now in use."""
        if self.mysql:
            self._saved["MYSQL_PORT"] = str(self.mysql.port)
        if self.redis:
            self._saved["REDIS_URL"] = self.redis.url
        environment.save(self.run, self._saved)
        self.settings = settings = from_env(self.environ)
        text = CLIENT_CONFIG.format(
            host=settings.mysql_host,
            port=settings.mysql_port,
            user=settings.mysql_user,
            password=settings.mysql_password.replace("\\", "\\\\").replace('"', '\\"'),
            database=settings.mysql_database,
        )
        write_private(self.run / "client.cnf", text)

    def apply_schema(self) -> None:
        """Bring the database to this program's schema; raises `StackFailed`."""
        with (self.logs / "schema.log").open("a+") as log:
            begin = log.seek(0, os.SEEK_END)
            runner = [sys.executable, "-m", "schema"]
            done = subprocess.run(
                runner,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
            log.seek(begin)
            told = log.read().strip()
        if done.returncode != 0:
            raise StackFailed(f"the schema was not applied:\n{told}")

    def launch(self) -> None:
        """Start web and workers, without waiting."""
        environ = self.environ
        self.web = [Web(self.run, self.settings, environ)]
        self.workers = [
            Process(
                f"worker-{number}",
                self.run,
                argv=[sys.executable, "-m", "worker"],
                environ=environ,
                log=self.logs / f"worker-{number}.log",
            )
            for number in range(1, self._worker_count + 1)
        ]
        for process in (*self.workers, *self.web):
            process.launch()

    def _choose_web_port(self) -> None:
        """Another port than the default when that is taken; never another than the given one."""
        if "PORT" not in self._given:
            port = next((port for port in range(8000, 8020) if is_free(port)), None)
            self._given["PORT"] = str(port or free_port())
        elif self._given["PORT"].isdecimal() and not is_free(int(self._given["PORT"])):
            raise StackFailed(f"PORT {self._given['PORT']} is taken by another program")

    def _private_redis(self) -> RedisServer:
        level = self.settings.ingest_ack
        if level == REPLICA:
            raise StackFailed(
                "INGEST_ACK is replica, and the Redis that `moonwake up` runs has no replica:"
                " name one that has with REDIS_URL, or choose memory or fsync"
            )
        url = urlsplit(self._saved["REDIS_URL"])
        return RedisServer(
            self.run / "redis",
            password=url.password or "",
            port=url.port,
            appendfsync="always" if level == FSYNC else "everysec",
            log=self.logs / "redis.log",
        )

    def _private_mysql(self) -> MysqlServer:
        saved = self._saved
        account = Account(
            user=saved["MYSQL_USER"],
            password=saved["MYSQL_PASSWORD"],
            database=saved["MYSQL_DATABASE"],
        )
        return MysqlServer(
            self.run / "mysql",
            account,
            port=int(saved["MYSQL_PORT"]),
            log=self.logs / "mysql.log",
        )
