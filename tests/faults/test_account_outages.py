"""
Changes to accounts while Redis or MySQL is away, and while MySQL ends transactions by deadlocks.

One web process makes changes of every kind at once; each is made once, or said not to be known.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.accounts import users
from shared.accounts.users import BANNED
from shared.cookies import username_of
from shared.errors import Contended
from shared.mysql import Pool, open_mysql, transaction
from shared.settings import Settings
from tests.faults.account_changes import END_SESSIONS, Change, redeem
from tests.faults.account_trouble import (
    ALL_KINDS,
    WebProcess,
    asking,
    assert_clean,
    assert_made_once,
    assert_states,
    assert_unavailable,
    prepared,
    proxied,
    repeated,
    web_processes,
)
from tests.faults.statement_watch import COMMIT, Moment, StatementWatch
from tests.faults.tcp_proxy import TcpProxy
from tests.servers import OwnServers
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Site:
    """A web process whose MySQL is behind a proxy; `pool` goes past that."""

    servers: OwnServers
    proxy: TcpProxy
    web: WebProcess
    #: A second web process of the same site.
    other: WebProcess
    pool: Pool

    @property
    def settings(self) -> Settings:
        return self.servers.settings


@pytest.fixture(name="site")
async def _site(own_servers: OwnServers, tmp_path: Path) -> AsyncIterator[Site]:
    async with (
        proxied(own_servers.settings) as (proxy, settings),
        web_processes(settings, tmp_path) as processes,
        open_mysql(own_servers.settings) as pool,
    ):
        web, other = await processes.next(spare=True), await processes.next()
        yield Site(own_servers, proxy, web, other, pool)


async def assert_answered_once(site: Site, changes: Sequence[Change]) -> None:
    """Each of *changes*, asked for again with its key, is made once."""
    for change in changes:
        await assert_made_once(change, await repeated(site.web.client, change), site.pool)


async def send_all(site: Site, changes: Sequence[Change]) -> dict[str, httpx.Response]:
    """Kind -> the answer to it; all are asked for at once."""
    answers = await asyncio.gather(*(change.send(site.web.client) for change in changes))
    return dict(zip([change.kind for change in changes], answers, strict=True))


# --- Redis --------------------------------------------------------------------------


def lose(site: Site, how: str) -> None:
    site.servers.redis.kill() if how == "killed" else site.servers.redis.pause()


async def recover(site: Site) -> None:
    """Redis is back."""
    redis = site.servers.redis
    redis.resume()
    if redis.pid is None:
        redis.launch()
    await until(redis.answers, "Redis answers")


async def assert_goes_on_without_redis(
    site: Site,
    changes: Sequence[Change],
    answers: dict[str, httpx.Response],
    refused: Collection[str],
) -> None:
    """Every change but the *refused* kinds is made; and all once Redis is back."""
    expected = [each.before if each.kind in refused else each.done for each in changes]
    await assert_states(expected, changes, site.pool)
    for change in changes:
        if change.kind in refused:
            assert_unavailable(answers[change.kind])
        else:
            await assert_made_once(change, answers[change.kind], site.pool)
    await recover(site)
    await assert_answered_once(site, changes)
    await assert_answered_once(site, await prepared(site.pool, site.settings))


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_redis_lost_before_a_lock_is_taken_is_done_without(how: str, site: Site) -> None:
    """Or refused by a 503 that has changed nothing: a registration is counted first."""
    changes = await prepared(site.pool, site.settings)
    lose(site, how)
    answers = await send_all(site, changes)
    await assert_goes_on_without_redis(site, changes, answers, ("register", *END_SESSIONS))


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_redis_lost_while_a_lock_is_held_ends_no_change(how: str, site: Site) -> None:
    """MySQL has begun, and MySQL decides, but for what must end sessions: that is undone.

    A registration is made and told so, without a session: a 503 would be half of it.
    """
    changes = await prepared(site.pool, site.settings)
    watch = StatementWatch(1, transactions=len(changes))
    async with asking(site.proxy, watch, site.web.client, changes) as asked:
        lose(site, how)
        watch.let_go(drop=False)
        answers = dict(zip(ALL_KINDS, await asyncio.gather(*asked), strict=True))
    await assert_goes_on_without_redis(site, changes, answers, END_SESSIONS)


async def test_a_session_is_a_503_without_redis_and_changes_nothing(site: Site) -> None:
    """Nobody knows whose it is, and the answer says when to come again."""
    change = await redeem(site.pool, site.settings)
    change.headers.pop("cookie")
    change.headers["authorization"] = "Bearer " + "a" * 43
    site.servers.redis.kill()
    assert_unavailable(await change.send(site.web.client))
    await assert_states([change.before], [change], site.pool)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_ban_without_redis_reaches_the_other_processes(how: str, site: Site) -> None:
    """By MySQL while Redis is away, also where only the cookie tells who asks; and afterwards."""
    change = await redeem(site.pool, site.settings)
    name = await user_of(site, change)
    token = await logged_in(site.other, name)
    lose(site, how)
    ban = {"action": "ban", "targetUsername": name}
    owner = (await prepared(site.pool, site.settings, ["ban"]))[0].headers
    banned = await site.web.client.post("/api/admin/user", json=ban, headers=owner)
    assert (200, {"ok": True}) == (banned.status_code, banned.json())

    for web in (site.web, site.other):
        await until_banned(web, {"cookie": change.headers["cookie"]})
    await recover(site)
    for web in (site.web, site.other):
        for login in ({"cookie": change.headers["cookie"]}, {"authorization": token}):
            await until_banned(web, login)
    await assert_states([change.before], [change], site.pool)


async def user_of(site: Site, change: Change) -> str:
    """Who asks for *change*, from now on with a password."""
    cookie = change.headers["cookie"].removeprefix("user_auth=")
    name = username_of(cookie, site.settings.password)
    assert name is not None
    async with transaction(site.pool) as cursor:
        await users.set_password(cursor, name, "a password")
    return name


async def logged_in(web: WebProcess, name: str) -> str:
    """The bearer token of a session of *name*."""
    login = {"username": name, "password": "a password", "bearer": True}
    answer = await web.client.post("/api/login", json=login)
    assert answer.status_code == httpx.codes.OK, answer.text
    return f"Bearer {answer.json()['token']}"


async def until_banned(web: WebProcess, login: dict[str, str]) -> None:
    """Return when *web* tells who has this login that they are banned, before it does anything."""

    async def is_banned() -> bool:
        # A body that is no object is refused too, but after the login.
        answer = await web.client.post("/api/redeem/cardkey", content=b"[]", headers=login)
        return (answer.status_code, BANNED in answer.text) == (httpx.codes.UNAUTHORIZED, True)

    await until(is_banned, "the ban has arrived")


# --- MySQL --------------------------------------------------------------------------


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_mysql_restarted_inside_commit_leaves_all_or_nothing(
    how: str, moment: Moment, site: Site
) -> None:
    """Of every kind of change; the answer is right, at the latest that of the retry."""
    mysql = site.servers.mysql
    changes = await prepared(site.pool, site.settings)
    watch = StatementWatch(COMMIT, moment, len(changes))
    async with asking(site.proxy, watch, site.web.client, changes) as asked:
        # Nobody tries again before we have looked.
        site.proxy.refusing = True
        mysql.kill() if how == "killed" else mysql.stop()
        watch.let_go(drop=True)
        mysql.launch()
        await until(mysql.answers, "MySQL answers")
        is_made = moment is Moment.AFTER
        async with open_mysql(site.settings) as pool:
            expected = [change.done if is_made else change.before for change in changes]
            await assert_states(expected, changes, pool)
        site.proxy.refusing = False
        answers = await asyncio.gather(*asked)
    for change, answer in zip(changes, answers, strict=True):
        if answer.status_code == httpx.codes.OK:
            await assert_made_once(change, answer, site.pool)
        else:
            assert_unavailable(answer)
    await assert_answered_once(site, changes)


# --- deadlocks ----------------------------------------------------------------------

CLIENTS = 32
VICTIMS = 20
#: Rows of a rival's transaction, which make it the one that the server lets live.
HEAVY = "INSERT INTO barred_users (username, reason) VALUES " + ",".join(
    f"('{number}', 'deleted')" for number in range(300)
)


async def test_deadlocks_are_tried_again_and_nobody_hears_of_them(site: Site) -> None:
    """Clients redeem and bind; a rival takes keys and accounts in the other order."""
    kinds = ("redeem", "bind") * (CLIENTS // 2)
    while victims_in(site.web) < VICTIMS:
        changes = await prepared(site.pool, site.settings, kinds)
        async with crossing(site.pool):
            answers = await asyncio.gather(*(each.send(site.web.client) for each in changes))
        assert {200: CLIENTS} == Counter(answer.status_code for answer in answers)
        for change in changes:
            assert change.done == await change.state(site.pool)
    await assert_clean(site.pool)


def victims_in(web: WebProcess) -> int:
    """How many of its transactions were ended by a deadlock."""
    lines = map(json.loads, web.process.log.read_text().splitlines())
    tried = [line for line in lines if line.get("event") == "transaction_tried_again"]
    return sum("1213" in line["error"] for line in tried)


@asynccontextmanager
async def crossing(pool: Pool) -> AsyncIterator[None]:
    """A rival takes keys first and accounts then, where changes do it the other way round."""
    over = asyncio.Event()

    async def cross() -> None:
        while not over.is_set():
            with suppress(Contended):
                async with transaction(pool) as cursor:
                    await cursor.execute(HEAVY)
                    await cursor.execute("SELECT * FROM card_keys FOR UPDATE")
                    await cursor.execute("SELECT * FROM user_points FOR UPDATE")
                    await cursor.execute("ROLLBACK")

    crossed = asyncio.create_task(cross())
    try:
        yield
    finally:
        over.set()
        await crossed
