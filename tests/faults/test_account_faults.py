"""
Changes to accounts while connections are lost and processes die: made once, or not at all.

Connections are lost at every statement of every kind of change. Processes are killed, and
networks fall silent, at some of them by default, with MOONWAKE_ALL_BOUNDARIES=1 at all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from shared.accounts import ledger, passwords
from shared.accounts.passwords import Verdict
from shared.mysql import Pool
from shared.settings import Settings
from tests.faults.account_changes import CHANGES, Change, redeem
from tests.faults.account_trouble import (
    ALL_KINDS,
    CLIENT_TIMEOUT_S,
    asking,
    assert_made_once,
    assert_states,
    assert_unavailable,
    prepared,
    proxied,
    repeated,
    statements_of,
    until_rolled_back,
    web_processes,
)
from tests.faults.mysql_wire import CommitKiller, CommitLoss
from tests.faults.statement_watch import COMMIT, Moment, StatementWatch
from tests.faults.tcp_proxy import TcpProxy
from tests.fronts import front

ALL = os.environ.get("MOONWAKE_ALL_BOUNDARIES") == "1"

Break = tuple[int, Moment]


def breaks(counts: Mapping[str, int]) -> list[Break]:
    """Where to break transactions of so many statements: BEGIN is 0, COMMIT not a number."""
    chosen = range(max(counts.values()) - 1) if ALL else (2,)
    return [(at, moment) for at in (*chosen, COMMIT) for moment in Moment]


def breakable(counts: Mapping[str, int], at: int) -> list[str]:
    """The kinds of changes with a statement *at* before their COMMIT."""
    return [kind for kind, count in counts.items() if at < count - 1]


@pytest.fixture(name="cheap")
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords cost nothing: many are registered here."""

    async def plain(password: str, _field: str = "") -> str:
        return password

    async def compared(password: str, stored: str | None) -> Verdict:
        return Verdict(password == stored)

    monkeypatch.setattr(passwords, "hashed", plain)
    monkeypatch.setattr(passwords, "verify", compared)


# --- connections --------------------------------------------------------------------


@asynccontextmanager
async def fronted(settings: Settings) -> AsyncIterator[tuple[TcpProxy, httpx.AsyncClient]]:
    """A front of its own behind a proxy of its own."""
    async with proxied(settings) as (proxy, behind), front(behind) as site:
        yield proxy, site.client


async def broken(
    proxy: TcpProxy, client: httpx.AsyncClient, change: Change, watch: StatementWatch
) -> httpx.Response:
    """The answer to *change*, whose connection is reset where *watch* says."""
    async with asking(proxy, watch, client, [change]) as [asked]:
        watch.let_go(drop=True)
        return await asked


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("kind", CHANGES)
async def test_a_connection_lost_at_any_statement_is_not_noticed(
    kind: str, migrated: Settings, pool: Pool
) -> None:
    """The front tries again by itself, and finds out what became of a commit."""
    prepare = CHANGES[kind]
    async with fronted(migrated) as (proxy, client):
        count = await statements_of(proxy, client, await prepare(pool, migrated))
        for at in range(count):
            for moment in Moment:
                change = await prepare(pool, migrated)
                assert change.before == await change.state(pool)
                response = await broken(proxy, client, change, StatementWatch(at, moment))
                await assert_made_once(change, response, pool)

                again = await change.send(client)

                assert response.content == again.content
                await assert_made_once(change, again, pool)


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("kind", CHANGES)
async def test_a_change_without_a_key_is_not_doubled_by_our_own_attempts(
    kind: str, migrated: Settings, pool: Pool
) -> None:
    """A commit that was made and not heard of is found by the next attempt."""
    prepare = CHANGES[kind]
    async with fronted(migrated) as (proxy, client):
        count = await statements_of(proxy, client, unnamed(await prepare(pool, migrated)))
        for at in range(count):
            for moment in Moment:
                change = unnamed(await prepare(pool, migrated))
                response = await broken(proxy, client, change, StatementWatch(at, moment))
                await assert_made_once(change, response, pool)


def unnamed(change: Change) -> Change:
    """*change*, asked for by a client that sends no key."""
    change.headers.pop("idempotency-key")
    return change


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("loss", CommitLoss)
async def test_one_commit_lost_after_the_other_is_made_once(
    loss: CommitLoss, migrated: Settings, pool: Pool
) -> None:
    """Those too in which a further attempt only reads what became of the first."""
    async with fronted(migrated) as (proxy, client):
        for change in await prepared(pool, migrated):
            unnamed(change)
            proxy.watch = killer = CommitKiller(loss, times=3)
            await assert_made_once(change, await change.send(client), pool)
            assert (change.kind, 3) == (change.kind, killer.lost)


# --- silence ------------------------------------------------------------------------


