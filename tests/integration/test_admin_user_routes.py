"""/api/admin/user: every action, who may do it to whom, and what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from api.accounts import standings
from api.accounts.admin_users import ACTIONS
from shared.errors import StoreDown
from shared.mysql import transaction
from shared.settings import Settings
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    error_of,
    everything,
    give_points,
    new_keys,
    people,
    query,
    without_signed_cookies,
)
from tests.fronts import Front, events_in, front
from tests.plays import record

PATH = "/api/admin/user"
OK = (200, {"ok": True})
DENIED, SELF = (401, "权限不足"), (400, "不能对自己进行此操作")
UNKNOWN, NO_TARGET = (404, "目标用户不存在"), (400, "缺少目标用户名")
#: What each action needs beside its target.
NEEDS: dict[str, dict[str, Any]] = {
    "changePassword": {"targetPassword": PASSWORD},
    "updateUserApis": {"enabledApis": ["a"]},
    "updateUserGroups": {"userGroups": ["g"]},
    "linkOidc": {"oidcSub": "s"},
    "setTvboxToken": {"tvboxToken": "t"},
    "setShowAdultContent": {"showAdultContent": True},
    "ban": {},
    "unban": {},
    "deleteUser": {},
    "setAdmin": {},
    "cancelAdmin": {},
}
ROLES = ("setAdmin", "cancelAdmin")
NOT_TO_ONESELF = ("ban", "unban", "deleteUser", *ROLES)


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


@pytest.fixture(name="near")
async def _near(site: People) -> AsyncIterator[Front]:
    async with without_signed_cookies(site) as near:
        yield near


async def act(caller: Caller, action: str, name: Any = "bob", **more: Any) -> Any:
    """What *caller* is told of an action on the user *name*."""
    body = {"action": action, "targetUsername": name, **NEEDS.get(action, {}), **more}
    return error_of(await caller.post(PATH, body))


async def user(site: People, name: str) -> dict[str, Any]:
    """A user as admins see one."""
    _, body = await site.adm.get("/api/admin/config")
    shown = {each["username"]: each for each in body["Config"]["UserConfig"]["Users"]}
    found: dict[str, Any] = shown[name]
    return found


# --- who may ---------------------------------------------------------------------------


async def test_the_owner_is_nobodys_to_manage(site: People) -> None:
    """Not an admin's, and not by another spelling of the name."""
    await site.owner.get("/api/invitation/info")  # there is a row now
    before = await everything(site.pool)
    for action in NEEDS:
        assert await act(site.adm, action, "admin") == DENIED, action
        expected = DENIED if action in ROLES else UNKNOWN
        assert expected == await act(site.adm, action, "Admin"), action
    add = {"targetPassword": "x"}
    for name in ("admin", "Admin", "ADMIN"):
        assert (400, "用户已存在") == await act(site.adm, "add", name, **add)
        assert (400, "用户已存在") == await act(site.owner, "add", name, **add)
    groups = {"usernames": ["bob", "admin"], "userGroups": ["g"]}
    assert await act(site.adm, "batchUpdateUserGroups", **groups) == DENIED
    assert before == await everything(site.pool)


async def test_an_admin_manages_no_other_admin(site: People) -> None:
    """Nor makes one, nor ends one; the owner may."""
    before = await everything(site.pool)
    for action in NEEDS:
        assert await act(site.adm, action, "ada") == DENIED, action
    for action in ROLES:
        assert await act(site.adm, action, "bob") == DENIED
        assert await act(site.adm, action, "adm") == DENIED
        assert await act(site.adm, action, "nobody") == DENIED
    groups = {"usernames": ["bob", "ada"], "userGroups": ["g"]}
    assert await act(site.adm, "batchUpdateUserGroups", **groups) == DENIED
    assert before == await everything(site.pool)
    for action in NEEDS:
        assert await act(site.owner, action, "bob" if action == "deleteUser" else "ada") == OK


async def test_nobody_harms_themselves(site: People) -> None:
    """But their own tags, APIs and password are theirs."""
    for action in NEEDS:
        role = action in ROLES
        expected = DENIED if role else SELF if action in NOT_TO_ONESELF else OK
        assert expected == await act(site.adm, action, "adm"), action
        expected = SELF if action in NOT_TO_ONESELF else OK
        if action == "changePassword":
            expected = DENIED  # the owner's is the environment's
        more = {"oidcSub": "the owner's"} if action == "linkOidc" else {}
        assert expected == await act(site.owner, action, "admin", **more), action


