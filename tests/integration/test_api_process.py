"""The front as a process of its own: what it logs, how it ends, what several count together."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from api.play_records import PATH
from ops.processes import Process
from ops.servers import free_port
from shared.cookies import sign
from shared.settings import Settings
from tests.plays import record
from tests.servers import OwnServers, to_environ
from tests.waiting import until

#: A front whose flusher meets a fault nobody thought of.
DYING = """
import uvicorn
from api.app import create_app
from shared.appends import AppendConnection

async def broken(self, groups):
    raise RuntimeError("a fault nobody thought of")

AppendConnection.append = broken
uvicorn.run(create_app, factory=True, port={port})
"""


class FrontProcess(Process):
    """One `uvicorn --factory api.app:create_app`, or *argv* in its place."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *options: str,
        argv: list[str] | None = None,
        **environ: str,
    ) -> None:
        self.port = settings.port
        self.url = f"http://127.0.0.1:{self.port}"
        uvicorn = ["-m", "uvicorn", "--factory", "api.app:create_app", "--port", str(self.port)]
        super().__init__(
            "web",
            folder,
            argv=[sys.executable, *(argv or uvicorn), *options],
            environ={**to_environ(settings), **environ},
            death_signal=signal.SIGKILL,
        )

    @property
    def told(self) -> str:
        return self.log.read_text()

    async def answers(self) -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{self.url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False


@asynccontextmanager
async def running(process: FrontProcess) -> AsyncIterator[FrontProcess]:
    process.launch()
    try:
        await until(process.answers, "the front answers")
        yield process
    finally:
        process.stop()


def cookie_of(settings: Settings, user: str = "ann") -> dict[str, str]:
    return {"cookie": f"user_auth={sign(user, 'user', settings.password, 0)}"}


async def test_no_secret_cookie_or_request_line_is_in_the_log(
    own_servers: OwnServers, tmp_path: Path
) -> None:
    """Good and bad requests, a failing store, a stop: events are told, secrets are not."""
    settings = replace(own_servers.settings, port=free_port(), password="site-secret-1")
    headers = cookie_of(settings)
    async with running(FrontProcess(settings, tmp_path)) as web, httpx.AsyncClient() as client:
        for number in range(20):
            body = {"key": f"s+{number}", "record": record()}
            taken = await client.post(web.url + PATH, json=body, headers=headers)
            assert 200 == taken.status_code
        await client.post(web.url + PATH, content=b"{", headers=headers)
        await client.get(web.url + PATH, headers={"cookie": "user_auth=forged"})
        own_servers.mysql.kill()
        assert (
            503
            == (await client.get(web.url + PATH, headers=cookie_of(settings, "bob"))).status_code
        )
        own_servers.redis.kill()
        assert 503 == (await client.delete(web.url + PATH, headers=headers)).status_code
        own_servers.redis.start()
        own_servers.mysql.start()
        web.stop()
    lines = [json.loads(line) for line in web.told.splitlines()]
    signature = headers["cookie"].split("signature")[1]

    assert {"mysql_unreadable", "append_failed"} <= {line["event"] for line in lines}
    assert len(lines) < 20
    assert PATH not in web.told
    for secret in (settings.password, settings.mysql_password, signature, "forged", "user_auth="):
        assert secret not in web.told


async def test_a_dead_flusher_takes_the_process_with_it(settings: Settings, tmp_path: Path) -> None:
    """The waiting request is told, the log says why, and the process ends by a signal."""
    mine = replace(settings, port=free_port())
    program = ["-c", DYING.format(port=mine.port)]
    async with (
        running(FrontProcess(mine, tmp_path, argv=program)) as web,
        httpx.AsyncClient() as client,
    ):
        body = {"key": "s+1", "record": record()}
        answer = await client.post(web.url + PATH, json=body, headers=cookie_of(mine))
        await until(lambda: web.pid is None, "the process has ended")

        assert 503 == answer.status_code
        assert -signal.SIGTERM == web.exit_status
    assert "background_task_died" in web.told
    assert "a fault nobody thought of" in web.told


async def test_a_refused_start_says_why_in_one_line(settings: Settings, tmp_path: Path) -> None:
    """Another shard count: no traceback, and a status that is not 0."""
    mine = replace(settings, port=free_port())
    async with running(FrontProcess(mine, tmp_path)):
        pass
    other = FrontProcess(replace(mine, shards=5), tmp_path / "other")
    other.launch()
    await until(lambda: other.pid is None, "the second front has ended")

    assert other.exit_status not in {None, 0}
    assert "SHARDS is 5, but this Redis was first used with 2" in other.told
    assert "Traceback" not in other.told


async def test_several_processes_count_together(settings: Settings, tmp_path: Path) -> None:
    """With PROMETHEUS_MULTIPROC_DIR any of them answers for all."""
    mine = replace(settings, port=free_port())
    folder = tmp_path / "metrics"
    folder.mkdir()
    web = FrontProcess(mine, tmp_path, "--workers", "2", PROMETHEUS_MULTIPROC_DIR=str(folder))
    async with running(web):
        await asyncio.gather(*(save_once(web, mine, number) for number in range(60)))

        async def all_counted() -> bool:
            async with httpx.AsyncClient() as client:
                text = (await client.get(f"{web.url}/metrics")).text
            name = "moonwake_http_request_duration_seconds_count{"
            labels = 'method="POST",route="/api/playrecords",status="200"'
            return f"{name}{labels}}} 60.0" in text

        await until(all_counted, "a scrape tells the requests of both processes")
        files = [path.name for path in folder.glob("histogram_*.db")]

    assert 2 == len(files), files


async def save_once(web: FrontProcess, settings: Settings, number: int) -> None:
    """On a connection of its own: the kernel spreads those over the processes."""
    async with httpx.AsyncClient() as client:
        body = {"key": f"s+{number}", "record": record()}
        answer = await client.post(web.url + PATH, json=body, headers=cookie_of(settings))
    assert 200 == answer.status_code
