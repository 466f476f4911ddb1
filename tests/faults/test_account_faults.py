"""
Changes to accounts while processes, connections and stores die: made once, or not at all.

By default each kind of change is broken at COMMIT and at a few statements before it; with
MOONWAKE_ALL_BOUNDARIES=1 at every statement.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from ops.audit import audit
from ops.servers import free_port
from shared.accounts import ledger
from shared.connections import Pool, open_mysql, open_redis
from shared.settings import Settings
from tests.faults.account_changes import CHANGES, Change, redeem
from tests.faults.mysql_wire import packets
from tests.faults.processes import ApiProcess
from tests.faults.statement_watch import Moment, StatementWatch
from tests.faults.tcp_proxy import TcpProxy
from tests.fronts import Front, front
from tests.servers import OwnServers
from tests.waiting import until

ALL = os.environ.get("MOONWAKE_ALL_BOUNDARIES") == "1"


@asynccontextmanager
async def proxied(settings: Settings) -> AsyncIterator[tuple[TcpProxy, Settings]]:
    """A proxy before MySQL, and settings of a front that goes through it."""
    proxy = TcpProxy(settings.mysql_port, packets)
    await proxy.start()
    try:
        # Each registration comes from an address of its own.
        trusted = (ip_network("127.0.0.1/32"),)
        yield proxy, replace(settings, mysql_port=proxy.port, trusted_proxies=trusted)
    finally:
        await proxy.close()


async def statements_of(proxy: TcpProxy, site: Front, change: Change) -> int:
    """How many statements the transaction of such a change has, BEGIN and COMMIT included."""
    proxy.watch = watch = StatementWatch()
    response = await ask(site, change)
    assert response.status_code == 200, response.text
    proxy.watch = None
    return watch.seen


def boundaries(count: int) -> list[tuple[int, Moment]]:
    """Where to break a transaction of *count* statements."""
    chosen = range(count) if ALL else sorted({1, count // 2, count - 2, count - 1})
    return [(number, moment) for number in chosen for moment in Moment]


async def ask(site: Front, change: Change) -> httpx.Response:
    return await site.client.request(
        change.method, change.path, json=change.body, headers=change.headers
    )


async def assert_made_once(change: Change, response: httpx.Response, pool: Pool) -> None:
    """The answer is that of success, and the tables say that it was made exactly once."""
    assert response.status_code == 200, (change.kind, response.text)
    assert response.json().get("success", True) is True, (change.kind, response.text)
    assert change.done == await change.state(pool), change.kind
    assert [] == await audit(pool, "admin")


# --- connections --------------------------------------------------------------------


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_connection_lost_at_any_statement_is_not_noticed(
    kind: str, migrated: Settings, pool: Pool
) -> None:
    """The front tries again by itself, and finds out what became of a commit."""
    prepare = CHANGES[kind]
    async with proxied(migrated) as (proxy, settings), front(settings) as site:
        count = await statements_of(proxy, site, await prepare(pool, migrated))
        for at, moment in boundaries(count):
            change = await prepare(pool, migrated)
            assert change.before == await change.state(pool)
            proxy.watch = watch = StatementWatch(at, moment)
            asking = asyncio.create_task(ask(site, change))
            await watch.stopped.wait()
            watch.let_go(drop=True)
            response = await asking
            proxy.watch = None
            await assert_made_once(change, response, pool)

            again = await ask(site, change)

            assert response.content == again.content or kind == "register"
            await assert_made_once(change, again, pool)


async def test_a_request_without_a_key_is_not_doubled_by_our_own_attempts(
    migrated: Settings, pool: Pool
) -> None:
    """A commit that was made and not heard of is found by the next attempt."""
    async with proxied(migrated) as (proxy, settings), front(settings) as site:
        count = await statements_of(proxy, site, await redeem(pool, migrated))
        for moment in Moment:
            change = await redeem(pool, migrated)
            change.headers.pop("idempotency-key")
            # Without a key nothing is claimed: one statement less.
            proxy.watch = watch = StatementWatch(count - 2, moment)
            asking = asyncio.create_task(ask(site, change))
            await watch.stopped.wait()
            watch.let_go(drop=True)
            response = await asking
            proxy.watch = None
            await assert_made_once(change, response, pool)


async def test_a_commit_that_is_never_answered_is_a_503_and_the_retry_tells(
    migrated: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent network: the client is told in bounded time that nobody knows."""
    monkeypatch.setattr(ledger, "TIMEOUT_S", 1.0)
    async with proxied(migrated) as (proxy, settings), front(settings) as site:
        count = await statements_of(proxy, site, await redeem(pool, migrated))
        for moment in Moment:
            change = await redeem(pool, migrated)
            proxy.watch = watch = StatementWatch(count - 1, moment)
            unknown = await ask(site, change)
            assert (503, True) == (unknown.status_code, "retry-after" in unknown.headers)
            watch.let_go(drop=True)
            proxy.watch = None

            await assert_made_once(change, await ask(site, change), pool)


