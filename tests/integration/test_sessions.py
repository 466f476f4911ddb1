"""Sessions over HTTP: how long they last, who ends them, and that they end everywhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from api import gate
from shared.accounts import passwords, sessions
from shared.accounts.sessions import SESSION_S
from shared.keys import Keys
from shared.settings import Settings
from tests.callers import PASSWORD, Caller, People, enrol, error_of, people, query
from tests.fronts import front
from tests.waiting import until

COOKIE = "moonwake_session"


@pytest.fixture(name="site")
async def _site(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[People]:
    """A front that takes sessions alone, and asks Redis about each of them."""
    monkeypatch.setattr(gate, "SESSION_TRUST_S", -1)
    async with people(migrated, accept_lunatv_cookie=False) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


async def logged_in(site: People, name: str = "cat", password: str = PASSWORD) -> Caller:
    caller = Caller(site.front)
    assert (200, {"ok": True}) == await caller.log_in(name, password)
    return caller


async def session_keys(site: People, redis: Redis) -> list[bytes]:
    return sorted(await redis.keys(f"{site.front.settings.key_prefix}session:*"))


async def test_lunatvs_cookie_alone_is_no_login_where_it_is_not_taken(site: People) -> None:
    """ACCEPT_LUNATV_COOKIE=false: only what can be revoked counts. It is still given."""
    assert not await site.ann.is_in()
    caller = await logged_in(site)
    assert {COOKIE, "user_auth"} == set(caller.client.cookies)
    caller.client.cookies.delete(COOKIE)
    assert not await caller.is_in()


async def test_where_both_cookies_are_taken_lunatvs_is_the_one(migrated: Settings) -> None:
    """The page a user looks at goes by it."""
    async with people(migrated) as site:
        await site.stranger.log_in("admin", "secret")
        site.stranger.client.cookies.delete("user_auth")
        assert 200 == (await site.stranger.get("/api/admin/config"))[0]
        value = site.front.cookie("ann")["cookie"].removeprefix("user_auth=")
        site.stranger.client.cookies.set("user_auth", value, domain="front.test")

        assert (401, "权限不足") == error_of(await site.stranger.get("/api/admin/config"))


async def test_redis_holds_no_token(site: People, redis: Redis) -> None:
    """Who reads Redis cannot log in: neither the keys nor the values are what a client sends."""
    caller = await logged_in(site)
    token = caller.client.cookies[COOKIE]
    names = await redis.keys("*")
    values = [await redis.get(key) for key in await session_keys(site, redis)]

    assert [b"- cat"] == values  # no mark: she is not the owner
    assert not any(token.encode() in name for name in names)
    session_id = (await session_keys(site, redis))[0].decode().rpartition(":")[2]
    assert not await Caller(site.front, cookie=f"{COOKIE}={session_id}").is_in()


async def test_a_session_in_use_is_prolonged(site: People, redis: Redis) -> None:
    """It lasts a day after its last use, at most once a minute; an index entry goes with it."""
    caller = await logged_in(site)
    [key] = await session_keys(site, redis)
    await redis.expire(key, SESSION_S - 30)
    assert await caller.is_in()
    assert SESSION_S - 30 >= await redis.ttl(key)
    await redis.expire(key, 100)
    assert await caller.is_in()

    assert SESSION_S - 10 <= await redis.ttl(key) <= SESSION_S


async def test_a_session_that_is_not_used_ends(site: People, redis: Redis) -> None:
    """After a day, which Redis counts."""
    caller = await logged_in(site)
    [key] = await session_keys(site, redis)
    assert SESSION_S - 10 <= await redis.ttl(key) <= SESSION_S
    await redis.pexpire(key, 1)

    async def is_gone() -> bool:
        return not await redis.exists(key)

    await until(is_gone, "the session is over")

    assert not await caller.is_in()


async def test_logging_out_ends_one_session_and_takes_all_cookies(site: People) -> None:
    """At once, on this front; others of the user go on. It may be done twice, or by anybody."""
    here, there = await logged_in(site), await logged_in(site)
    token = here.client.cookies[COOKIE]
    answer = await here.answer("POST", "/api/logout")

    taken = [cookie.partition("=")[0] for cookie in answer.headers.get_list("set-cookie")]
    assert ["auth", COOKIE, "user_auth"] == sorted(taken)
    assert all("Max-Age=0" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert {} == dict(here.client.cookies)
    assert not await Caller(site.front, cookie=f"{COOKIE}={token}").is_in()
    assert await there.is_in()
    assert (200, {"ok": True}) == await here.post("/api/logout")
    assert (200, {"ok": True}) == await Caller(site.front, cookie="x=y").post("/api/logout")


async def test_a_front_that_trusts_a_session_forgets_it_at_logout(migrated: Settings) -> None:
    """Sessions are believed for two seconds, but not on the front where they ended."""
    async with people(migrated, accept_lunatv_cookie=False) as site:
        caller = Caller(site.front)
        await caller.log_in("admin", "secret")
        cookie = f"{COOKIE}={caller.client.cookies[COOKIE]}"
        copy = Caller(site.front, cookie=cookie)
        assert await copy.is_in()
        await copy.post("/api/logout")

        assert not await copy.is_in()


async def test_logging_out_everywhere_ends_all_of_a_user_and_nobody_elses(site: People) -> None:
    """Bearer tokens too, on every front; it takes a login to ask for it."""
    mine = [await logged_in(site) for _ in range(3)]
    _, body = await Caller(site.front).log_in("cat", bearer=True)
    bearer = Caller(site.front, authorization=f"Bearer {body['token']}")
    other = await logged_in(site, "admin", "secret")

    assert (401, "Unauthorized") == await site.stranger.post("/api/logout?everywhere=true")
    assert (200, {"ok": True}) == await mine[0].post("/api/logout?everywhere=true")
    assert [False] * 4 == [await caller.is_in() for caller in (*mine, bearer)]
    assert await other.is_in()


async def test_a_bearer_token_logs_out_too(site: People) -> None:
    """Without any cookie."""
    _, body = await Caller(site.front).log_in("cat", bearer=True)
    caller = Caller(site.front, authorization=f"Bearer {body['token']}")
    assert await caller.is_in()
    assert (200, {"ok": True}) == await caller.post("/api/logout")

    assert not await caller.is_in()


async def test_a_changed_password_ends_all_other_sessions(site: People) -> None:
    """The one that changed it goes on, and the old password is one no more."""
    here, there = await logged_in(site), await logged_in(site)
    assert (200, {"ok": True}) == await here.post("/api/change-password", {"newPassword": "new"})

    assert [True, False] == [await here.is_in(), await there.is_in()]
    assert (401, "用户名或密码错误") == error_of(await there.log_in("cat"))
    assert (200, {"ok": True}) == await there.log_in("cat", "new")


async def test_the_session_beside_lunatvs_cookie_goes_on_too(migrated: Settings) -> None:
    """Who changes the password is told by LunaTV's cookie, but logged in by both."""
    async with people(migrated) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        here, there = Caller(site.front), Caller(site.front)
        for caller in (here, there):
            await caller.log_in("cat")
        await here.post("/api/change-password", {"newPassword": "new password"})
        for caller in (here, there):
            caller.client.cookies.delete("user_auth")

        assert [True, False] == [await here.is_in(), await there.is_in()]


