"""wrk, the load generator: one thread, and what its report says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.servers import RunFailed

CONNECTIONS = 64
#: Every figure of wrk's that we read, with the unit it chose.
_REQUESTS = re.compile(r"(\d+) requests in")
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_PERCENTILE = {which: re.compile(rf"{which}%\s+([\d.]+)(us|ms|s)\b") for which in (50, 99)}
_FAULTS = re.compile(r"Non-2xx or 3xx responses|Socket errors")
_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


class Load(NamedTuple):
    """What wrk measured."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def check_installed() -> None:
    """Raises `RunFailed` where there is no wrk."""
    if shutil.which("wrk") is None:
        raise RunFailed("wrk is not installed: run `make bench`, or apt-get install wrk")


def command(
    script: Path, url: str, duration_s: int, connections: int = CONNECTIONS, threads: int = 1
) -> Sequence[str]:
    options = [f"-t{threads}", f"-c{connections}", f"-d{duration_s}s", "--timeout=10s", "--latency"]
    return ["wrk", *options, "-s", str(script), url]


def run(
    script: Path, url: str, duration_s: int, *, connections: int = CONNECTIONS, threads: int = 1
) -> Load:
    """Load *url* with *script*'s requests. Raises `RunFailed` if any was not answered well."""
    argv = command(script, url, duration_s, connections, threads)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"wrk on {url}: {done.stdout}{done.stderr}")
    return load_of(done.stdout)


def load_of(report: str) -> Load:
    """The figures in wrk's *report*. Raises `RunFailed` if a request was not answered well."""
    if _FAULTS.search(report):
        raise RunFailed(f"wrk: {report}")
    p50_ms, p99_ms = (
        float(found[1]) * _IN_MS[found[2]]
        for found in (_told(_PERCENTILE[50], report), _told(_PERCENTILE[99], report))
    )
    requests, rate = _told(_REQUESTS, report), _told(_RATE, report)
    return Load(int(requests[1]), float(rate[1]), p50_ms, p99_ms)


def _told(what: re.Pattern[str], report: str) -> re.Match[str]:
    if found := what.search(report):
        return found
    raise RunFailed(f"wrk says nothing like {what.pattern!r}: {report}")