@pytest.mark.usefixtures("cheap")
async def test_a_silent_network_is_a_503_and_the_retry_tells(
    migrated: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time; the server meanwhile holds the transaction of who is gone."""
    async with AsyncExitStack() as stack:
        sites = {kind: await stack.enter_async_context(fronted(migrated)) for kind in ALL_KINDS}
        counts = {
            kind: await statements_of(*site, await CHANGES[kind](pool, migrated))
            for kind, site in sites.items()
        }
        monkeypatch.setattr(ledger, "TIMEOUT_S", 3.0)
        for at, moment in breaks(counts):
            kinds = breakable(counts, at)
            changes = await prepared(pool, migrated, kinds)
            async with asyncio.TaskGroup() as silences:
                for change in changes:
                    watch = StatementWatch(at, moment)
                    silences.create_task(silenced(*sites[change.kind], change, watch))
            await until_rolled_back(pool)
            is_made = (at, moment) == (COMMIT, Moment.AFTER)
            expected = [change.done if is_made else change.before for change in changes]
            await assert_states(expected, changes, pool)

            for change in changes:
                _, client = sites[change.kind]
                await assert_made_once(change, await repeated(client, change), pool)


async def silenced(
    proxy: TcpProxy, client: httpx.AsyncClient, change: Change, watch: StatementWatch
) -> None:
    """*change* is answered before its connection is closed at the server's end."""
    async with asking(proxy, watch, client, [change]) as [asked]:
        assert_unavailable(await asyncio.wait_for(asked, CLIENT_TIMEOUT_S))
        watch.let_go(drop=True)


async def test_a_commit_that_arrives_late_is_the_retrys_answer(
    migrated: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client was told 503, and asks again while the packet is still on its way."""
    async with fronted(migrated) as (proxy, client):
        change = await redeem(pool, migrated)
        monkeypatch.setattr(ledger, "TIMEOUT_S", 3.0)
        watch = StatementWatch(COMMIT)
        async with asking(proxy, watch, client, [change]) as [asked]:
            assert_unavailable(await asyncio.wait_for(asked, CLIENT_TIMEOUT_S))
            assert_unavailable(await change.send(client))
            assert change.before == await change.state(pool)
            watch.let_go(drop=False)
            await assert_made_once(change, await repeated(client, change), pool)


# --- processes ----------------------------------------------------------------------


async def free_locks(redis: Redis) -> None:
    """What five seconds do to the locks of a process that was killed."""
    if keys := await redis.keys("moontv:lock:*"):
        await redis.delete(*keys)


async def test_a_web_process_killed_in_the_middle_leaves_all_or_nothing(
    migrated: Settings, pool: Pool, redis: Redis, tmp_path: Path
) -> None:
    """It was making every kind of change; another process answers as if nothing had been."""
    async with (
        proxied(migrated) as (proxy, settings),
        web_processes(settings, tmp_path) as processes,
    ):
        victim = await processes.next(spare=True)
        counts = {
            change.kind: await statements_of(proxy, victim.client, change)
            for change in await prepared(pool, migrated)
        }
        for at, moment in breaks(counts):
            changes = await prepared(pool, migrated, breakable(counts, at))
            watch = StatementWatch(at, moment, len(changes))
            async with asking(proxy, watch, victim.client, changes) as asked:
                victim.process.kill()
                watch.let_go(drop=True)
                for answer in await asyncio.gather(*asked, return_exceptions=True):
                    assert isinstance(answer, httpx.TransportError)
            await until_rolled_back(pool)
            is_made = (at, moment) == (COMMIT, Moment.AFTER)
            expected = [change.done if is_made else change.before for change in changes]
            await assert_states(expected, changes, pool)
            await free_locks(redis)
            victim = await processes.next(spare=(at, moment) != (COMMIT, Moment.AFTER))

            for _ in range(2):
                answers = await asyncio.gather(*(each.send(victim.client) for each in changes))
                for change, answer in zip(changes, answers, strict=True):
                    await assert_made_once(change, answer, pool)


async def test_a_lock_of_a_killed_process_is_waited_for(
    migrated: Settings, pool: Pool, redis: Redis, tmp_path: Path
) -> None:
    """It ends by itself before anybody gives up: the retry just takes longer."""
    async with (
        proxied(migrated) as (proxy, settings),
        web_processes(settings, tmp_path) as processes,
    ):
        victim = await processes.next(spare=True)
        change = await redeem(pool, migrated)
        watch = StatementWatch(1)
        async with asking(proxy, watch, victim.client, [change]) as [asked]:
            victim.process.kill()
            watch.let_go(drop=True)
            with pytest.raises(httpx.TransportError):
                await asked
        assert 1 == len(await redis.keys("moontv:lock:*"))
        other = await processes.next()
        await assert_made_once(change, await change.send(other.client), pool)
