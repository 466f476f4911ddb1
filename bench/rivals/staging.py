"""A contender's processes on a lab's servers, for one run."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis import Redis

from bench.rivals.contenders import ROOT, WITHOUT_OVERLAY, Contender
from bench.rivals.heartbeats import USERS, user_of
from bench.rivals.setting_up import program_of
from bench.rivals.without_overlay import make_copy
from bench.servers import Lab, RunFailed
from ops.processes import Process, wait_until
from ops.servers import free_port

_START_TIMEOUT_S = 30
_AUDIT_TABLE = (
    "CREATE TABLE audit (nonce BIGINT NOT NULL, ms BIGINT NOT NULL, n BIGINT NOT NULL"
    " AUTO_INCREMENT PRIMARY KEY) ENGINE=InnoDB"
)


@dataclass(slots=True)
class Stage:
    """One contender at work."""

    contender: Contender
    database: str
    redis_url: str
    port: int
    front: Process
    consumers: list[Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def processes(self) -> list[Process]:
        return [self.front, *self.consumers]

    @property
    def pids(self) -> list[int]:
        """Of all its processes. Raises `RunFailed` if one has ended."""
        pids = []
        for process in self.processes:
            if process.pid is None:
                raise RunFailed(f"{process.name} ended by itself; its log ends:\n{process.tail()}")
            pids.append(process.pid)
        return pids

    @property
    def victim(self) -> Process:
        """Whom a kill is for: the first consumer, or the front where it writes itself."""
        return self.consumers[0] if self.consumers else self.front


@contextmanager
def staged(
    lab: Lab,
    contender: Contender,
    *,
    redis_db: int = 0,
    audit: bool = False,
    victim_mysql_port: int | None = None,
) -> Iterator[Stage]:
    """*contender* on an empty database and Redis, answering; ended and dropped afterwards.

    With *audit* every event's nonce goes into the table `audit` in its own transaction. The
    victim finds MySQL at *victim_mysql_port*. Raises `RunFailed` or `NotSetUp`.
    """
    program = program_of(contender.kind)
    directory = lab.directory / f"stage-{redis_db}"
    directory.mkdir(exist_ok=True)
    redis_url = f"{lab.redis_server.url.rpartition('/')[0]}/{redis_db}"
    home = _home(directory, contender)
    with lab.database() as database:
        _provision(lab, database, audit=audit)
        _flush(redis_url)
        environ = lab.environ(database, REDIS_URL=redis_url, PYTHONPATH=f"{home}:{ROOT}")
        if audit:
            environ["RIVAL_AUDIT"] = "1"
        commands = (audit and contender.audited) or contender.consumers
        port = free_port()
        front = [word.format(port=port) for word in contender.front]
        processes = []
        for number, arguments in enumerate((*commands, front)):
            proxied = number == 0 and victim_mysql_port is not None
            more = {"MYSQL_PORT": str(victim_mysql_port)} if proxied else {}
            processes.append(
                Process(
                    f"{'front' if number == len(commands) else f'consumer-{number}'}",
                    directory,
                    argv=[program, *arguments],
                    environ={**environ, **more},
                    death_signal=signal.SIGKILL,
                )
            )
        *consumers, web = processes
        stage = Stage(contender, database, redis_url, port, web, consumers)
        try:
            with contextlib.chdir(home):
                for process in processes:
                    process.log.unlink(missing_ok=True)
                    process.launch()
            await_answer(stage)
            yield stage
        finally:
            for process in processes:
                process.kill()


def await_answer(stage: Stage) -> None:
    """Return once its front answers. Raises `RunFailed`."""
    if not wait_until(lambda: stage.front.pid is None or _answers(stage.url), _START_TIMEOUT_S):
        raise RunFailed(f"{stage.contender.name} does not answer:\n{stage.front.tail()}")
    if stage.front.pid is None:
        raise RunFailed(f"{stage.contender.name} ended at once:\n{stage.front.tail()}")


def _flush(redis_url: str) -> None:
    """Empty one Redis database, over a connection that knows no other."""
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()


def _home(directory: Path, contender: Contender) -> Path:
    """The folder that its Python modules come from."""
    if contender.name != WITHOUT_OVERLAY:
        return ROOT
    copy = directory / "without-overlay"
    return copy if copy.exists() else make_copy(copy)


def _provision(lab: Lab, database: str, *, audit: bool) -> None:
    """Every user, whom the records' foreign key asks for, and the table of an audit."""
    users = ",".join(f"('{user_of(number)}','!')" for number in range(USERS))
    lab.sql(f"INSERT INTO users (username, password_hash) VALUES {users}", database)
    if audit:
        lab.sql(_AUDIT_TABLE, database)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False