# --- processes ----------------------------------------------------------------------


@dataclass(slots=True)
class Fronts:
    """Web processes, one after the other; the next one starts while one is at work."""

    settings: Settings
    folder: Path
    _next: ApiProcess | None = None
    _number: int = 0

    def _start(self) -> ApiProcess:
        self._number += 1
        settings = replace(self.settings, port=free_port())
        process = ApiProcess(settings, self.folder, f"web-{self._number}")
        process.launch()
        return process

    async def next(self) -> ApiProcess:
        """One that answers."""
        process, self._next = self._next or self._start(), self._start()
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                with suppress(httpx.TransportError):
                    return (await client.get(f"{url_of(process)}/livez")).status_code == 200
                return False

            await until(answers, "the web process answers")
        return process

    def close(self) -> None:
        if self._next is not None:
            self._next.kill()


def url_of(process: ApiProcess) -> str:
    return f"http://127.0.0.1:{process.port}"


async def free_locks(redis: Redis) -> None:
    """What five seconds do to the locks of a process that was killed."""
    if keys := await redis.keys("moontv:lock:*"):
        await redis.delete(*keys)


@pytest.mark.parametrize("kind", CHANGES)
async def test_a_web_process_killed_in_the_middle_leaves_all_or_nothing(
    kind: str, migrated: Settings, pool: Pool, redis: Redis, tmp_path: Path
) -> None:
    """The same request to another process, with the same key, is answered as if nothing was."""
    prepare = CHANGES[kind]
    async with proxied(migrated) as (proxy, settings):
        async with front(settings) as site:
            count = await statements_of(proxy, site, await prepare(pool, migrated))
        fronts = Fronts(settings, tmp_path)
        victim = await fronts.next()
        try:
            for at, moment in killings(count):
                change = await prepare(pool, migrated)
                proxy.watch = watch = StatementWatch(at, moment)
                asking = asyncio.create_task(change.send(url_of(victim)))
                await watch.stopped.wait()
                victim.kill()
                watch.let_go(drop=True)
                with pytest.raises(httpx.TransportError):
                    await asking
                proxy.watch = None
                # InnoDB shows an older state to who looks again within 0.1 s.
                rolled_back = "the server has rolled back"
                await until(lambda: no_transaction(pool), rolled_back, poll_s=0.15)
                assert await change.state(pool) in (change.before, change.done)
                assert [] == await audit(pool, "admin")
                await free_locks(redis)
                victim = await fronts.next()

                await assert_made_once(change, await change.send(url_of(victim)), pool)
        finally:
            victim.kill()
            fronts.close()


