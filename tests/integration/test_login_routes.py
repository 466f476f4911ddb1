"""/api/login: who gets in, in which order things are checked, and what is kept of a password."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.accounts import barred, logins, passwords
from shared.accounts.sessions import Sessions
from shared.mysql import transaction
from shared.settings import Settings
from shared.times import now_ms
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    enrol,
    error_of,
    new_keys,
    people,
    query,
    without_signed_cookies,
)
from tests.fronts import Front, front
from tests.waiting import until

SALT = "00112233445566778899aabbccddeeff"
SCRYPT = hashlib.scrypt(PASSWORD.encode(), salt=SALT.encode(), n=16_384, r=8, p=1, dklen=64)
#: How sites may have stored the same password.
FORMS = {
    "plain": PASSWORD,
    "sha256": hashlib.sha256(PASSWORD.encode()).hexdigest(),
    "scrypt": f"{SALT}:{SCRYPT.hex()}",
}
WRONG = (401, "用户名或密码错误")


@pytest.fixture(name="near")
async def _near(site: People) -> AsyncIterator[Front]:
    async with without_signed_cookies(site) as near:
        yield near


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


async def stored(site: People, name: str) -> str:
    [(password_hash,)] = await query(
        site.pool, "SELECT password_hash FROM users WHERE username = %s", name
    )
    return str(password_hash)


LOGINS: list[tuple[Any, Any]] = [
    ({}, (400, "用户名不能为空")),
    ({"password": "x"}, (400, "用户名不能为空")),
    ({"username": "", "password": ""}, (400, "用户名不能为空")),
    ({"username": "cat"}, (400, "密码不能为空")),
    ({"username": "cat", "password": ""}, (400, "密码不能为空")),
    ({"username": "cat", "password": "wrong"}, WRONG),
    ({"username": "cat", "password": PASSWORD.upper()}, WRONG),
    ({"username": "cat", "password": PASSWORD + " "}, WRONG),
    ({"username": "admin", "password": "wrong"}, WRONG),
    ({"username": "admin", "password": "secret "}, WRONG),
    ({"username": "nobody", "password": PASSWORD}, WRONG),
    ({"username": "ann", "password": "!"}, WRONG),
    ({"username": "cat", "password": PASSWORD}, (200, {"ok": True})),
    ({"username": "admin", "password": "secret"}, (200, {"ok": True})),
    ({"username": "cat", "password": PASSWORD, "cardKey": None}, (200, {"ok": True})),
    ({"username": "cat", "password": PASSWORD, "cardKey": "  "}, (200, {"ok": True})),
    ({"username": "cat", "password": PASSWORD, "more": [1]}, (200, {"ok": True})),
]


async def test_name_and_password_decide(site: People) -> None:
    """The texts are those real front ends know; who fails learns nothing more."""
    for body, expected in LOGINS:
        caller = Caller(site.front)
        assert expected == error_of(await caller.post("/api/login", body)), body
        assert (expected[0] == 200) == await caller.is_in(), body


async def test_a_login_sets_both_cookies(site: People) -> None:
    """Ours is for the server alone, LunaTV's for its pages; neither is sent to other sites."""
    body = {"username": "cat", "password": PASSWORD}
    answer = await site.stranger.answer("POST", "/api/login", body)
    session, lunatv = sorted(answer.headers.get_list("set-cookie"))

    assert session.startswith("moonwake_session=")
    assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=604800"} <= set(session.split("; "))
    assert lunatv.startswith("user_auth=%257B%2522role%2522%253A%2522user%2522")
    assert {"SameSite=lax", "Path=/", "Max-Age=604800"} <= set(lunatv.split("; "))
    assert "HttpOnly" not in lunatv
    assert "Secure" not in session + lunatv
    assert "no-store" == answer.headers["cache-control"]


async def test_cookies_may_be_for_https_alone(migrated: Settings) -> None:
    """COOKIE_SECURE says so to the browser."""
    async with people(migrated, cookie_secure=True) as site:
        body = {"username": "admin", "password": "secret"}
        answer = await site.stranger.answer("POST", "/api/login", body)

        cookies = answer.headers.get_list("set-cookie")
        assert [True, True] == ["Secure" in cookie.split("; ") for cookie in cookies]


