"""Ingest: our front against the limit of its server, and against the seed's write-through."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import orjson
from redis import Redis

from bench import wrk
from bench.report import Result, Target
from bench.servers import OWNER, Lab, RunFailed
from bench.workload import CONTENTS_PER_USER, key_of, record
from bench.wrk import CONNECTIONS, Load
from ops.processes import Process, wait_until
from ops.servers import free_port
from shared.cookies import sign
from shared.events import decode

USERS = 500
KEYS = USERS * CONTENTS_PER_USER
_STREAMS = "moontv:{*}:plays"
_APPS = {
    "moonwake": ["--factory", "api.app:create_app"],
    "constant": ["bench.peers:constant"],
    "write-through": ["--factory", "bench.peers:write_through"],
}


def measure(lab: Lab, rounds: int, duration_s: int) -> list[Result]:
    """The front and both peers in turn, *rounds* times."""
    wrk.check_installed()
    script = wrk_script(lab.directory / "load.lua")
    loads: dict[str, list[Load]] = {name: [] for name in _APPS}
    with lab.database() as database, ExitStack() as stack:
        _provision(lab, database)
        urls = {name: stack.enter_context(served(lab, database, name)) for name in _APPS}
        for url in urls.values():
            wrk.run(script, url, 1)
        forget_streams(lab.redis)
        for _ in range(rounds):
            for name, url in urls.items():
                loads[name].append(wrk.run(script, url, duration_s))
            check_arrival(lab.redis, loads["moonwake"][-1].requests)
            forget_streams(lab.redis)
        _check_rows(lab, database, max(load.requests for load in loads["write-through"]))
    return _results(loads)


def _results(loads: dict[str, list[Load]]) -> list[Result]:
    def rates(name: str) -> list[float]:
        return [load.requests_per_s for load in loads[name]]

    def p99s(name: str) -> list[float]:
        return [load.p99_ms for load in loads[name]]

    ours, seed = "moonwake", "write-through"
    quarter = Target(0.25, at_most=True)
    p50s = [load.p50_ms for load in loads[ours]]
    seed_p50s = [load.p50_ms for load in loads[seed]]
    return [
        Result("ingest", "req/s", rates(ours), "constant", rates("constant"), Target(0.35)),
        Result("ingest", "req/s", rates(ours), seed, rates(seed), Target(4)),
        Result("ingest p50", "ms", p50s, seed, seed_p50s, quarter),
        Result("ingest p99", "ms", p99s(ours), seed, p99s(seed), quarter),
    ]


# --- the load -----------------------------------------------------------------------


def wrk_script(path: Path) -> Path:
    """A wrk script that posts records of many users and keys, each with its own cookie."""
    bodies, cookies = [], []
    for number in range(KEYS):
        user, source, content_id = key_of(number)
        body = {"key": f"{source}+{content_id}", "record": record(number, 600, 1_716_000_000_000)}
        bodies.append(orjson.dumps(body).decode())
        cookies.append(sign(user, "user", OWNER["PASSWORD"], 1_716_000_000_000))
    path.write_text(
        "\n".join(
            (
                "local bodies = {" + ",".join(f"[==[{body}]==]" for body in bodies) + "}",
                "local cookies = {" + ",".join(f'"user_auth={each}"' for each in cookies) + "}",
                "local requests, at = {}, 0",
                "init = function()",
                "  for i = 1, #bodies do",
                '    requests[i] = wrk.format("POST", "/api/playrecords",',
                '      {["Cookie"] = cookies[i], ["Content-Type"] = "application/json"},',
                "      bodies[i])",
                "  end",
                "end",
                "request = function()",
                "  at = at % #requests + 1",
                "  return requests[at]",
                "end",
            )
        ),
        encoding="utf-8",
    )
    return path


# --- what is loaded -----------------------------------------------------------------


@contextmanager
def served(lab: Lab, database: str, app: str, name: str = "", **more: str) -> Iterator[str]:
    """The URL of *app*, served by one process as in production; *more* are its settings."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    server = Process(
        name or app,
        lab.directory,
        argv=[sys.executable, "-m", "uvicorn", *options, f"--port={port}", *_APPS[app]],
        # No worker runs: what is measured is the front, so its lag must not close it.
        environ=lab.environ(database, **{"MAX_LAG_ENTRIES": "1000000000"} | more),
        death_signal=signal.SIGKILL,
    )
    server.launch()
    try:
        url = f"http://127.0.0.1:{port}"
        if not wait_until(lambda: _answers(url), 30):
            raise RunFailed(f"{server.name} does not answer; its log ends:\n{server.tail()}")
        yield url
    finally:
        server.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False


def _provision(lab: Lab, database: str) -> None:
    """The users that the write-through's foreign key asks for."""
    users = sorted({key_of(number)[0] for number in range(KEYS)})
    values = ",".join(f"('{user}','!')" for user in users)
    lab.sql(f"INSERT INTO users (username, password_hash) VALUES {values}", database)


def forget_streams(redis: Redis) -> None:
    for key in redis.scan_iter(_STREAMS):
        redis.unlink(key)


def check_arrival(redis: Redis, acknowledged: int, under_way: int = CONNECTIONS) -> None:
    """Raises `RunFailed` unless the streams hold what was *acknowledged*, and it can be applied."""
    streams = list(redis.scan_iter(_STREAMS))
    added = sum(redis.xlen(key) for key in streams)  # type: ignore[misc]
    # At the end of a run every connection may have one more under way.
    if not acknowledged <= added <= acknowledged + under_way:
        raise RunFailed(f"{acknowledged} events were acknowledged, {added} are in the streams")
    for key in streams:
        for _, fields in redis.xrevrange(key, count=100):  # type: ignore[union-attr]
            decode(fields[b"d"])


def _check_rows(lab: Lab, database: str, answered: int) -> None:
    """Raises `RunFailed` unless the write-through has written a row for each key it was sent."""
    ((rows,),) = lab.sql("SELECT COUNT(*) FROM play_records", database)
    if int(rows) < min(KEYS, answered):
        raise RunFailed(f"the write-through answered {answered} requests and wrote {rows} rows")