async def test_an_admin_who_changes_a_password_ends_all_sessions(site: People) -> None:
    """Whoever had them."""
    caller = await logged_in(site)
    owner = await logged_in(site, "admin", "secret")
    body = {"action": "changePassword", "targetUsername": "cat", "targetPassword": "new password"}
    assert (200, {"ok": True}) == await owner.post("/api/admin/user", body)

    assert not await caller.is_in()
    assert (200, {"ok": True}) == await Caller(site.front).log_in("cat", "new password")


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("UPDATE users SET password_hash = 'x' WHERE username = 'cat'", "用户名或密码错误"),
        ("DELETE FROM users WHERE username = 'cat'", "用户名或密码错误"),
    ],
)
async def test_a_login_that_was_overtaken_leaves_no_session(
    site: People, redis: Redis, monkeypatch: pytest.MonkeyPatch, sql: str, text: str
) -> None:
    """Who ended all sessions meanwhile could not see the one that was about to begin."""
    begin = sessions.Sessions.begin

    async def overtaken(self: sessions.Sessions, username: str) -> str:
        await query(site.pool, sql)
        return await begin(self, username)

    monkeypatch.setattr(sessions.Sessions, "begin", overtaken)

    assert (401, text) == error_of(await site.stranger.log_in("cat"))
    assert [] == await session_keys(site, redis)


async def test_a_ban_during_the_login_is_told(
    site: People, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And there is no session either."""
    begin = sessions.Sessions.begin

    async def banned_first(self: sessions.Sessions, username: str) -> str:
        body = {"action": "ban", "targetUsername": "cat"}
        monkeypatch.setattr(sessions.Sessions, "begin", begin)
        owner = await logged_in(site, "admin", "secret")
        await owner.post("/api/admin/user", body)
        return await begin(self, username)

    monkeypatch.setattr(sessions.Sessions, "begin", banned_first)

    assert (401, "用户已被封禁") == error_of(await site.stranger.log_in("cat"))
    assert 1 == len(await session_keys(site, redis))  # the owner's


async def test_a_session_counts_on_every_front_and_ends_on_every_front(
    site: People, migrated: Settings, redis: Redis
) -> None:
    """They share Redis; and what Redis lost is a login no more."""
    caller = await logged_in(site)
    token = caller.client.cookies[COOKIE]
    async with front(replace(migrated, accept_lunatv_cookie=False)) as far:
        there = Caller(far, cookie=f"{COOKIE}={token}")
        assert await there.is_in()
        await caller.post("/api/logout")
        assert not await there.is_in()
        again = await logged_in(site)
        await redis.flushall()
        assert not await again.is_in()


async def test_a_user_has_so_many_sessions_and_no_more(
    site: People, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis holds what everybody plays: nobody may fill it with logins. The oldest ends."""
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    first, second, third = [await logged_in(site) for _ in range(3)]
    other = await logged_in(site, "admin", "secret")

    assert [False, True, True] == [await caller.is_in() for caller in (first, second, third)]
    assert await other.is_in()
    assert 3 == len(await session_keys(site, redis))


async def test_every_index_entry_is_a_session(site: People, redis: Redis) -> None:
    """Ended sessions leave nothing in the set of the user's."""
    first, second = await logged_in(site), await logged_in(site)
    await first.post("/api/logout")
    index = Keys(site.front.settings.key_prefix).sessions("cat")

    kept = [key.decode().rpartition(":")[2] for key in await session_keys(site, redis)]
    assert kept == [each.decode() for each in await redis.zrange(index, 0, -1)]
    await second.post("/api/logout?everywhere=true")
    assert 0 == await redis.exists(index)
