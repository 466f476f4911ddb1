"""Changes to accounts in trouble: fronts behind a proxy, web processes, and what must hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path

import httpx

from ops.audit import audit
from ops.servers import free_port
from shared.mysql import Pool
from shared.settings import Settings
from tests.faults.account_changes import CHANGES, Change
from tests.faults.mysql_wire import packets
from tests.faults.processes import ApiProcess
from tests.faults.statement_watch import StatementWatch
from tests.faults.tcp_proxy import TcpProxy
from tests.waiting import until

ALL_KINDS = tuple(CHANGES)
UNAVAILABLE = 503
#: Longer than a front ever takes.
CLIENT_TIMEOUT_S = 60


@asynccontextmanager
async def proxied(settings: Settings) -> AsyncIterator[tuple[TcpProxy, Settings]]:
    """A proxy before MySQL, and settings of fronts that go through it."""
    proxy = TcpProxy(settings.mysql_port, packets)
    await proxy.start()
    try:
        # Clients say where they come from.
        trusted = (ip_network("127.0.0.1/32"),)
        yield proxy, replace(settings, mysql_port=proxy.port, trusted_proxies=trusted)
    finally:
        await proxy.close()


# --- web processes ------------------------------------------------------------------


@dataclass(slots=True)
class WebProcess:
    """One web process and a client of it."""

    process: ApiProcess
    client: httpx.AsyncClient

    async def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return (await self.client.get("/livez")).status_code == httpx.codes.OK
        return False


@dataclass(slots=True)
class WebProcesses:
    """Web processes, one after the other; the next one starts while one is at work."""

    settings: Settings
    folder: Path
    started: list[WebProcess] = field(default_factory=list)
    _given: int = 0

    def _start(self) -> None:
        settings = replace(self.settings, port=free_port())
        process = ApiProcess(settings, self.folder, f"web-{len(self.started)}")
        process.launch()
        url = f"http://127.0.0.1:{process.port}"
        client = httpx.AsyncClient(base_url=url, timeout=CLIENT_TIMEOUT_S, trust_env=False)
        self.started.append(WebProcess(process, client))

    async def next(self, *, spare: bool = False) -> WebProcess:
        """One that answers; *spare*: another is going to be asked for."""
        while len(self.started) <= self._given + spare:
            self._start()
        web = self.started[self._given]
        self._given += 1
        await until(web.answers, "the web process answers")
        return web


@asynccontextmanager
async def web_processes(settings: Settings, folder: Path) -> AsyncIterator[WebProcesses]:
    """Web processes, killed at the end if they were not before."""
    processes = WebProcesses(settings, folder)
    try:
        yield processes
    finally:
        for web in processes.started:
            await web.client.aclose()
            web.process.kill()


# --- changes ------------------------------------------------------------------------


async def prepared(
    pool: Pool, settings: Settings, kinds: Collection[str] = ALL_KINDS
) -> list[Change]:
    """A change of each of *kinds*, about to be made."""
    return [await CHANGES[kind](pool, settings) for kind in kinds]


async def statements_of(proxy: TcpProxy, client: httpx.AsyncClient, change: Change) -> int:
    """How many statements the transaction of such a change has, BEGIN and COMMIT included."""
    proxy.watch = watch = StatementWatch()
    response = await change.send(client)
    assert response.status_code == httpx.codes.OK, response.text
    proxy.watch = None
    return watch.seen


Asked = Sequence[asyncio.Task[httpx.Response]]


@asynccontextmanager
async def asking(
    proxy: TcpProxy, watch: StatementWatch, client: httpx.AsyncClient, changes: Sequence[Change]
) -> AsyncIterator[Asked]:
    """*changes* are asked for at once, and held where *watch* says."""
    proxy.watch = watch
    asked = [asyncio.create_task(change.send(client)) for change in changes]
    try:
        await watch.until_stopped()
        yield asked
    finally:
        proxy.watch = None
        watch.let_go(drop=True)  # if nobody did: what is held would keep the proxy from closing
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def repeated(client: httpx.AsyncClient, change: Change) -> httpx.Response:
    """The answer to *change*, asked for again with the same key while that is a 503."""
    answers: list[httpx.Response] = []

    async def is_answered() -> bool:
        answers.append(await change.send(client))
        return answers[-1].status_code != UNAVAILABLE

    await until(is_answered, f"{change.kind} is answered")
    return answers[-1]


async def assert_made_once(change: Change, response: httpx.Response, pool: Pool) -> None:
    """The answer is that of success, and the tables say that it was made exactly once."""
    assert (change.kind, 200) == (change.kind, response.status_code), response.text
    body = response.json()
    assert body.get("success", True) is True, (change.kind, body)
    assert (change.kind, change.done) == (change.kind, await change.state(pool))
    assert (change.kind, await change.stored(pool)) == (change.kind, sorted(change.told(body)))
    await assert_clean(pool)


async def assert_states(
    expected: Sequence[tuple[int, ...]], changes: Sequence[Change], pool: Pool
) -> None:
    """The tables say *expected* of *changes*, and agree with each other."""
    kinds = [change.kind for change in changes]
    states = [await change.state(pool) for change in changes]
    assert dict(zip(kinds, expected, strict=True)) == dict(zip(kinds, states, strict=True))
    await assert_clean(pool)


async def assert_clean(pool: Pool) -> None:
    assert [] == await audit(pool, "admin")


def assert_unavailable(response: httpx.Response) -> None:
    """It says that nobody knows, and when to come again."""
    status, is_told = response.status_code, "retry-after" in response.headers
    assert (UNAVAILABLE, True) == (status, is_told), response.text


async def until_rolled_back(pool: Pool) -> None:
    """Return when nothing is written that was not committed."""
    # InnoDB shows an older state to who looks again within 0.1 s.
    await until(lambda: _no_transaction(pool), "the server has rolled back", poll_s=0.15)


async def _no_transaction(pool: Pool) -> bool:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(
            "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0"
        )
        [count] = await cursor.fetchone()
    return bool(count == 0)