async def test_a_client_without_cookies_gets_a_token(site: People) -> None:
    """It is sent as a bearer token; nothing is set that a browser would send by itself."""
    body = {"username": "cat", "password": PASSWORD, "bearer": True}
    answer = await site.stranger.answer("POST", "/api/login", body)
    token = answer.json()["token"]
    caller = Caller(site.front, authorization=f"Bearer {token}")

    assert "set-cookie" not in answer.headers
    assert not await site.stranger.is_in()
    assert await caller.is_in()
    assert not await Caller(site.front, authorization=f"Bearer {token}x").is_in()
    assert not await Caller(site.front, authorization=f"Basic {token}").is_in()


async def test_a_bearer_token_counts_before_any_cookie(site: People) -> None:
    """Also where it is worth nothing: a client that names its login means that one."""
    caller = Caller(site.front, authorization="Bearer junk", **site.front.cookie("ann"))

    assert not await caller.is_in()


@pytest.mark.parametrize("form", FORMS)
async def test_a_password_of_any_older_form_lets_in_once_and_is_upgraded(
    site: People, form: str
) -> None:
    """What stays behind is argon2id, and the same password goes on to count."""
    await enrol(site.pool, "old", password_hash=FORMS[form])

    assert WRONG == error_of(await site.stranger.log_in("old", FORMS[form][:-1]))
    assert FORMS[form] == await stored(site, "old")
    for _ in range(2):
        assert (200, {"ok": True}) == await Caller(site.front).log_in("old")
    assert (await stored(site, "old")).startswith("$argon2id$")


async def test_a_stored_hash_is_no_password(site: People) -> None:
    """Who has read the table cannot log in with what stands in it."""
    for number, form in enumerate(("sha256", "scrypt")):
        await enrol(site.pool, f"old{number}", password_hash=FORMS[form])
        answer = await Caller(site.front).log_in(f"old{number}", FORMS[form])
        assert WRONG == error_of(answer)


async def test_many_first_logins_at_once_all_get_in(site: People) -> None:
    """Each would upgrade the password to a hash of its own: one does, and the others count too."""
    await enrol(site.pool, "old", password_hash=FORMS["sha256"])
    answers = await asyncio.gather(*(Caller(site.front).log_in("old") for _ in range(6)))

    assert [(200, {"ok": True})] * 6 == answers
    assert (200, {"ok": True}) == await Caller(site.front).log_in("old")


