"""Account routes against somebody hostile: nothing is let in, changed, told or broken."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from redis.asyncio import Redis

from api import gate
from shared.accounts import passwords
from shared.accounts.card_keys import hash_of
from shared.cookies import sign, signature_of
from shared.settings import Settings
from tests.callers import (
    NOBODY_KNOWS,
    PASSWORD,
    Caller,
    People,
    Told,
    enrol,
    error_of,
    everything,
    give_points,
    new_keys,
    people,
    query,
    signed,
)
from tests.fronts import JSON, front

WRONG = (401, "用户名或密码错误")
LIMITED = (429, "尝试次数过多，请稍后再试")


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated, login_attempts_per_address=1_000_000) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


# --- logins that are none ----------------------------------------------------------------


async def test_a_cookie_counts_only_with_the_signature_of_its_name(site: People) -> None:
    """Not with another's, a part of it, one of another secret, or none; roles are never asked."""
    settings = site.front.settings
    good = signature_of("adm", settings.password)
    claims: list[Any] = [
        {"username": "admin", "signature": good},
        {"username": "adm ", "signature": good},
        {"username": "ADM", "signature": good},
        {"username": "adm\u0000", "signature": good},
        {"username": ["adm"], "signature": good},
        {"username": {"$ne": ""}, "signature": good},
        {"username": "adm", "signature": good[:-1]},
        {"username": "adm", "signature": good[:32]},
        {"username": "adm", "signature": good + "0"},
        {"username": "adm", "signature": good.upper()},
        {"username": "adm", "signature": ""},
        {"username": "adm", "signature": None},
        {"username": "adm", "signature": [good]},
        {"username": "adm", "signature": True},
        {"username": "adm"},
        {"username": "", "signature": signature_of("", settings.password)},
        {"username": "adm", "signature": signature_of("adm", "")},
        {"username": "adm", "signature": signature_of("adm", "secret2")},
        {"role": "owner", "signature": good},
        [{"username": "adm", "signature": good}],
    ]
    for claim in claims:
        text = quote(quote(orjson.dumps(claim).decode(), safe=""), safe="")
        for name in ("user_auth", "auth"):
            caller = Caller(site.front, cookie=f"{name}={text}")
            assert (401, "Unauthorized") == await caller.get("/api/admin/config"), claim
    twice = f'{{"username":"admin","username":"ann","signature":"{signature_of("ann", "secret")}"}}'
    caller = Caller(site.front, cookie=f"user_auth={quote(twice, safe='')}")
    assert (401, "权限不足") == error_of(await caller.get("/api/admin/config"))


async def test_a_session_id_of_the_clients_own_is_never_adopted(site: People, redis: Redis) -> None:
    """Whoever planted it before the login is not logged in by it afterwards."""
    planted = "A" * 43
    victim = Caller(site.front)
    victim.client.cookies.set("moonwake_session", planted, domain="front.test")
    assert (200, {"ok": True}) == await victim.log_in("cat")

    tokens = [cookie.value for cookie in victim.client.cookies.jar if "session" in cookie.name]
    assert planted not in tokens
    for headers in (
        {"cookie": f"moonwake_session={planted}"},
        {"authorization": f"Bearer {planted}"},
    ):
        assert not await Caller(site.front, **headers).is_in()
    assert 1 == len(await redis.keys("*session:*"))


async def test_the_session_before_a_login_ends_with_it(site: People) -> None:
    """Who knew the token from before has nothing any more."""
    caller = Caller(site.front)
    await caller.log_in("cat")
    before = caller.client.cookies["moonwake_session"]
    await caller.log_in("cat")

    assert before != caller.client.cookies["moonwake_session"]
    assert not await Caller(site.front, cookie=f"moonwake_session={before}").is_in()