def killings(count: int) -> list[tuple[int, Moment]]:
    """Where to kill: at every statement, or before and after COMMIT and once before it."""
    if ALL:
        return boundaries(count)
    return [(count // 2, Moment.AFTER), (count - 1, Moment.BEFORE), (count - 1, Moment.AFTER)]


async def no_transaction(pool: Pool) -> bool:
    """Is nothing written that was not committed?"""
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(
            "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0"
        )
        [count] = await cursor.fetchone()
    return bool(count == 0)


async def test_a_lock_of_a_killed_process_is_waited_for(
    migrated: Settings, pool: Pool, redis: Redis, tmp_path: Path
) -> None:
    """It ends by itself before anybody gives up: the retry just takes longer."""
    async with proxied(migrated) as (proxy, settings):
        fronts = Fronts(settings, tmp_path)
        victim = await fronts.next()
        change = await redeem(pool, migrated)
        proxy.watch = watch = StatementWatch(1)
        asking = asyncio.create_task(change.send(url_of(victim)))
        await watch.stopped.wait()
        victim.kill()
        watch.let_go(drop=True)
        with pytest.raises(httpx.TransportError):
            await asking
        proxy.watch = None
        assert 1 == len(await redis.keys("moontv:lock:*"))
        victim = await fronts.next()
        try:
            await assert_made_once(change, await change.send(url_of(victim)), pool)
        finally:
            victim.kill()
            fronts.close()


# --- stores -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("kind", ["bind", "redeem", "adjust", "ban", "delete"])
async def test_redis_lost_while_a_lock_is_held_ends_no_change(
    kind: str, how: str, own_servers: OwnServers
) -> None:
    """MySQL has begun, and MySQL decides: the change is made, and the audit finds nothing."""
    async with (
        open_mysql(own_servers.settings) as pool,
        proxied(own_servers.settings) as (proxy, settings),
        front(settings) as site,
    ):
        change = await CHANGES[kind](pool, own_servers.settings)
        proxy.watch = watch = StatementWatch(1)
        asking = asyncio.create_task(ask(site, change))
        await watch.stopped.wait()
        own_servers.redis.kill() if how == "killed" else own_servers.redis.pause()
        watch.let_go(drop=False)
        response = await asking
        await assert_made_once(change, response, pool)

        own_servers.redis.start() if how == "killed" else own_servers.redis.resume()
        another = await CHANGES[kind](pool, own_servers.settings)
        await until_it_is_there(own_servers)
        await assert_made_once(another, await ask(site, another), pool)


async def test_without_redis_changes_are_made_and_sessions_are_a_503(
    own_servers: OwnServers,
) -> None:
    """What needs no Redis goes on; what does says so, and changes nothing."""
    async with open_mysql(own_servers.settings) as pool, front(own_servers.settings) as site:
        change, other = [await redeem(pool, own_servers.settings) for _ in range(2)]
        own_servers.redis.kill()

        await assert_made_once(change, await ask(site, change), pool)

        other.headers.pop("cookie")
        other.headers["authorization"] = "Bearer " + "a" * 43
        refused = await ask(site, other)
        assert (503, True) == (refused.status_code, "retry-after" in refused.headers)
        assert other.before == await other.state(pool)


async def until_it_is_there(own_servers: OwnServers) -> None:
    async with open_redis(own_servers.redis.url) as client:

        async def answers() -> bool:
            with suppress(Exception):
                return bool(await client.ping())
            return False

        await until(answers, "Redis answers")


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("kind", ["register", "bind", "redeem"])
async def test_mysql_restarted_inside_commit_is_a_retry(
    kind: str, moment: Moment, own_servers: OwnServers
) -> None:
    """The commit was made or not; the answer is right, and at the latest that of the retry."""
    async with (
        open_mysql(own_servers.settings) as pool,
        proxied(own_servers.settings) as (proxy, settings),
        front(settings) as site,
    ):
        prepare = CHANGES[kind]
        count = await statements_of(proxy, site, await prepare(pool, own_servers.settings))
        change = await prepare(pool, own_servers.settings)
        proxy.watch = watch = StatementWatch(count - 1, moment)
        asking = asyncio.create_task(ask(site, change))
        await watch.stopped.wait()
        own_servers.mysql.kill()
        watch.let_go(drop=True)
        proxy.watch = None
        own_servers.mysql.start()  # not in a thread: it would end with that
        response = await asking
        assert response.status_code in (200, 503)
        async with open_mysql(own_servers.settings) as fresh:
            assert await change.state(fresh) in (change.before, change.done)
            assert [] == await audit(fresh, "admin")

            await assert_made_once(change, await ask(site, change), fresh)
