"""Account routes and hostile input: texts, types, numbers and bodies that nobody should send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from shared.accounts import passwords
from shared.settings import Settings
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    enrol,
    error_of,
    everything,
    new_keys,
    people,
    query,
)
from tests.fronts import Front

WRONG = (401, "用户名或密码错误")
SQL = (
    "' OR '1'='1",
    "'; DROP TABLE users; --",
    '" OR ""="',
    "\\' OR 1=1 -- ",
    "ann' UNION SELECT password_hash FROM users -- ",
    "%' OR username LIKE '%",
    "{0}%s%(a)s${jndi:ldap://x}",
    "1; SELECT SLEEP(10)",
)


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated, login_attempts_per_address=1_000_000) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


# --- hostile values -----------------------------------------------------------------------


def bodies(value: Any) -> list[tuple[str, str, str, Any]]:
    """(who, method, path, body): every text of every route, holding *value*."""
    target = {"targetUsername": "bob"}
    register = {"username": "newbie", "password": PASSWORD, "confirmPassword": PASSWORD}
    adjust = {"username": "ann", "type": "add", "amount": 1, "reason": "r"}
    requests: list[tuple[str, str, str, Any]] = [
        *(("stranger", "POST", "/api/login", {"username": "cat", "password": "x", n: value})
          for n in ("username", "password")),
        ("stranger", "POST", "/api/login",
         {"username": "cat", "password": PASSWORD, "cardKey": value}),
        *(("stranger", "POST", "/api/register", {**register, n: value})
          for n in (*register, "cardKey", "invitationCode")),
        ("ann", "POST", "/api/user/cardkey", {"cardKey": value}),
        *(("adm", "POST", "/api/admin/points/adjust", {**adjust, n: value})
          for n in ("username", "type")),
        *(("adm", "POST", "/api/admin/cardkey", {"action": "create", "type": "week", n: value})
          for n in ("action", "type")),
        *(("adm", "POST", "/api/admin/cardkey/system-mode", {n: value})
          for n in ("systemMode", "promotionCardKeyType")),
        ("adm", "PUT", "/api/admin/invitation-config",
         {"rewardPoints": 1, "redeemThreshold": 1, "cardKeyType": value}),
        *(("owner", "POST", "/api/admin/user", {"action": a, "targetUsername": value})
          for a in ("ban", "unban", "deleteUser", "setAdmin", "cancelAdmin")),
        ("adm", "POST", "/api/admin/user",
         {"action": "add", "targetUsername": value, "targetPassword": PASSWORD}),
        ("adm", "POST", "/api/admin/user", {"action": value, **target}),
        ("adm", "POST", "/api/admin/user",
         {"action": "batchUpdateUserGroups", "usernames": [value], "userGroups": []}),
        ("adm", "POST", "/api/admin/user",
         {"action": "userGroup", "groupAction": "delete", "groupName": value}),
        ("adm", "POST", "/api/admin/user",
         {"action": "userGroup", "groupAction": value, "groupName": "g"}),
    ]  # fmt: skip
    if isinstance(value, str):
        text = quote(value)
        requests += [
            ("adm", "DELETE", f"/api/admin/cardkey?hash={text}", None),
            *(("adm", "GET", f"/api/admin/cardkey{e}?{n}={text}", None)
              for e in ("", "/export") for n in ("status", "type", "boundTo", "page", "pageSize")),
            *(("adm", "GET", f"/api/admin/points/history?username=ann&{n}={text}", None)
              for n in ("page", "pageSize")),
            ("adm", "GET", f"/api/admin/points/history?username={text}", None),
            ("ann", "GET", f"/api/points/history?page={text}", None),
            ("ann", "POST", f"/api/logout?everywhere={text}", None),
        ]  # fmt: skip
    return requests


#: Those of the above that are right whatever their text is.
_HARMLESS = (
    *("/api/logout", "/api/admin/cardkey?boundTo", "/api/admin/cardkey/export?boundTo"),
    "/api/admin/points/history?username",
)


def is_harmless(path: str, body: Any) -> bool:
    if path == "/api/register":
        return "invitationCode" in body
    return path.startswith(_HARMLESS)


@pytest.mark.parametrize("text", SQL)
async def test_sql_in_any_text_is_text(site: People, text: str) -> None:
    """No error of ours, nobody let in, nothing changed; and the same stored and read again."""
    await new_keys(site.pool, 3)
    before = await everything(site.pool)
    for who, method, path, body in bodies(text):
        caller = Caller(site.front) if who == "stranger" else site.known_as(who)
        status, _ = await caller.send(method, path, body)
        if is_harmless(path, body or {}):
            assert status in {200, 400}, (path, body)
        else:
            assert status in {400, 401, 404, 429}, (path, body, status)
    await site.adm.post("/api/admin/user", {"action": "deleteUser", "targetUsername": "newbie"})
    await query(site.pool, "DELETE FROM barred_users")
    after = await everything(site.pool)
    after["users"] = [row for row in after["users"] if row[1] != "admin"]
    assert before == after


async def test_texts_are_stored_as_they_came(site: People) -> None:
    """Where a text may hold anything, it comes back letter by letter."""
    for text in (*SQL, "</script><script>", "日本\u202e語 🌒", "a\u0000b", "\\", "%5C"):
        change = {"targetUsername": "bob"}
        adjust = {"username": "ann", "type": "add", "amount": 1, "reason": text}
        for body in (
            {**change, "action": "updateUserGroups", "userGroups": [text]},
            {**change, "action": "updateUserApis", "enabledApis": [text]},
            {**change, "action": "linkOidc", "oidcSub": text},
            {**change, "action": "setTvboxToken", "tvboxToken": text},
        ):
            assert 200 == (await site.adm.post("/api/admin/user", body))[0], text
        assert 200 == (await site.adm.post("/api/admin/points/adjust", adjust))[0], text
        _, config = await site.adm.get("/api/admin/config")
        [bob] = [u for u in config["Config"]["UserConfig"]["Users"] if u["username"] == "bob"]
        assert ([text], [text], text, text) == (
            *(bob["tags"], bob["enabledApis"]),
            *(bob["oidcSub"], bob["tvboxToken"]),
        )
        rows = await query(site.pool, "SELECT reason FROM points_records")
        assert text.strip() in {reason for (reason,) in rows}
        await query(site.pool, "DELETE FROM points_records")
        await query(site.pool, "UPDATE user_points SET balance = 0")


#: What a field that holds no text is answered: in general, and where real fronts know better.
NO_TEXT = {
    *("参数格式错误", "用户名不能为空", "密码不能为空", "新密码不得为空"),
    *("缺少卡密", "积分数量必须是正整数", "奖励积分必须是正整数", "兑换门槛必须是正整数"),
}


@pytest.mark.parametrize(
    "value", [True, 0, -1, 1.5, 10**30, [], {}, [[]], {"$gt": ""}, ["' OR 1"]], ids=str
)
async def test_what_should_be_a_text_and_is_none_is_refused(site: People, value: Any) -> None:
    """400 on every route, and nothing was changed."""
    before = await everything(site.pool)
    for who, method, path, body in bodies(value):
        status, told = await site.known_as(who).send(method, path, body)
        assert (400, True) == (status, told["error"] in NO_TEXT), (path, body)
        assert told["field"]
    after = await everything(site.pool)
    after["users"] = [row for row in after["users"] if row[1] != "admin"]
    assert before == after


NOT_JSON = [
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"text"',
    b"true",
    b"username=cat&password=x",
    b'{"username":"\xff\xfe"}',
    b'{"username":"\xed\xa0\x80"}',
    b'{"username":"\\ud800"}',
    b'{"username":"\\udc00\\ud800"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'{"username":"a"}{"username":"b"}',
    b"[" * 60_000,
    b'{"username":' * 5_000,
    b'{"more":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b"\x00" * 100,
    b'{"username":"a\x00"}',
    b"<xml/>",
]


async def test_what_is_no_json_object_is_refused(site: People) -> None:
    """By every route that takes a body; deep nesting, half characters and other formats too."""
    before = await everything(site.pool)
    for who, method, path in (
        *(("stranger", "POST", path) for path in ("/api/login", "/api/register")),
        *(("ann", "POST", "/api/change-password"), ("ann", "POST", "/api/user/cardkey")),
        ("ann", "POST", "/api/redeem/cardkey"),
        *(("adm", "POST", f"/api/admin/{end}") for end in ("user", "cardkey", "points/adjust")),
        *(("adm", "PUT", f"/api/admin/{end}") for end in ("config", "invitation-config")),
    ):
        for body in NOT_JSON:
            answer = await site.known_as(who).send(method, path, body)
            # Of a field that nobody reads nobody looks at the letters: then another is missing.
            assert 400 == answer[0], (path, body[:40])
    assert before == await everything(site.pool)


async def test_of_a_key_that_comes_twice_the_last_counts(site: People) -> None:
    """For all checks alike: nothing is checked by one value and done with the other."""
    body = (
        b'{"username":"admin","username":"newbie","password":"123456","confirmPassword":"123456"}'
    )
    assert 200 == (await site.stranger.post("/api/register", body))[0]
    back = (
        b'{"username":"newbie2","username":"admin","password":"123456","confirmPassword":"123456"}'
    )
    assert (400, "该用户名已被使用") == error_of(await site.stranger.post("/api/register", back))
    adjust = b'{"username":"ann","type":"add","amount":5,"amount":-5,"reason":"r"}'
    answer = await site.adm.post("/api/admin/points/adjust", adjust)
    assert (400, "积分数量必须是正整数") == error_of(answer)


async def test_passwords_have_bounds(site: People) -> None:
    """A megabyte is not read, 1,025 bytes are not hashed; neither is anybody's password."""
    assert 413 == (await site.stranger.log_in("cat", "x" * 1_000_000))[0]
    assert 413 == (await site.stranger.register("newbie", "x" * 1_000_000))[0]
    for name in ("cat", "admin", "nobody"):
        for password in ("x" * 1_025, "x" * 60_000, "\u0000", PASSWORD + "\u0000", "密" * 342):
            assert error_of(await site.stranger.log_in(name, password)) == WRONG
    for path, field in (("/api/change-password", "newPassword"),):
        assert (400, "密码无效") == error_of(await site.ann.post(path, {field: "x" * 1_025}))
        assert 413 == (await site.ann.post(path, {field: "x" * 1_000_000}))[0]


