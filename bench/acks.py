"""What each level of INGEST_ACK costs: the same load on a front of each, in turn."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from bench import wrk
from bench.ingest import check_arrival, forget_streams, served, wrk_script
from bench.report import Result, Target
from bench.servers import Lab, RunFailed
from bench.wrk import Load
from ops.processes import wait_until
from ops.programs import ProgramMissing, find_newer_redis
from ops.redis_server import RedisServer
from shared.durability import FSYNC, MEMORY, REPLICA

_IN_STEP_S = 30


@dataclass(frozen=True, slots=True)
class Rig:
    """A front at one level and the Redis behind it."""

    name: str
    level: str
    appendfsync: str = "everysec"
    is_newer: bool = False
    #: What its requests/s have to be of those of memory on the same server.
    at_least: float = 0.0


_BASE = Rig("memory", MEMORY)
_PLAIN = (
    Rig("fsync, appendfsync always", FSYNC, "always", at_least=0.4),
    Rig("replica, WAIT", REPLICA, at_least=0.4),
)
_NEWER_BASE = Rig("memory on the newer", MEMORY, is_newer=True)
_NEWER = (
    Rig("fsync, WAITAOF, always", FSYNC, "always", is_newer=True, at_least=0.4),
    # Each group waits for the next fsync: nothing to strive for.
    Rig("fsync, WAITAOF, everysec", FSYNC, is_newer=True, at_least=0.001),
)


def measure(lab: Lab, rounds: int, duration_s: int) -> list[Result]:
    """Requests/s and latency of each level beside those of memory on the same server."""
    wrk.check_installed()
    script = wrk_script(lab.directory / "load.lua")
    groups = _groups()
    rigs = [rig for base, others in groups for rig in (base, *others)]
    loads: dict[Rig, list[Load]] = {rig: [] for rig in rigs}
    with ExitStack() as stack:
        running = {rig: stack.enter_context(_running(lab, rig)) for rig in rigs}
        for redis, url in running.values():
            wrk.run(script, url, 1)
            forget_streams(redis)
        for _ in range(rounds):
            for rig, (redis, url) in running.items():
                loads[rig].append(wrk.run(script, url, duration_s))
                # Where an answer takes a second, wrk leaves before it counts the last.
                check_arrival(redis, loads[rig][-1].requests, 2 * wrk.CONNECTIONS)
                forget_streams(redis)
    results: list[Result] = []
    for base, others in groups:
        for rig in others:
            results += _results(rig, loads[rig], base, loads[base])
    return results


def _groups() -> list[tuple[Rig, Sequence[Rig]]]:
    groups: list[tuple[Rig, Sequence[Rig]]] = [(_BASE, _PLAIN)]
    try:
        _newer_root()
    except ProgramMissing as missing:
        print(f"WAITAOF is not measured: {missing}")
    else:
        groups.append((_NEWER_BASE, _NEWER))
    return groups


def _results(rig: Rig, ours: Sequence[Load], base: Rig, theirs: Sequence[Load]) -> list[Result]:
    def figures(read: Callable[[Load], float]) -> tuple[list[float], str, list[float]]:
        return [read(load) for load in ours], base.name, [read(load) for load in theirs]

    slower = Target(1 / rig.at_least, at_most=True)
    return [
        Result(rig.name, "req/s", *figures(lambda load: load.requests_per_s), Target(rig.at_least)),
        Result(f"{rig.name}, p50", "ms", *figures(lambda load: load.p50_ms), slower),
        Result(f"{rig.name}, p99", "ms", *figures(lambda load: load.p99_ms), slower),
    ]


# --- what is loaded -----------------------------------------------------------------


@contextmanager
def _running(lab: Lab, rig: Rig) -> Iterator[tuple[Redis, str]]:
    """A client of the rig's Redis, and the URL of its front."""
    name = rig.name.replace(", ", "-").replace(" ", "-")
    root = _newer_root() if rig.is_newer else None
    with ExitStack() as stack:
        server = stack.enter_context(_redis(lab, name, rig.appendfsync, root))
        redis: Redis = Redis.from_url(server.url)
        if rig.level == REPLICA:
            replica = stack.enter_context(_redis(lab, f"{name}-of", rig.appendfsync, root))
            _follow(replica, server, redis)
        settings = {"REDIS_URL": server.url, "INGEST_ACK": rig.level}
        yield redis, stack.enter_context(served(lab, "none", "moonwake", name, **settings))


@contextmanager
def _redis(lab: Lab, name: str, appendfsync: str, root: Path | None) -> Iterator[RedisServer]:
    with _folder(lab, name, root) as folder:
        server = RedisServer(
            folder, appendfsync=appendfsync, root=root, death_signal=signal.SIGKILL
        )
        server.start()
        try:
            yield server
        finally:
            server.kill()  # its data goes away anyway


def _follow(replica: RedisServer, master: RedisServer, redis: Redis) -> None:
    """Make *replica* one of *master*. Raises `RunFailed`."""
    redis.config_set("repl-diskless-sync-delay", 0)
    Redis.from_url(replica.url).replicaof("127.0.0.1", str(master.port))

    def in_step() -> bool:
        about: dict[str, Any] = redis.info("replication")  # type: ignore[assignment]
        return bool(about.get("slave0", {}).get("state") == "online")

    if not wait_until(in_step, _IN_STEP_S):
        raise RunFailed(f"no replica was in step; its log ends:\n{replica.tail()}")


@contextmanager
def _folder(lab: Lab, name: str, root: Path | None) -> Iterator[Path]:
    """A folder for a server, inside its chroot if it runs in one."""
    if root is None:
        yield lab.directory / name
        return
    folder = Path(tempfile.mkdtemp(prefix="moonwake-bench-", dir=root / "tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _newer_root() -> Path | None:
    return find_newer_redis(os.environ.get("MOONWAKE_REDIS_ROOT"))
