"""/api/register and /api/change-password: what is checked in which order, and what is made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.accounts import admin_config
from shared.accounts.attempts import Attempts
from shared.accounts.sessions import Sessions
from shared.accounts.users import NO_PASSWORD
from shared.errors import StoreDown
from shared.keys import Keys
from shared.settings import Settings
from shared.times import DAY_MS
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    configure,
    enrol,
    error_of,
    everything,
    give_points,
    new_keys,
    people,
    query,
    signed,
    without_signed_cookies,
)
from tests.fronts import Front, events_in
from tests.plays import record

PATH = "/api/register"
NEW = {"username": "newbie", "password": PASSWORD, "confirmPassword": PASSWORD}
DONE = {"ok": True, "message": "注册成功", "needDelay": False, "cardKeyInfo": None}
NAME_RULE = "用户名只能包含字母、数字、下划线，长度3-20位"
TAKEN = (400, "该用户名已被注册")


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


@pytest.fixture(name="near")
async def _near(site: People) -> AsyncIterator[Front]:
    async with without_signed_cookies(site) as near:
        yield near


async def code_of(site: People, name: str) -> str:
    [(code,)] = await query(
        site.pool, "SELECT invitation_code FROM user_points WHERE username = %s", name
    )
    return str(code)


async def test_who_registers_is_logged_in_and_has_an_account(site: People) -> None:
    """Both cookies, no points yet, and an invitation code of 16 letters and digits."""
    answer = await site.stranger.answer("POST", PATH, NEW)

    assert (200, DONE) == (answer.status_code, answer.json())
    cookies = sorted(each.partition("=")[0] for each in answer.headers.get_list("set-cookie"))
    assert ["moonwake_session", "user_auth"] == cookies
    status, info = await site.stranger.get("/api/invitation/info")
    assert (200, 0, 0, 0) == (status, info["totalInvites"], info["totalRewards"], info["balance"])
    assert info["code"].isalnum()
    assert 16 == len(info["code"])
    [(stored, role)] = await query(
        site.pool, "SELECT password_hash, role FROM users WHERE username = 'newbie'"
    )
    assert ("user", True) == (role, stored.startswith("$argon2id$"))
    assert (200, {"ok": True}) == await Caller(site.front).log_in("newbie")


#: Each of the first four breaks all rules after its own, too.
BAD = [
    ({"username": "", "password": "", "confirmPassword": "x"}, "用户名不能为空"),
    ({"username": "é", "password": "", "confirmPassword": "x"}, "密码不能为空"),
    ({"username": "é", "password": "short", "confirmPassword": "x"}, "两次输入的密码不一致"),
    ({"username": "é", "password": "short", "confirmPassword": "short"}, "密码长度至少6位"),
    ({"username": "admin"}, "该用户名已被使用"),
    ({"username": "ADMIN"}, "该用户名已被使用"),
    ({"username": "aDmIn"}, "该用户名已被使用"),
    ({"username": "ab"}, NAME_RULE),
    ({"username": "a" * 21}, NAME_RULE),
    ({"username": "new bie"}, NAME_RULE),
    ({"username": "newbie "}, NAME_RULE),
    ({"username": " newbie"}, NAME_RULE),
    ({"username": "newbie\n"}, NAME_RULE),
    ({"username": "newbie\u0000"}, NAME_RULE),
    ({"username": "\u0430nn"}, NAME_RULE),  # Cyrillic
    ({"username": "\uff41\uff4e\uff4e"}, NAME_RULE),  # full width
    ({"username": "adm\u0131n"}, NAME_RULE),  # without its dot
    ({"username": "ann\u200b"}, NAME_RULE),
    ({"username": "\u0663\u0663\u0663"}, NAME_RULE),  # digits, but not ours
    ({"username": "ann"}, TAKEN[1]),
    ({"username": "Ann"}, TAKEN[1]),
    ({"username": "ANN"}, TAKEN[1]),
    ({"password": "x" * 1_025, "confirmPassword": "x" * 1_025}, "密码无效"),
    ({"password": "密" * 342, "confirmPassword": "密" * 342}, "密码无效"),
    ({"cardKey": "A" * 16}, "卡密无效或不存在"),
]


async def test_what_is_wrong_is_told_in_the_order_of_real_front_ends(site: People) -> None:
    """400 with its text; there is no user afterwards, no key, no session."""
    before = await everything(site.pool)
    for changes, expected in BAD:
        answer = await site.stranger.post(PATH, {**NEW, **changes})
        assert (400, expected) == error_of(answer), changes

    assert before == await everything(site.pool)
    assert not await site.stranger.is_in()


async def test_the_longest_password_and_name_are_taken(site: People) -> None:
    """1,024 bytes of it, and the shortest too."""
    for name, password in (("a" * 20, "x" * 1_024), ("abc", "六位密码六位"), ("a_1", "x" * 6)):
        assert (200, DONE) == await Caller(site.front).register(name, password)
        assert (200, {"ok": True}) == await Caller(site.front).log_in(name, password)


# --- what the configuration says ------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (True, False, "operation", False)),
        ({"UserConfig": {"AllowRegister": False}}, (False, False, "operation", False)),
        ({"UserConfig": {"AllowRegister": "no"}}, (True, False, "operation", False)),
        ({"CardKeyConfig": {"enabled": True}}, (True, True, "operation", True)),
        (
            {"CardKeyConfig": {"enabled": True, "systemMode": "promotion"}},
            (True, True, "promotion", False),
        ),
        ({"UserConfig": [], "CardKeyConfig": "junk"}, (True, False, "operation", False)),
    ],
)
async def test_the_page_is_told_what_registration_asks_for(
    site: People, config: dict[str, Any], expected: Any
) -> None:
    """Everybody may ask; what the document does not say, or says in a wrong way, is the default."""
    await configure(site.pool, **config)
    names = ("allowRegister", "cardKeyEnabled", "systemMode", "showCardKeyInput")

    assert (200, dict(zip(names, expected, strict=True))) == await site.stranger.get(
        "/api/register/config"
    )


async def test_closed_registration_says_so_first(site: People) -> None:
    """403 whatever else is wrong."""
    await configure(
        site.pool,
        UserConfig={"AllowRegister": False},
        CardKeyConfig={"enabled": True, "requireCardKeyOnRegister": True},
    )
    for body in ({}, NEW, {"username": "ann"}):
        answer = await site.stranger.post(PATH, body)
        assert (403, "管理员已关闭用户注册功能") == error_of(answer)


async def test_a_card_key_may_be_required(site: People) -> None:
    """It is asked for before anything else, and bound with the registration or not at all."""
    await configure(site.pool, CardKeyConfig={"enabled": True, "requireCardKeyOnRegister": True})
    key, other = await new_keys(site.pool, 2)

    for missing in ({}, NEW, {**NEW, "cardKey": ""}, {**NEW, "cardKey": " \t"}):
        assert (400, "卡密不能为空") == error_of(await site.stranger.post(PATH, missing))
    status, body = await site.stranger.register("newbie", cardKey=f" {key}\n")
    assert (200, key, "admin_created") == (
        status,
        body["cardKeyInfo"]["plainKey"],
        body["cardKeyInfo"]["source"],
    )
    assert (400, "卡密已被使用") == error_of(
        await Caller(site.front).register("second", cardKey=key)
    )
    assert TAKEN == error_of(await Caller(site.front).register("newbie", cardKey=other))
    assert [("unused",)] == await query(
        site.pool, "SELECT status FROM card_keys WHERE plain_key = %s", other
    )


@pytest.mark.parametrize(("kind", "days"), [("week", 7), ("year", 365), ("junk", 7)])
async def test_promotion_gives_everybody_a_key(site: People, kind: str, days: int) -> None:
    """Of the configured type, a week where that is none; no key is asked for."""
    card_keys = {"enabled": True, "requireCardKeyOnRegister": True, "systemMode": "promotion"}
    await configure(site.pool, CardKeyConfig={**card_keys, "promotionCardKeyType": kind})
    _, body = await site.stranger.register("newbie")
    info = body["cardKeyInfo"]

    assert ("promotion_register", days) == (info["source"], info["daysRemaining"])
    assert days * DAY_MS == info["expiresAt"] - info["boundAt"]
    _, held = await site.stranger.get("/api/cardkeys/my")
    assert [("promotion_register", "used")] == [
        (key["source"], key["status"]) for key in held["cardKeys"]
    ]


async def test_who_brings_a_key_under_promotion_binds_that_one(site: People) -> None:
    """And gets none beside it."""
    await configure(site.pool, CardKeyConfig={"systemMode": "promotion"})
    [key] = await new_keys(site.pool, 1, "month")
    _, body = await site.stranger.register("newbie", cardKey=key)

    assert key == body["cardKeyInfo"]["plainKey"]
    assert [(1,)] == await query(site.pool, "SELECT COUNT(*) FROM card_keys")


# --- invitations ----------------------------------------------------------------------


async def test_an_invitation_is_rewarded_once_per_address(site: People) -> None:
    """The second from there is listed and not rewarded; a code of nobody is ignored."""
    code = await code_of(site, "ann")
    for name, address, invited_by in (
        ("first", "198.51.100.7", f" {code} "),
        ("second", "198.51.100.7", code),
        ("third", "198.51.100.8", code),
        ("fourth", "198.51.100.9", "NOBODYSCODE00000"),
        ("fifth", "198.51.100.10", code.lower()),
    ):
        caller = Caller(site.front, address=address)
        assert (200, DONE) == await caller.register(name, invitationCode=invited_by)

    _, info = await site.ann.get("/api/invitation/info")
    assert (3, 200, 200) == (info["totalInvites"], info["totalRewards"], info["balance"])
    _, history = await site.ann.get("/api/points/history")
    assert [("earn", 100, "邀请好友注册", "third"), ("earn", 100, "邀请好友注册", "first")] == [
        (each["type"], each["amount"], each["reason"], each["relatedUser"])
        for each in history["history"]
    ]


async def test_without_an_address_there_is_no_reward(site: People) -> None:
    """Of a Unix socket, say, nobody knows who is behind it."""
    caller = Caller(site.front, address=None, x_forwarded_for="198.51.100.7")
    await caller.register("newbie", invitationCode=await code_of(site, "ann"))

    assert [("", 0)] == await query(site.pool, "SELECT ip_address, rewarded FROM invitations")


async def test_a_failed_registration_rewards_nobody(site: People) -> None:
    """The address is not used up either."""
    code = await code_of(site, "ann")
    before = await everything(site.pool)
    answer = await site.stranger.register("newbie", invitationCode=code, cardKey="A" * 16)

    assert (400, "卡密无效或不存在") == error_of(answer)
    assert before == await everything(site.pool)


# --- names that were there before ------------------------------------------------------


async def test_who_takes_a_deleted_users_name_finds_nothing_of_theirs(
    site: People, near: Front, redis: Redis
) -> None:
    """Neither points, nor records, nor their login: that session is over."""
    stranger = Caller(near)
    await stranger.register("newbie")
    former = Caller(near, cookie=f"moonwake_session={stranger.client.cookies['moonwake_session']}")
    await give_points(site.pool, "newbie", 100)
    await site.front.save("newbie", "s+1", record())
    keys = Keys(site.front.settings.key_prefix)
    kept = {
        name: await redis.dump(name)
        for name in [keys.sessions("newbie"), *(await redis.keys(f"{keys.prefix}session:*"))]
    }
    delete = {"action": "deleteUser", "targetUsername": "newbie"}
    assert (200, {"ok": True}) == await site.adm.post("/api/admin/user", delete)
    for name, value in kept.items():  # as if Redis had been away at that moment
        await redis.restore(name, 60_000, value)
    site.front.site.bars.names = {}  # as on a front that does not know yet
    assert 200 == (await site.front.save("newbie", "s+2", record())).status_code
    caller = Caller(near)

    assert (200, DONE) == await caller.register("newbie", "another password")
    assert (200, {"balance": 0}) == await caller.get("/api/points/balance")
    assert (200, {}) == await caller.get("/api/playrecords")
    assert not await former.is_in()


async def test_who_never_had_a_password_sets_none(site: People) -> None:
    """A signed cookie and one play make a user: that is no way past a closed registration."""
    await configure(site.pool, UserConfig={"AllowRegister": False})
    await enrol(site.pool, "met", password_hash=NO_PASSWORD)
    before = await everything(site.pool)
    answer = await signed(site.front, "met").post("/api/change-password", {"newPassword": "secret"})

    assert (400, "该账号没有密码，请联系管理员设置") == error_of(answer)
    assert before == await everything(site.pool)
    change = {"action": "changePassword", "targetUsername": "met", "targetPassword": PASSWORD}
    assert (200, {"ok": True}) == await site.adm.post("/api/admin/user", change)
    assert (200, {"ok": True}) == await site.stranger.log_in("met")


@pytest.mark.parametrize("headers", [{}, {"idempotency_key": "k"}])
async def test_who_is_registered_when_redis_goes_is_told_so(
    site: People, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """Without a session, to log in: a 503 would be half, as the name is taken from now on."""

    async def away(*_: Any) -> str:
        raise StoreDown("Redis: away")

    for part, name in ((Sessions, "begin"), (Attempts, "succeeded")):
        monkeypatch.setattr(part, name, away)
    answer = await site.stranger.answer("POST", PATH, NEW, **headers)

    assert (200, DONE) == (answer.status_code, answer.json())
    [cookie] = answer.headers.get_list("set-cookie")
    assert cookie.startswith("user_auth=")


async def test_registrations_and_new_passwords_have_limits(migrated: Settings) -> None:
    """Told before any work is done for them, with when to come again."""
    async with people(migrated, registrations_per_address=1) as site:
        assert TAKEN == error_of(await site.stranger.register("bob"))
        answer = await site.stranger.answer("POST", PATH, NEW)
        assert (429, True) == (answer.status_code, 0 < int(answer.headers["retry-after"]) <= 900)
        assert (200, DONE) == await Caller(site.front, address="198.51.100.7").register("newbie")

        change = {"newPassword": "x"}
        told = [await site.ann.post("/api/change-password", change) for _ in range(11)]
        assert [(200, {"ok": True})] * 10 == told[:10]
        assert (429, "尝试次数过多，请稍后再试") == error_of(told[10])


async def test_many_who_ask_are_one_reading_of_the_document(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold megabytes, and anybody may ask; what this front changes counts at once."""
    read, reads = admin_config.read, 0

    async def counted(cursor: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(cursor)

    monkeypatch.setattr(admin_config, "read", counted)
    path = "/api/register/config"
    answers = await asyncio.gather(*(site.stranger.get(path) for _ in range(50)))
    assert [(200, True)] * 50 == [(status, body["allowRegister"]) for status, body in answers]
    assert 1 == reads
    _, stored = await site.adm.get("/api/admin/config")
    closed = {"config": {"UserConfig": {"AllowRegister": False}}, "version": stored["version"]}
    assert 200 == (await site.adm.put("/api/admin/config", closed))[0]
    assert not (await site.stranger.get(path))[1]["allowRegister"]
    mode = {"systemMode": "promotion"}
    assert 200 == (await site.adm.post("/api/admin/cardkey/system-mode", mode))[0]
    assert "promotion" == (await site.stranger.get(path))[1]["systemMode"]


async def test_registering_a_banned_users_name_harms_them_in_nothing(
    site: People, redis: Redis
) -> None:
    """A stranger may try as often as they like: the records stay, and so does the ban."""
    await site.front.save("bob", "s+1", record())
    await site.adm.post("/api/admin/user", {"action": "ban", "targetUsername": "bob"})
    for name in ("bob", "Bob"):
        assert TAKEN == error_of(await site.stranger.register(name))
        add = {"action": "add", "targetUsername": name, "targetPassword": "x"}
        assert TAKEN == error_of(await site.adm.post("/api/admin/user", add))

    assert ["save"] == [event["op"] for event in await events_in(site.front, redis)]
    assert not await site.bob.is_in()
    assert {"bob": "banned"} == site.front.site.bars.names


# --- sent twice -----------------------------------------------------------------------


async def test_a_registration_sent_again_is_answered_the_same(site: People) -> None:
    """Also with a key and an invitation; the second answer is a login as well."""
    [key] = await new_keys(site.pool)
    body = {**NEW, "cardKey": key, "invitationCode": await code_of(site, "ann")}
    first = await site.stranger.post(PATH, body, idempotency_key="k")
    before = await everything(site.pool)
    caller = Caller(site.front)

    assert first == await caller.post(PATH, body, idempotency_key="k")
    assert before == await everything(site.pool)
    assert await caller.is_in()
    assert TAKEN == error_of(await caller.post(PATH, body))
    other = {**body, "username": "second"}
    assert (409, "Idempotency-Key 已用于另一个请求") == error_of(
        await caller.post(PATH, other, idempotency_key="k")
    )


@pytest.mark.parametrize(
    ("become", "expected"),
    [
        ({"action": "changePassword", "targetPassword": "changed"}, (401, "用户名或密码错误")),
        ({"action": "deleteUser"}, (401, "用户名或密码错误")),
        ({"action": "ban"}, (401, "用户被封禁")),
    ],
)
async def test_a_registration_sent_again_later_is_no_way_in(
    site: People, redis: Redis, become: dict[str, str], expected: Any
) -> None:
    """By then the password may be another one, or the user gone or banned: and stays so."""
    await site.stranger.post(PATH, NEW, idempotency_key="k")
    await site.adm.post("/api/admin/user", {**become, "targetUsername": "newbie"})
    barred = dict(site.front.site.bars.names)
    sessions = await redis.keys("*session:*")
    caller = Caller(site.front)

    assert expected == error_of(await caller.post(PATH, NEW, idempotency_key="k"))
    assert not await caller.is_in()
    assert barred == site.front.site.bars.names
    assert sessions == await redis.keys("*session:*")


# --- changing a password ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "body", "expected"),
    [
        ("ann", {}, (400, "新密码不得为空")),
        ("ann", {"newPassword": ""}, (400, "新密码不得为空")),
        ("owner", {"newPassword": ""}, (400, "新密码不得为空")),
        ("owner", {"newPassword": "secret2"}, (403, "站长不能通过此接口修改密码")),
        ("ann", {"newPassword": "x" * 1_025}, (400, "密码无效")),
        ("ann", {"newPassword": None}, (400, "新密码不得为空")),
        ("ann", {"newPassword": "x", "username": "bob"}, (200, {"ok": True})),
        ("adm", {"newPassword": "new password"}, (200, {"ok": True})),
    ],
)
async def test_a_password_is_changed_by_whose_it_is(
    site: People, who: str, body: Any, expected: Any
) -> None:
    """The owner's is the environment's; a name in the body is nobody's business."""
    before = await everything(site.pool)
    answer = await site.known_as(who).post("/api/change-password", body)
    after = await everything(site.pool)

    assert expected == error_of(answer)
    changed = {row[1] for row in {*map(tuple, after["users"])} - {*map(tuple, before["users"])}}
    assert ({who} if expected[0] == 200 else set()) == changed - {"admin"}


