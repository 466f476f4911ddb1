"""Ingest: our front against the limit of its server, and against the seed's write-through."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import orjson

from bench.report import Result, Target
from bench.servers import OWNER, Lab, RunFailed
from bench.workload import CONTENTS_PER_USER, key_of, record
from ops.processes import Process, wait_until
from ops.servers import free_port
from shared.cookies import sign
from shared.events import decode

CONNECTIONS = 64
USERS = 500
KEYS = USERS * CONTENTS_PER_USER
#: Every figure of wrk's that we read, with the unit it chose.
_REQUESTS = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = {which: re.compile(rf"{which}%\s+([\d.]+)(us|ms|s)\b") for which in (50, 99)}
_FAULTS = re.compile(r"Non-2xx or 3xx responses|Socket errors")
_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_STREAMS = "moontv:{*}:plays"
_APPS = {
    "moonwake": ["--factory", "api.app:create_app"],
    "constant": ["bench.peers:constant"],
    "write-through": ["--factory", "bench.peers:write_through"],
}


class Load(NamedTuple):
    """What wrk measured."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def measure(lab: Lab, rounds: int, duration_s: int) -> list[Result]:
    """The front and both peers in turn, *rounds* times."""
    if shutil.which("wrk") is None:
        raise RunFailed("wrk is not installed: run `make bench`, or apt-get install wrk")
    script = _wrk_script(lab.directory / "load.lua")
    loads: dict[str, list[Load]] = {name: [] for name in _APPS}
    with lab.database() as database, ExitStack() as stack:
        _provision(lab, database)
        urls = {name: stack.enter_context(_served(lab, database, name)) for name in _APPS}
        for url in urls.values():
            _wrk(script, url, 1)
        _forget_streams(lab)
        for _ in range(rounds):
            for name, url in urls.items():
                loads[name].append(_wrk(script, url, duration_s))
            _check_arrival(lab, loads["moonwake"][-1].requests)
            _forget_streams(lab)
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


def _wrk_script(path: Path) -> Path:
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


def _wrk(script: Path, url: str, duration_s: int) -> Load:
    argv = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{duration_s}s", "--latency", "-s", str(script)]
    done = subprocess.run([*argv, url], capture_output=True, text=True, check=False)
    if done.returncode or _FAULTS.search(done.stdout):
        raise RunFailed(f"wrk on {url}: {done.stdout}{done.stderr}")
    p50_ms, p99_ms = (
        float(found[1]) * _IN_MS[found[2]]
        for found in (_told(_PERCENTILE[50], done.stdout), _told(_PERCENTILE[99], done.stdout))
    )
    requests, rate = _told(_REQUESTS, done.stdout), _told(_RATE, done.stdout)
    return Load(int(requests[1]), float(rate[1]), p50_ms, p99_ms)


def _told(what: re.Pattern[str], output: str) -> re.Match[str]:
    if found := what.search(output):
        return found
    raise RunFailed(f"wrk says nothing like {what.pattern!r}: {output}")


# --- what is loaded -----------------------------------------------------------------


@contextmanager
def _served(lab: Lab, database: str, name: str) -> Iterator[str]:
    """The URL of the app *name*, served by one process as in production."""
    port = free_port()
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    server = Process(
        name,
        lab.directory,
        argv=[sys.executable, "-m", "uvicorn", *options, f"--port={port}", *_APPS[name]],
        # No worker runs: what is measured is the front, so its lag must not close it.
        environ=lab.environ(database, MAX_LAG_ENTRIES="1000000000"),
        death_signal=signal.SIGKILL,
    )
    server.launch()
    try:
        url = f"http://127.0.0.1:{port}"
        if not wait_until(lambda: _answers(url), 30):
            raise RunFailed(f"{name} does not answer; its log ends:\n{server.tail()}")
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


def _forget_streams(lab: Lab) -> None:
    for key in lab.redis.scan_iter(_STREAMS):
        lab.redis.unlink(key)


def _check_arrival(lab: Lab, acknowledged: int) -> None:
    """Raises `RunFailed` unless the streams hold what was *acknowledged*, and it can be applied."""
    streams = list(lab.redis.scan_iter(_STREAMS))
    added = sum(lab.redis.xlen(key) for key in streams)  # type: ignore[misc]
    # At the end of a run every connection may have one more under way.
    if not acknowledged <= added <= acknowledged + CONNECTIONS:
        raise RunFailed(f"{acknowledged} events were acknowledged, {added} are in the streams")
    for key in streams:
        for _, fields in lab.redis.xrevrange(key, count=100):  # type: ignore[union-attr]
            decode(fields[b"d"])


def _check_rows(lab: Lab, database: str, answered: int) -> None:
    """Raises `RunFailed` unless the write-through has written a row for each key it was sent."""
    ((rows,),) = lab.sql("SELECT COUNT(*) FROM play_records", database)
    if int(rows) < min(KEYS, answered):
        raise RunFailed(f"the write-through answered {answered} requests and wrote {rows} rows")