@dataclass
class Interruption:
    """Something that happens right after the password of a login was hashed anew."""

    site: People
    sql: str
    hashed: Any = field(default=passwords.hashed)

    async def __call__(self, password: str) -> str:
        new_hash: str = await self.hashed(password)
        await query(self.site.pool, self.sql)
        return new_hash


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE users SET password_hash = 'changed' WHERE username = 'old'",
        "DELETE FROM users WHERE username = 'old'",
    ],
)
async def test_who_changed_a_password_during_its_upgrade_wins(
    site: People, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """The old password is one no more, whoever was about to be let in by it."""
    await enrol(site.pool, "old", password_hash=FORMS["sha256"])
    monkeypatch.setattr(passwords, "hashed", Interruption(site, sql))

    assert WRONG == error_of(await site.stranger.log_in("old"))
    rows = await query(site.pool, "SELECT password_hash FROM users WHERE username = 'old'")
    assert [("changed",)] * len(rows) == rows


# --- standing: after the password ---------------------------------------------------


async def test_a_ban_is_told_to_who_knows_the_password(site: People) -> None:
    """To nobody else."""
    await site.adm.post("/api/admin/user", {"action": "ban", "targetUsername": "cat"})

    assert (401, "用户被封禁") == error_of(await site.stranger.log_in("cat"))
    assert WRONG == error_of(await site.stranger.log_in("cat", "wrong"))


async def test_an_expired_membership_keeps_users_out_and_admins_not(site: People) -> None:
    """Whoever never bound a key needs none; a new key at the login lets in again."""
    for name in ("cat", "adm"):
        [key] = await new_keys(site.pool)
        caller = site.front.cookie(name)
        assert (
            200
            == (await Caller(site.front, **caller).post("/api/user/cardkey", {"cardKey": key}))[0]
        )
    past = "2020-01-01"
    for table in ("memberships", "user_card_keys"):
        await query(site.pool, f"UPDATE {table} SET expires_at = %s", past)
    [key] = await new_keys(site.pool)
    await query(
        site.pool,
        "UPDATE users SET password_hash = (SELECT p FROM (SELECT password_hash p FROM users"
        " WHERE username = 'cat') t) WHERE username = 'adm'",
    )

    out_of_time = (401, "卡密已过期，请在设置页面重新绑定新卡密")
    assert out_of_time == error_of(await site.stranger.log_in("cat"))
    assert not await site.stranger.is_in()
    assert (200, {"ok": True}) == await Caller(site.front).log_in("adm")
    assert (200, {"ok": True}) == await Caller(site.front).log_in("cat", cardKey=f" {key} ")
    assert (200, {"ok": True}) == await Caller(site.front).log_in("cat")


async def test_a_login_with_a_card_key_binds_it(site: People) -> None:
    """Spaces around it do not count; what is wrong with it is told, and nobody is let in."""
    key, other, theirs = await new_keys(site.pool, 3)
    assert 200 == (await site.ann.post("/api/user/cardkey", {"cardKey": theirs}))[0]
    [old] = await new_keys(site.pool, age_days=8)

    assert (200, {"ok": True}) == await site.stranger.log_in("cat", cardKey=f"\t{key}\n")
    _, body = await site.stranger.get("/api/user/cardkey")
    assert key == body["cardKeyInfo"]["plainKey"]
    for wrong, text in (
        (theirs, "卡密已被使用"),
        (old, "卡密已过期"),
        ("x" * 16, "卡密无效或不存在"),
    ):
        caller = Caller(site.front)
        assert (401, text) == error_of(await caller.log_in("cat", cardKey=wrong))
        assert not await caller.is_in()
    assert (200, {"ok": True}) == await site.stranger.log_in("cat", cardKey=other)


async def test_a_login_whose_answer_was_lost_is_sent_again_as_it_was(site: People) -> None:
    """The key that it brings is theirs by then: they are let in, and it counts once."""
    [key] = await new_keys(site.pool)
    told = []
    for _ in range(2):
        assert (200, {"ok": True}) == await site.stranger.log_in("cat", cardKey=key)
        told.append((await site.stranger.get("/api/user/cardkey"))[1]["cardKeyInfo"]["expiresAt"])

    assert told[0] == told[1]


async def test_a_login_beside_a_change_of_the_password_does_not_outlive_it(
    site: People, redis: Redis
) -> None:
    """It knew the old password, and its session began after those there were had ended."""
    sessions, new_hash = site.front.site.sessions, await passwords.hashed("changed")
    async with transaction(site.pool) as cursor:
        await logins.give_password(cursor, sessions, "cat", new_hash)
        login = asyncio.create_task(site.stranger.log_in("cat"))

        async def begun() -> bool:
            return bool(await redis.keys("*session:*"))

        await until(begun, "the session is there")
    assert WRONG == error_of(await login)
    assert [] == await redis.keys("*session:*")


async def test_an_owner_who_is_barred_is_told_so(site: People) -> None:
    """Who was banned or deleted before USERNAME named them; an operator lets them in again."""
    owner = site.front.settings.username
    async with transaction(site.pool) as cursor:
        await barred.bar(cursor, owner, "deleted")
    password = site.front.settings.password
    assert (401, "用户被封禁") == error_of(await site.stranger.log_in(owner, password))
    async with transaction(site.pool) as cursor:
        await barred.lift(cursor, owner)
    assert (200, {"ok": True}) == await site.stranger.log_in(owner, password)


async def test_a_login_sent_again_binds_its_key_once_and_another_is_refused(site: People) -> None:
    """The Idempotency-Key goes with the binding; the password is asked for each time."""
    key, other = await new_keys(site.pool, 2)
    body = {"username": "cat", "password": PASSWORD, "cardKey": key}

    for _ in range(2):
        assert 200 == (await site.stranger.post("/api/login", body, idempotency_key="k"))[0]
    wrong = {**body, "password": "wrong"}
    assert WRONG == error_of(await site.stranger.post("/api/login", wrong, idempotency_key="k"))
    reused = {**body, "cardKey": other}
    assert (409, "Idempotency-Key 已用于另一个请求") == error_of(
        await site.stranger.post("/api/login", reused, idempotency_key="k")
    )


async def test_an_owners_session_ends_with_the_password_it_rests_on(site: People) -> None:
    """PASSWORD of the environment; nor does a user's session become the owner's."""
    owner, password = site.front.settings.username, site.front.settings.password
    tokens = {}
    for name, given in ((owner, password), ("cat", PASSWORD)):
        _, body = await site.stranger.log_in(name, given, bearer=True)
        tokens[name] = {"authorization": f"Bearer {body['token']}"}
        assert await Caller(site.front, **tokens[name]).is_in()
    changed = replace(site.front.settings, password="another")
    async with front(changed) as other:
        assert not await Caller(other, **tokens[owner]).is_in()
        assert await Caller(other, **tokens["cat"]).is_in()
    renamed = replace(site.front.settings, username="cat")
    async with front(renamed) as other:
        assert not await Caller(other, **tokens["cat"]).is_in()
        assert not await Caller(other, **tokens[owner]).is_in()


async def test_a_session_that_a_front_with_another_clock_took_for_ended_is_ended_too(
    site: People, redis: Redis
) -> None:
    """Its time in the list is a front's, its life is Redis': who is on no list lives on."""
    sessions = site.front.site.sessions
    tokens = [await sessions.begin("cat")]
    index = site.front.site.keys.sessions("cat")
    [(member, _)] = await redis.zrange(index, 0, -1, withscores=True)
    await redis.zadd(index, {member: now_ms() - 60_000})
    tokens.append(await sessions.begin("cat"))

    assert 2 == await sessions.end_all("cat")
    assert [None, None] == [await sessions.username_of(token) for token in tokens]


async def test_what_everywhere_means_is_true_or_false(site: People) -> None:
    """Who asks to be logged out everywhere and is understood otherwise stays logged in there."""
    status, body = await site.ann.post("/api/logout?everywhere=1")
    assert (400, "everywhere") == (status, body["field"])
    assert (200, {"ok": True}) == await site.ann.post("/api/logout?everywhere=false")


async def test_a_login_that_fails_at_its_end_leaves_the_session_that_was_there(
    site: People, near: Front
) -> None:
    """MySQL does not answer: who was logged in is so still."""
    one = Caller(near)
    assert 200 == (await one.log_in("cat"))[0]
    async with transaction(site.pool) as cursor:
        await cursor.execute("SELECT 1 FROM users WHERE username = 'cat' FOR UPDATE")
        assert 503 == (await one.log_in("cat"))[0]

    assert await one.is_in()


async def test_a_request_beside_a_log_out_makes_no_front_believe_in_the_session(
    near: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The front looks it up while it ends, and has to forget it afterwards."""
    one, other = Caller(near), Caller(near)
    await one.log_in("cat")
    other.client.cookies = one.client.cookies
    end = Sessions.end

    async def end_and_be_asked(sessions: Sessions, token: str) -> None:
        assert await other.is_in()
        await end(sessions, token)

    monkeypatch.setattr(Sessions, "end", end_and_be_asked)
    assert 200 == (await one.post("/api/logout"))[0]

    assert not await other.is_in()


async def test_who_was_let_in_again_is_in_with_the_login(site: People, near: Front) -> None:
    """Elsewhere, a moment ago: this front has not looked since, and a login makes it look."""
    for action in ("ban", "unban"):
        asked = {"action": action, "targetUsername": "cat"}
        assert 200 == (await site.owner.post("/api/admin/user", asked))[0]
        if action == "ban":
            await near.site.bars.look()
    assert "cat" in near.site.bars.names

    one = Caller(near)
    assert 200 == (await one.log_in("cat"))[0]
    assert await one.is_in()