async def test_no_token_but_a_sessions_own_is_one(site: People) -> None:
    """Nothing in it reaches other keys, whatever its length and letters."""
    await site.stranger.log_in("cat")
    token = site.stranger.client.cookies["moonwake_session"]
    for wrong in (
        *("", " ", "*", "?" * 43, "..", "\\", "%00", "[a-z]*", token[:-1], token + "A"),
        *(token.swapcase(), "x" * 100_000, "\xff" * 43, f"{token},{token}"),
    ):
        given: Any = {"cookie": f"moonwake_session={wrong}".encode("latin-1")}
        assert not await Caller(site.front, **given).is_in(), wrong[:50]
        bearer: Any = {"authorization": f"Bearer {wrong}".encode("latin-1")}
        assert not await Caller(site.front, **bearer).is_in(), wrong[:50]
    assert await Caller(site.front, authorization=f"bEARER  {token} ").is_in()


async def test_logins_do_not_leak_from_one_caller_to_another(site: People) -> None:
    """What a front remembers of a cookie belongs to the whole of what came with it."""
    cookie = site.front.cookie("ann")["cookie"]
    mixed = Caller(site.front, cookie=cookie, authorization="Bearer junk")
    for _ in range(3):
        assert await Caller(site.front, cookie=cookie).is_in()
        assert not await mixed.is_in()
        assert not await Caller(site.front, cookie=cookie[:-1]).is_in()
        assert not await site.stranger.is_in()


