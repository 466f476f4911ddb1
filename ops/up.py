"""`moonwake up`: the whole stack on this machine, until Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ops import environment
from ops.processes import wait_until
from ops.programs import find
from ops.stack import Stack, StackFailed, left_over
from ops.supervisor import Supervisor, how_it_ended, stop_together
from shared.cookies import sign
from shared.times import now_ms

TEND_EVERY_S = 0.2
WEB_START_TIMEOUT_S = 60.0
LEFT_OVER_TIMEOUT_S = 30.0
QUERY = "SELECT username, source, content_id, play_time FROM play_records"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

console = Console(soft_wrap=True, highlight=False, markup=False)


class _StopAsked(BaseException):
    """The operator wants everything stopped: no error, so nothing that handles errors sees it."""


def up(
    run: Annotated[
        Path, typer.Option("--dir", help="Folder for data, logs and secrets.")
    ] = environment.RUN,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 2,
) -> None:
    """Run MariaDB, Redis, web and workers here; Ctrl-C stops them in order.

    With MYSQL_HOST or REDIS_URL in the environment those servers are used instead.
    """
    run = run.absolute()
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(run / "lock"):
        for group in left_over(run):
            names = ", ".join(process.name for process in group)
            _say(f"{names} of a moonwake up that was killed: stopping first")
            stop_together(group, LEFT_OVER_TIMEOUT_S, _say)
        stack = Stack(run, os.environ, workers)
        for number in STOP_SIGNALS:
            signal.signal(number, _ask_to_stop)
        try:
            _start(stack)
            _tell(stack)
            _supervise(stack)
        except _StopAsked:
            _say("stopping (once more to stop at once)")
        finally:
            _stop(stack)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Hold *lock* (the kernel frees it with the process); raises `StackFailed` if it is held."""
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise StackFailed(
                f"moonwake up already runs on {lock.parent} (pid {pid}):"
                " stop that one, or give another --dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _start(stack: Stack) -> None:
    stack.make_folders()
    stack.remember()
    for server in stack.servers:
        with console.status(f"starting {server.title}"):
            server.start()
        _say(f"{server.title} answers on 127.0.0.1:{server.port}")
    stack.remember()
    with console.status("applying the schema"):
        stack.apply_schema()
    _say("the schema is up to date")
    with console.status("starting web and workers"):
        stack.launch()
        _await_web(stack)


def _await_web(stack: Stack) -> None:
    (web,) = stack.web
    settled = wait_until(lambda: web.pid is None or _answers(stack), WEB_START_TIMEOUT_S)
    if web.pid is None:
        raise StackFailed(f"web {how_it_ended(web)}; {web.log} ends:\n{web.tail()}")
    if not settled:
        raise StackFailed(f"web gave no answer in {WEB_START_TIMEOUT_S:g} s: see {web.log}")


def _answers(stack: Stack) -> bool:
    client = HTTPConnection(_reachable(stack.settings.host), stack.settings.port, timeout=2)
    with suppress(OSError, HTTPException):
        client.request("GET", "/livez")
        client.getresponse()
        return True
    return False


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound


def _tell(stack: Stack) -> None:
    settings = stack.settings
    password = "PASSWORD" if os.environ.get("PASSWORD") else f"password in {stack.run}/env"
    host = _reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    _say("")
    _say(f"moonwake is up: {url}  (its API: {url}/docs)")
    _say(f"owner:          {settings.username}  ({password})")
    _say(f"logs:           {stack.logs}/")
    _say("\nA record going in:\n")
    if settings.accept_lunatv_cookie:
        _say(_curl(url, sign(settings.username, "owner", settings.password, now_ms())))
    else:  # a session is needed, and PASSWORD is not for a terminal
        _say(f"{url}/docs: POST /api/login there, then POST /api/playrecords")
    _say("\nand, a moment later, coming out of MySQL:\n")
    client = Path(find("mariadb", "mysql") or "mariadb").name
    _say(f"{client} --defaults-file={shlex.quote(str(stack.run / 'client.cnf'))} -e '{QUERY}'")
    _say("\nCtrl-C stops everything.\n")


def _curl(url: str, cookie: str) -> str:
    """One line that a shell takes as it is."""
    record = {
        "title": "Moon Wake",
        "source_name": "Demo",
        "cover": "",
        "year": "2024",
        "index": 1,
        "total_episodes": 12,
        "play_time": 42,
        "total_time": 1440,
        "save_time": now_ms(),
        "search_title": "Moon Wake",
    }
    body = json.dumps({"key": "demo+1", "record": record}, separators=(",", ":"))
    return (
        f"curl -sS {url}/api/playrecords -H 'Content-Type: application/json'"
        f" -b 'user_auth={cookie}' -d '{body}'"
    )


def _supervise(stack: Stack) -> NoReturn:
    supervisor = Supervisor(stack.processes, _say_at, time.monotonic())
    while True:
        supervisor.tend(time.monotonic())
        time.sleep(TEND_EVERY_S)


def _stop(stack: Stack) -> None:
    """Group by group; a second signal meanwhile kills what is left."""
    timeout_s: float = stack.settings.stop_timeout_s
    for group in stack.stop_order():
        try:
            stop_together(group, timeout_s, _say)
        except _StopAsked:
            timeout_s = 0
            stop_together(group, timeout_s, _say)
        _say(f"stopped {', '.join(process.name for process in group)}")


def _ask_to_stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _StopAsked


def _say_at(text: str) -> None:
    _say(f"{time.strftime('%H:%M:%S')} {text}")


def _say(text: str) -> None:
    """Print; a terminal that is gone must not keep the children from being stopped."""
    with suppress(OSError):
        console.print(text)