async def test_a_user_that_is_not_there_is_told_so(site: People) -> None:
    """Also one whose name looks the same, or would if spaces did not count."""
    before = await everything(site.pool)
    for action in NEEDS:
        for name in ("nobody", "Bob", "b\u043eb", "bob\u200b"):
            assert await act(site.owner, action, name) == UNKNOWN, (action, name)
        for name in ("bob ", "bob\u0000", "b" * 51):
            assert (400, "参数格式错误") == await act(site.owner, action, name), (action, name)
        assert await act(site.owner, action, "") == NO_TARGET
    groups = {"usernames": ["bob", "nobody"], "userGroups": ["g"]}
    assert await act(site.owner, "batchUpdateUserGroups", **groups) == UNKNOWN
    after = await everything(site.pool)
    assert [row for row in after["users"] if row[1] != "admin"] == before["users"]


async def test_an_action_is_one_of_those_there_are(site: People) -> None:
    """The answer lists them."""
    for action in ("", "drop", "Ban", None, 5, ["ban"]):
        status, body = await site.adm.post(PATH, {"action": action, "targetUsername": "bob"})
        assert (400, "参数格式错误", "action") == (status, body["error"], body["field"])
    assert {*NEEDS, "add", "userGroup", "batchUpdateUserGroups"} == set(ACTIONS)