async def test_a_login_counts_wherever_it_stands_and_long_ones_are_not_remembered(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may split cookies into several headers; nobody fills the front with long ones.

    Nor with many.
    """
    cookie = site.front.cookie("ann")["cookie"]
    for others in ([cookie, "theme=dark"], ["theme=dark", cookie], [cookie, "x=" + "y" * 5_000]):
        given = [("cookie", each) for each in others]
        answer = await site.stranger.client.get("/api/points/balance", headers=given)
        assert 200 == answer.status_code

    assert 2 == len(site.front.site.gate._known)
    monkeypatch.setattr(gate, "_REMEMBERED_MAX", 3)
    for number in range(4):
        assert await Caller(site.front, cookie=f"{cookie}; n={number}").is_in()
    assert 3 >= len(site.front.site.gate._known)


# --- somebody else's name ----------------------------------------------------------------


async def test_a_name_in_the_body_or_query_is_not_who_asks(site: People) -> None:
    """On every route of users: what happens, happens to the caller."""
    names = ("username", "user", "targetUsername", "userName", "inviter", "boundTo", "admin")
    other = dict.fromkeys(names, "ann")
    [key] = await new_keys(site.pool)
    await give_points(site.pool, "ann", 1_000)
    before = {row["username"]: row for row in await accounts_of(site)}["ann"]
    requests: list[tuple[str, str, Any]] = [
        ("POST", "/api/change-password", {"newPassword": "changed", **other}),
        ("POST", "/api/user/cardkey", {"cardKey": key, **other}),
        ("POST", "/api/redeem/cardkey", other),
        ("POST", "/api/logout?everywhere=true", other),
    ]
    paths = (
        *("/api/user/cardkey", "/api/user/cardkeys", "/api/cardkeys/my", "/api/points/balance"),
        *("/api/points/history", "/api/invitation/info", "/api/user/welcome-banner"),
    )
    requests += [("GET", path, None) for path in paths]
    for method, path, body in requests:
        mark = "&" if "?" in path else "?"
        pollution = "&".join(f"{name}=ann" for name in names)
        answer = await site.bob.send(method, f"{path}{mark}{pollution}", body)
        assert 200 == answer[0], path
        assert "ann" not in str(answer), path

    assert before == {row["username"]: row for row in await accounts_of(site)}["ann"]
    assert [("bob",)] == await query(site.pool, "SELECT bound_to FROM card_keys")
    assert [(NOBODY_KNOWS,)] == await query(
        site.pool, "SELECT password_hash FROM users WHERE username = 'ann'"
    )


async def accounts_of(site: People) -> list[dict[str, Any]]:
    _, body = await site.adm.get("/api/admin/points/users")
    accounts: list[dict[str, Any]] = body["users"]
    return accounts


async def test_more_fields_than_there_are_make_nobody_more(site: People) -> None:
    """Registration takes no role, no points, no tags."""
    more: Any = {
        "role": "owner",
        "tags": ["vip"],
        "banned": False,
        "balance": 10**6,
        "enabledApis": ["x"],
    }
    await site.stranger.register("newbie", **more, password_hash="x", oidcSub="s")

    assert (401, "权限不足") == error_of(await site.stranger.get("/api/admin/config"))
    assert [("user", "[]", None, 0)] == await query(
        site.pool,
        "SELECT role, tags, oidc_sub, balance FROM users JOIN user_points USING (username)"
        " WHERE username = 'newbie'",
    )


# --- what a guesser learns ---------------------------------------------------------------


async def test_whoever_is_not_let_in_costs_the_same_work(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One password hash, whether there is such a user or not; and the same answer."""
    await enrol(site.pool, "dog", password_hash="plain text")
    await site.adm.post("/api/admin/user", {"action": "ban", "targetUsername": "bob"})
    work: list[str] = []
    hasher = passwords._HASHER

    class Counted:
        """Notes each piece of work."""

        def hash(self, given: bytes) -> str:
            work.append("hash")
            return hasher.hash(given)

        def verify(self, stored: str, given: bytes) -> bool:
            work.append("verify")
            return hasher.verify(stored, given)

    monkeypatch.setattr(passwords, "_HASHER", Counted())
    for name in ("nobody", "cat", "dog", "bob", "admin", "ADMIN", "cat ", "\u0441at", "x" * 60_000):
        before = len(work)
        answer = await Caller(site.front).log_in(name, "wrong", cardKey="A" * 16)
        assert (WRONG, 1) == (error_of(answer), len(work) - before), name


async def test_names_that_only_look_the_same_are_nobodys(site: People) -> None:
    """Neither case, nor trailing spaces, nor other alphabets: MariaDB would pad, we do not."""
    for name in ("Cat", "CAT", "cat ", " cat", "cat\u0000", "cat\u00a0", "\u0441at", "c\u0430t"):
        assert WRONG == error_of(await site.stranger.log_in(name)), name
        await enrol_none(site, name)
    assert not await site.stranger.is_in()


async def enrol_none(site: People, name: str) -> None:
    """Nobody can take such a name beside cat's."""
    assert 400 == (await site.stranger.register(name))[0]


async def test_a_card_key_is_judged_only_for_who_knows_the_password(site: People) -> None:
    """No answer tells a stranger whether a key exists, is used or has run out."""
    unused, used = await new_keys(site.pool, 2)
    [old] = await new_keys(site.pool, age_days=8)
    await site.ann.post("/api/user/cardkey", {"cardKey": used})
    before = await everything(site.pool)

    for name in ("cat", "nobody", "admin"):
        answers = [
            await Caller(site.front).log_in(name, "wrong", cardKey=key)
            for key in (unused, used, old, "A" * 16)
        ]
        assert [WRONG] * 4 == [error_of(answer) for answer in answers]
    after = await everything(site.pool)
    assert before == after


async def test_a_login_that_is_refused_tells_nothing_of_the_user(site: People) -> None:
    """Banned, expired, without a password, unknown: to who does not know it, all are one."""
    await enrol(site.pool, "dog", password_hash=await passwords.hashed(PASSWORD))
    [key] = await new_keys(site.pool)
    await signed(site.front, "dog").post("/api/user/cardkey", {"cardKey": key})
    for table in ("memberships", "user_card_keys"):
        await query(site.pool, f"UPDATE {table} SET expires_at = '2020-01-01'")
    await site.adm.post("/api/admin/user", {"action": "ban", "targetUsername": "cat"})
    answers = []
    for name in ("cat", "dog", "ann", "admin", "nobody"):
        answer = await site.stranger.answer(
            "POST", "/api/login", {"username": name, "password": "x"}
        )
        answers.append((answer.status_code, answer.content, {*answer.headers}))

    assert [answers[0]] * 5 == answers
    assert 401 == answers[0][0]


async def test_two_hundred_guesses_at_once_are_ten(migrated: Settings, redis: Redis) -> None:
    """The right one among them is of no use either, and the answer says when to come again."""
    async with people(migrated) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        guesses = ["wrong"] * 199 + [PASSWORD]
        spellings = ("cat", "CAT", "Cat", "cat ", "cat  ")
        guess = [
            site.stranger.answer(
                "POST", "/api/login", {"username": spellings[n % 5], "password": password}
            )
            for n, password in enumerate(guesses)
        ]
        answers = await asyncio.gather(*guess)
        statuses = sorted(answer.status_code for answer in answers)

        assert [401] * 10 + [429] * 190 == statuses
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert LIMITED[1] == limited.json()["error"]
        assert 800 < int(limited.headers["retry-after"]) <= 900
        assert LIMITED == error_of(await site.stranger.log_in("cat"))
        elsewhere = Caller(site.front, address="203.0.113.9")
        assert (200, {"ok": True}) == await elsewhere.log_in("cat")


async def test_a_registration_sent_again_is_no_way_to_try_passwords(migrated: Settings) -> None:
    """Who knows its Idempotency-Key gets as many guesses as at the login, and these are one."""
    async with people(migrated) as site:
        body = {"username": "newbie", "password": PASSWORD, "confirmPassword": PASSWORD}
        assert 200 == (await site.stranger.post("/api/register", body, idempotency_key="k"))[0]
        assert 200 == (await site.stranger.post("/api/register", body, idempotency_key="k"))[0]
        wrong = {**body, "password": "another", "confirmPassword": "another"}
        thief = Caller(site.front)
        answers = await asyncio.gather(
            *(thief.post("/api/register", wrong, idempotency_key="k") for _ in range(30))
        )
        assert LIMITED == error_of(await thief.post("/api/register", body, idempotency_key="k"))

        assert [409] * 10 + [429] * 20 == sorted(status for status, _ in answers)
        assert LIMITED == error_of(await thief.log_in("newbie"))
        elsewhere = Caller(site.front, address="203.0.113.9")
        assert (200, {"ok": True}) == await elsewhere.log_in("newbie")


async def test_an_address_has_a_limit_of_its_own(migrated: Settings) -> None:
    """Over all users; a login of one's own does not wash the other guesses away."""
    async with people(migrated, login_attempts_per_address=5) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        told: list[Told] = []
        for number in range(6):
            await site.stranger.log_in("cat")
            told.append(error_of(await site.stranger.log_in(f"user{number}", "x")))

        assert [WRONG] * 5 + [LIMITED] == told


# --- where a request says that it comes from ---------------------------------------------


async def address_kept(site: People, name: str, **headers: str) -> str:
    """The address that a registration with *headers* is noted with."""
    [(code,)] = await query(
        site.pool, "SELECT invitation_code FROM user_points WHERE username = 'ann'"
    )
    caller = Caller(site.front, address="192.0.2.77")
    body = {"username": name, "password": PASSWORD, "confirmPassword": PASSWORD}
    answer = await caller.post("/api/register", {**body, "invitationCode": code}, **headers)
    assert 200 == answer[0]
    [(address,)] = await query(
        site.pool, "SELECT ip_address FROM invitations WHERE invitee = %s", name
    )
    return str(address)


async def test_without_proxies_a_client_cannot_say_where_it_is(site: People) -> None:
    """A new address in each request brings neither rewards nor guesses."""
    for number in range(3):
        claim = f"198.51.100.{number}"
        kept = await address_kept(
            site, f"user{number}", X_Forwarded_For=claim, X_Real_IP=claim, Forwarded=f"for={claim}"
        )
        assert "192.0.2.77" == kept
    _, info = await site.ann.get("/api/invitation/info")
    assert (3, 100) == (info["totalInvites"], info["totalRewards"])
    told = [
        error_of(
            await Caller(site.front, x_forwarded_for=f"198.51.100.{number}").log_in("cat", "wrong")
        )
        for number in range(11)
    ]
    assert [WRONG] * 10 + [LIMITED] == told


async def test_behind_a_proxy_only_what_it_adds_counts(migrated: Settings) -> None:
    """What the client wrote stands to the left of it."""
    proxies = (ip_network("192.0.2.77/32"), ip_network("10.0.0.0/8"))
    async with people(migrated, trusted_proxies=proxies) as site:
        claims = {
            "198.51.100.1": "198.51.100.1",
            "1.1.1.1, 2.2.2.2, 198.51.100.2": "198.51.100.2",
            "1.1.1.1, 198.51.100.3, 10.0.0.1": "198.51.100.3",
            "junk, 198.51.100.4:1234": "198.51.100.4",
            "198.51.100.5, junk": "",
            "": "",
            "2001:db8::1": "2001:db8::1",
            "' OR 1=1 --": "",
        }
        for number, (claim, address) in enumerate(claims.items()):
            assert address == await address_kept(site, f"user{number}", X_Forwarded_For=claim), (
                claim
            )


# --- old requests ------------------------------------------------------------------------


async def test_a_kept_answer_logs_nobody_in_after_the_password_was_changed(site: People) -> None:
    """Neither a registration nor a change sent again by who once saw it."""
    body = {"username": "newbie", "password": PASSWORD, "confirmPassword": PASSWORD}
    await site.stranger.post("/api/register", body, idempotency_key="k")
    change = {"newPassword": "second password"}
    await site.stranger.post("/api/change-password", change, idempotency_key="c")
    await site.stranger.post("/api/change-password", {"newPassword": "third password"})
    thief = Caller(site.front)

    assert WRONG == error_of(await thief.post("/api/register", body, idempotency_key="k"))
    assert (401, "Unauthorized") == await thief.post(
        "/api/change-password", change, idempotency_key="c"
    )
    await site.stranger.post("/api/change-password", change, idempotency_key="c")
    assert error_of(await thief.log_in("newbie", "second password")) == WRONG
    assert (200, {"ok": True}) == await thief.log_in("newbie", "third password")


async def test_what_is_kept_of_a_request_holds_no_password(site: People) -> None:
    """Neither in plain text nor as a hash that somebody could try passwords on."""
    body = {"username": "newbie", "password": PASSWORD, "confirmPassword": PASSWORD}
    await site.stranger.post("/api/register", body, idempotency_key="k")
    add = {"action": "add", "targetUsername": "added", "targetPassword": PASSWORD}
    await site.adm.post("/api/admin/user", add, idempotency_key="k")
    rows = await query(site.pool, "SELECT id, fingerprint, result FROM operations")

    assert 2 == len(rows)
    assert PASSWORD not in str(rows)
    assert hash_of(orjson.dumps(add).decode()) not in str(rows)
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for _, fingerprint, _ in rows)


async def test_no_answer_of_an_account_is_cached(site: People) -> None:
    """Proxies have shown one user's list to another."""
    await site.stranger.log_in("cat")
    for path in ("/api/points/balance", "/api/user/cardkey", "/api/invitation/info"):
        assert "no-store" == (await site.ann.answer("GET", path)).headers["cache-control"]
    for path in ("/api/admin/config", "/api/admin/cardkey", "/api/admin/points/users"):
        assert "no-store" == (await site.adm.answer("GET", path)).headers["cache-control"]


async def test_another_secret_ends_all_signed_cookies(migrated: Settings) -> None:
    """Whoever changes PASSWORD logs everybody out who came by one."""
    async with front(replace(migrated, password="another secret")) as site:
        cookie = f"user_auth={sign('admin', 'owner', migrated.password, 0)}"
        answer = await Caller(site, cookie=cookie, **JSON).get("/api/points/balance")

    assert (401, "Unauthorized") == answer