async def test_names_that_a_site_brought_along_keep_others_out(site: People) -> None:
    """Two that differ by case live on, and nobody gets a third."""
    await enrol(site.pool, "Old_One")
    await query(site.pool, "INSERT INTO users (username, password_hash) VALUES ('old_one', '!')")

    assert TAKEN == error_of(await site.stranger.register("OLD_ONE"))


CLOSED: dict[str, Any] = {"UserConfig": {"AllowRegister": False}}
KEY_REQUIRED: dict[str, Any] = {
    "CardKeyConfig": {"enabled": True, "requireCardKeyOnRegister": True}
}


@pytest.mark.parametrize("rules", [CLOSED, KEY_REQUIRED], ids=["closed", "key-required"])
async def test_who_was_registered_is_told_so_again_whatever_the_rules_are_by_now(
    site: People, rules: dict[str, Any]
) -> None:
    """The answer was lost, and the rules changed: it was made under those of before."""
    assert (200, DONE) == await site.stranger.post(PATH, NEW, idempotency_key="k")
    await configure(site.pool, **rules)
    site.front.site.policy.forget()

    assert (200, DONE) == await Caller(site.front).post(PATH, NEW, idempotency_key="k")
    other = {**NEW, "username": "another"}
    assert 200 != (await Caller(site.front).post(PATH, other, idempotency_key="k"))[0]
    assert 200 != (await Caller(site.front).post(PATH, other, idempotency_key="j"))[0]


async def test_the_key_of_a_registration_spares_no_other_request_the_rules(site: People) -> None:
    """It stands for the request that it came with."""
    assert (200, DONE) == await site.stranger.post(PATH, NEW, idempotency_key="k")
    other = {**NEW, "confirmPassword": "another"}
    assert (400, "两次输入的密码不一致") == error_of(
        await site.stranger.post(PATH, other, idempotency_key="k")
    )


async def test_a_registration_sent_again_lets_nobody_in_whom_a_login_would_not(
    site: People,
) -> None:
    """It is one then: a membership that is over says no to both."""
    [key] = await new_keys(site.pool)
    body = {**NEW, "cardKey": key}
    assert 200 == (await site.stranger.post(PATH, body, idempotency_key="k"))[0]
    for table in ("memberships", "user_card_keys"):
        await query(site.pool, f"UPDATE {table} SET expires_at = '2020-01-01 00:00:00'")
    await query(site.pool, "UPDATE card_keys SET expires_at = '2020-01-01 00:00:00'")

    refused = error_of(await Caller(site.front).log_in("newbie"))
    again = Caller(site.front)
    assert refused == error_of(await again.post(PATH, body, idempotency_key="k"))
    assert 401 == refused[0]
    assert not await again.is_in()