async def test_a_role_that_changes_meanwhile_decides(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was made an admin a moment ago is one: rank is looked at inside the change."""
    perform = type(site.front.site.ledger).perform

    async def after_a_promotion(*args: Any, **kwargs: Any) -> Any:
        await query(site.pool, "UPDATE users SET role = 'admin' WHERE username = 'bob'")
        return await perform(*args, **kwargs)

    monkeypatch.setattr(type(site.front.site.ledger), "perform", after_a_promotion)

    assert await act(site.adm, "deleteUser") == DENIED
    assert "admin" == (await user(site, "bob"))["role"]


# --- what each does ----------------------------------------------------------------------


async def test_an_added_user_can_log_in(site: People) -> None:
    """With a points account, and in the group that was named."""
    add = {"targetPassword": PASSWORD, "userGroup": "vip", "role": "admin", "targetRole": "owner"}
    assert await act(site.adm, "add", "newbie", **add) == OK

    assert ("user", ["vip"]) == (
        (added := await user(site, "newbie"))["role"],
        added["tags"],
    )
    assert 200 == (await site.stranger.log_in("newbie"))[0]
    assert 16 == len((await site.stranger.get("/api/invitation/info"))[1]["code"])


async def test_who_cannot_be_added_is_not(site: People) -> None:
    """Names follow the rules of registration, but nobody types a password twice."""
    before = await everything(site.pool)
    rule = (400, "用户名只能包含字母、数字、下划线，长度3-20位")
    taken = (400, "该用户名已被注册")
    for name, more, expected in (
        ("", {"targetPassword": "x"}, NO_TARGET),
        ("newbie", {}, (400, "缺少目标用户密码")),
        ("a b", {"targetPassword": "x"}, rule),
        ("newbie ", {"targetPassword": "x"}, rule),
        ("bob", {"targetPassword": "x"}, taken),
        ("BOB", {"targetPassword": "x"}, taken),
        ("newbie", {"targetPassword": "x" * 1_025}, (400, "密码无效")),
        ("newbie", {"targetPassword": "x", "userGroup": "g" * 101}, (400, "参数格式错误")),
    ):
        assert expected == await act(site.adm, "add", name, **more), name
    assert before == await everything(site.pool)


async def test_a_ban_counts_at_once_and_until_it_is_lifted(site: People, redis: Redis) -> None:
    """On every route, ingest too; MySQL and Redis both hold it."""
    banned = site.front.site.keys.barred("banned")
    await site.stranger.register("cat")
    assert await act(site.adm, "ban", "cat") == OK

    assert (401, "用户已被封禁") == error_of(await site.stranger.get("/api/points/balance"))
    assert 401 == (await site.front.save("cat", "s+1", record())).status_code
    assert {b"cat"} == await redis.smembers(banned)  # type: ignore[misc]
    assert [("cat", "banned")] == await query(
        site.pool, "SELECT username, reason FROM barred_users"
    )
    assert (await user(site, "cat"))["banned"]
    assert [] == await redis.keys("*session:*")
    assert await act(site.adm, "unban", "cat") == OK
    assert 200 == (await site.front.save("cat", "s+1", record())).status_code
    assert set() == await redis.smembers(banned)  # type: ignore[misc]
    assert not (await user(site, "cat"))["banned"]


async def test_a_deleted_user_is_gone_with_all_that_was_theirs(site: People, redis: Redis) -> None:
    """Their cookie counts no more, and what they played is cleared."""
    [key] = await new_keys(site.pool)
    await site.bob.post("/api/user/cardkey", {"cardKey": key})
    await give_points(site.pool, "bob", 300)
    await site.bob.post("/api/redeem/cardkey")
    await site.front.save("bob", "s+1", record())
    assert await act(site.adm, "deleteUser") == OK

    assert (401, "用户不存在") == error_of(await site.bob.get("/api/points/balance"))
    assert 401 == (await site.front.save("bob", "s+1", record())).status_code
    for table in ("users", "user_points", "points_records", "memberships", "user_card_keys"):
        assert [] == await query(site.pool, f"SELECT * FROM {table} WHERE username = 'bob'")
    assert ["save", "clear"] == [event["op"] for event in await events_in(site.front, redis)]
    assert await act(site.adm, "deleteUser") == UNKNOWN


async def test_a_deleted_name_can_be_given_again(site: People, near: Front, redis: Redis) -> None:
    """Its new user gets in at once, here and by what Redis tells the others."""
    adm, bob = Caller(near), Caller(near)
    await act(site.owner, "changePassword", "adm")
    assert (200, {"ok": True}) == await adm.log_in("adm")
    assert await act(adm, "deleteUser") == OK
    assert await act(adm, "add", targetPassword=PASSWORD) == OK

    assert (200, {"ok": True}) == await bob.log_in("bob")
    assert await bob.is_in()
    assert set() == await redis.smembers(near.site.keys.barred("deleted"))  # type: ignore[misc]


async def test_where_lunatvs_cookie_is_a_login_a_deleted_name_stays_taken(site: People) -> None:
    """Whoever kept the former user's cookie would be the new user, and could take it over."""
    await act(site.adm, "deleteUser")
    before = await everything(site.pool)

    assert (400, "该用户名已被注册") == await act(site.adm, "add", targetPassword=PASSWORD)
    assert (400, "该用户名已被注册") == error_of(await site.stranger.register("bob"))
    assert before == await everything(site.pool)
    assert not await site.bob.is_in()


async def test_roles_are_given_and_taken_by_the_owner(site: People) -> None:
    """As often as it is asked for."""
    for action, role in (("setAdmin", "admin"), ("setAdmin", "admin"), ("cancelAdmin", "user")):
        assert await act(site.owner, action) == OK
        assert role == (await user(site, "bob"))["role"]


async def test_a_password_is_set_for_a_user(site: People) -> None:
    """Not an empty one, nor one that is too long."""
    for password, text in (("", "缺少新密码"), ("x" * 1_025, "密码无效")):
        assert (400, text) == await act(site.adm, "changePassword", targetPassword=password)
    assert await act(site.adm, "changePassword") == OK
    assert (200, {"ok": True}) == await site.stranger.log_in("bob")


async def test_apis_groups_and_settings_are_kept(site: People) -> None:
    """Each value once, in its order; null takes a token or a subject away."""
    await act(site.adm, "updateUserApis", enabledApis=["b", "a", "b"])
    await act(site.adm, "updateUserGroups", userGroups=["g", '"; DROP TABLE users; --', "g"])
    for action in ("linkOidc", "setTvboxToken", "setShowAdultContent"):
        assert await act(site.adm, action) == OK
    bob = await user(site, "bob")
    assert (["b", "a"], ["g", '"; DROP TABLE users; --'], "s", "t", True) == (
        *(bob["enabledApis"], bob["tags"], bob["oidcSub"], bob["tvboxToken"]),
        bob["showAdultContent"],
    )
    for action, more in (
        ("linkOidc", {"oidcSub": None}),
        ("setTvboxToken", {"tvboxToken": None}),
        ("setShowAdultContent", {"showAdultContent": False}),
        ("updateUserApis", {"enabledApis": []}),
        ("updateUserGroups", {"userGroups": []}),
    ):
        assert await act(site.adm, action, **more) == OK
    assert {"username", "role", "banned", "createdAt"} == set(await user(site, "bob"))


async def test_values_have_bounds(site: People) -> None:
    """What a column or a page could not hold is refused with what would do."""
    before = await everything(site.pool)
    for action, more, text in (
        ("linkOidc", {"oidcSub": ""}, "无效的 OIDC 身份"),
        ("linkOidc", {"oidcSub": "x" * 256}, "无效的 OIDC 身份"),
        ("setTvboxToken", {"tvboxToken": ""}, "无效的 TVBox Token"),
        ("setTvboxToken", {"tvboxToken": "x" * 256}, "无效的 TVBox Token"),
        ("updateUserApis", {"enabledApis": ["x"] * 51}, "参数格式错误"),
        ("updateUserApis", {"enabledApis": ["x" * 101]}, "参数格式错误"),
        ("updateUserApis", {"enabledApis": [5]}, "参数格式错误"),
        ("updateUserApis", {"enabledApis": None}, "参数格式错误"),
        ("updateUserGroups", {"userGroups": ["x" * 101]}, "参数格式错误"),
        ("setShowAdultContent", {"showAdultContent": "yes"}, "参数格式错误"),
        ("setShowAdultContent", {"showAdultContent": 1}, "参数格式错误"),
        ("batchUpdateUserGroups", {"usernames": []}, "缺少用户名列表"),
        ("batchUpdateUserGroups", {"usernames": [str(n) for n in range(1_001)]}, "缺少用户名列表"),
        ("batchUpdateUserGroups", {"usernames": ["bob", ""]}, NO_TARGET[1]),
        ("batchUpdateUserGroups", {"usernames": ["bob "]}, "参数格式错误"),
    ):
        assert (400, text) == await act(site.adm, action, **more), (action, more)
    assert before == await everything(site.pool)


async def test_a_subject_belongs_to_one_user(site: People) -> None:
    """The second who claims it is told; by no spelling is it another one."""
    await act(site.adm, "linkOidc", "ann", oidcSub="s")
    for subject in ("s", "s "):
        expected = (400, "该 OIDC 身份已绑定其他用户")
        assert expected == await act(site.adm, "linkOidc", oidcSub=subject)
    assert await act(site.adm, "linkOidc", "ann", oidcSub="s") == OK
    assert await act(site.adm, "linkOidc", oidcSub="S") == OK


async def test_groups_are_managed_and_taken_from_users(site: People) -> None:
    """Only the tag of that very name goes, whatever stands in it."""
    names = ["vip", "v_p", "v%", "a\\b", 'q"q', "$[0]", "组"]
    for name in names:
        made = await act(site.adm, "userGroup", groupAction="add", groupName=f" {name} ")
        assert made == OK
    await act(site.adm, "updateUserGroups", "ann", userGroups=names)
    await act(site.adm, "batchUpdateUserGroups", usernames=["bob", "ann"], userGroups=names)
    again = await act(site.adm, "userGroup", groupAction="add", groupName="vip")
    assert (400, "用户组已存在") == again
    edit = {"groupAction": "edit", "groupName": "vip", "enabledApis": ["a"]}
    assert await act(site.adm, "userGroup", **edit) == OK
    for gone in ("v_p", "v%", "a\\b", 'q"q', "$[0]", "组"):
        deleted = await act(site.adm, "userGroup", groupAction="delete", groupName=gone)
        assert deleted == OK
        names.remove(gone)
        for name in ("ann", "bob"):
            assert names == (await user(site, name))["tags"], gone
    _, body = await site.adm.get("/api/admin/config")
    assert [{"name": "vip", "enabledApis": ["a"]}] == body["Config"]["UserConfig"]["Tags"]


async def test_what_else_a_group_holds_stays_and_a_switch_that_is_sent_counts(
    site: People,
) -> None:
    """As pages send it along with the APIs."""
    add = {"groupAction": "add", "groupName": "vip", "enabledApis": [], "showAdultContent": True}
    assert await act(site.adm, "userGroup", **add) == OK
    edit = {"groupAction": "edit", "groupName": "vip", "enabledApis": ["a"]}
    assert await act(site.adm, "userGroup", **edit) == OK
    await act(site.adm, "updateUserGroups", userGroups=["vip"])
    await act(site.adm, "updateUserApis", enabledApis=["a"], showAdultContent=True)
    await act(site.adm, "updateUserApis", enabledApis=["b"])

    _, body = await site.adm.get("/api/admin/config")
    group = {"name": "vip", "enabledApis": ["a"], "showAdultContent": True}
    assert [group] == body["Config"]["UserConfig"]["Tags"]
    bob = await user(site, "bob")
    assert (["vip"], ["b"], True) == (bob["tags"], bob["enabledApis"], bob["showAdultContent"])


async def test_a_group_action_is_checked(site: People) -> None:
    """Group and action are there, or told to be missing."""
    for more, expected in (
        ({}, (400, "无效的用户组操作")),
        ({"groupAction": "drop", "groupName": "g"}, (400, "无效的用户组操作")),
        ({"groupAction": "add"}, (400, "缺少用户组名称")),
        ({"groupAction": "add", "groupName": " \t"}, (400, "缺少用户组名称")),
        ({"groupAction": "edit", "groupName": "g"}, (404, "用户组不存在")),
        ({"groupAction": "delete", "groupName": "g"}, (404, "用户组不存在")),
    ):
        assert expected == await act(site.adm, "userGroup", **more), more


async def test_redis_may_be_away_while_users_are_managed(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MySQL holds it, and the fronts look there: nothing is half done.

    Only what must end sessions first waits for Redis, and changes nothing until then.
    """

    async def away(*_: Any, **__: Any) -> None:
        raise StoreDown("Redis: away")

    bars = site.front.site.bars
    for part, name in ((bars, "_tell"), (site.front.site.sessions, "end_all")):
        monkeypatch.setattr(type(part), name, away)

    assert await act(site.adm, "ban") == OK
    assert not await site.bob.is_in()
    before = await everything(site.pool)
    for action in ("unban", "changePassword"):
        assert 503 == (await act(site.adm, action))[0]
    assert before == await everything(site.pool)
    assert await act(site.adm, "deleteUser") == OK
    assert not await site.bob.is_in()


async def test_sessions_that_outlived_a_ban_are_over_when_it_is_lifted(
    site: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis was away at the ban, or the process died: nobody told it to end them."""

    async def away(*_: Any, **__: Any) -> int:
        raise StoreDown("Redis: away")

    await act(site.adm, "changePassword")
    _, body = await site.stranger.log_in("bob", bearer=True)
    session = Caller(site.front, authorization=f"Bearer {body['token']}")
    assert await session.is_in()
    with monkeypatch.context() as without:
        without.setattr(type(site.front.site.sessions), "end_all", away)
        assert await act(site.adm, "ban") == OK
    assert not await session.is_in()
    assert await act(site.adm, "unban") == OK

    async with front(site.front.settings) as other:  # which remembers no session
        assert not await Caller(other, authorization=f"Bearer {body['token']}").is_in()
    assert (200, {"ok": True}) == await site.stranger.log_in("bob")


async def test_an_admin_without_the_rank_ends_nobodys_sessions(site: People) -> None:
    """An unban ends sessions; of another admin it is refused before that."""
    await act(site.owner, "changePassword", "ada")
    _, body = await site.stranger.log_in("ada", bearer=True)
    for action in ("unban", "changePassword"):
        assert await act(site.adm, action, "ada") == DENIED

    assert await Caller(site.front, authorization=f"Bearer {body['token']}").is_in()


@pytest.mark.parametrize("action", ["ban", "unban", "changePassword", "setShowAdultContent"])
async def test_what_late_events_left_of_a_deleted_user_is_nobody(site: People, action: str) -> None:
    """To let that in again would let their cookie in."""
    await act(site.adm, "deleteUser")
    async with transaction(site.pool) as cursor:
        await cursor.execute("INSERT INTO users (username, password_hash) VALUES ('bob', '!')")
    before = await everything(site.pool)

    assert UNKNOWN == await act(site.adm, action)
    assert before == await everything(site.pool)


async def test_a_ban_is_told_though_mysql_is_gone_by_then(
    site: People, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed: fronts go by Redis now, and who asked is told that it is done."""

    async def gone(*_: Any) -> Any:
        raise StoreDown("MySQL: away")

    with monkeypatch.context() as without:
        without.setattr(standings, "_reason", gone)
        assert await act(site.adm, "ban") == OK
        assert not await site.bob.is_in()
        banned = site.front.site.keys.barred("banned")
        assert {b"bob"} == await redis.smembers(banned)  # type: ignore[misc]