# --- bodies as servers would not send them ------------------------------------------------------


async def raw(site: Front, chunks: list[bytes], *headers: tuple[bytes, bytes]) -> tuple[int, int]:
    """(status, chunks that were read) of a POST to login, as bare ASGI."""
    sent: list[Any] = []
    waiting = list(chunks)

    async def receive() -> dict[str, Any]:
        part = waiting.pop(0) if waiting else b""
        if part == b"GONE":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/login",
        "raw_path": b"/api/login",
        "root_path": "",
        "query_string": b"",
        "client": ("192.0.2.1", 1),
        "server": ("front.test", 80),
        "headers": [(b"host", b"front.test"), *headers],
        "state": {},
    }
    await site.app(scope, receive, send)
    return sent[0]["status"], len(chunks) - len(waiting)


GOOD = orjson.dumps({"username": "cat", "password": PASSWORD})


@pytest.mark.parametrize(
    ("chunks", "length", "expected"),
    [
        ([GOOD], None, (200, 1)),
        ([GOOD[:5], b"", GOOD[5:]], None, (200, 3)),
        ([GOOD], b"5", (200, 1)),  # what came counts
        ([GOOD], b"", (200, 1)),
        ([GOOD], b"abc", (200, 1)),
        ([GOOD], b"-1", (200, 1)),
        ([GOOD], b"+5", (200, 1)),
        ([GOOD], b"1e9", (200, 1)),
        ([GOOD], b"\xb2", (200, 1)),
        ([GOOD], b"10000000", (413, 0)),
        ([GOOD], b"9" * 5_000, (413, 0)),
        ([b"x" * 10_000_000], None, (413, 1)),
        ([b" " * 65_000] * 100, None, (413, 2)),
        ([b" " * 65_000] * 100, b"10", (413, 2)),
        ([GOOD[:5], b"GONE"], None, (499, 2)),
    ],
)
async def test_a_body_is_read_within_bounds_whatever_its_length_claims(
    site: People, chunks: list[bytes], length: bytes | None, expected: tuple[int, int]
) -> None:
    """And no further: ten megabytes cost nobody ten megabytes."""
    headers = [] if length is None else [(b"content-length", length)]

    assert expected == await raw(site.front, chunks, *headers)
