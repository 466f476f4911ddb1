"""The Idempotency-Key header, on every route that changes an account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from shared.accounts.card_keys import hash_of
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
from tests.plays import record

REUSED = (409, "Idempotency-Key 已用于另一个请求")
REGISTER = {"password": PASSWORD, "confirmPassword": PASSWORD}


class Change(NamedTuple):
    """A request, and how the same would ask for something else."""

    who: str
    method: str
    path: str
    body: Any
    other: Any
    other_path: str = ""


def user_action(action: str, who: str = "adm", **more: Any) -> Change:
    body = {"action": action, "targetUsername": "bob", **more}
    return Change(who, "POST", "/api/admin/user", body, {**body, "more": 1})


async def changes(site: People) -> list[Change]:
    """One of each kind, in an order in which each of them can be made."""
    await give_points(site.pool, "ann", 1_000)
    bound, unbound, spare, doomed = await new_keys(site.pool, 4)
    hash_path = "/api/admin/cardkey?hash="
    adjust = {"username": "ann", "type": "add", "amount": 5, "reason": "r"}
    config = {"rewardPoints": 5, "redeemThreshold": 6, "cardKeyType": "month"}
    keys = {"action": "create", "type": "week", "count": 2}
    _, stored = await site.adm.get("/api/admin/config")
    document = {"config": {"SiteName": "x"}, "version": stored["version"]}
    return [
        Change("stranger", "POST", "/api/register", {**REGISTER, "username": "newbie"}, REGISTER),
        Change("ann", "POST", "/api/user/cardkey", {"cardKey": bound}, {"cardKey": unbound}),
        Change("ann", "POST", "/api/redeem/cardkey", {}, {"more": 1}),
        Change("ann", "POST", "/api/redeem/cardkey", None, b"{}"),
        Change("ann", "POST", "/api/change-password", {"newPassword": "a"}, {"newPassword": "b"}),
        Change("adm", "POST", "/api/admin/cardkey", keys, {**keys, "count": 3}),
        Change("adm", "POST", "/api/admin/cardkey", {"action": "cleanup"}, keys),
        Change(
            "adm", "DELETE", hash_path + hash_of(doomed), None, None, hash_path + hash_of(spare)
        ),
        Change("adm", "PUT", "/api/admin/config", document, {**document, "version": 9}),
        Change(
            *("adm", "POST", "/api/admin/cardkey/system-mode"),
            *({"systemMode": "operation"}, {"systemMode": "promotion"}),
        ),
        Change("adm", "POST", "/api/admin/points/adjust", adjust, {**adjust, "amount": 6}),
        Change(
            *("adm", "PUT", "/api/admin/invitation-config"),
            *(config, {**config, "rewardPoints": 7}),
        ),
        user_action("add", targetUsername="added", targetPassword="x"),
        user_action("ban"),
        user_action("unban"),
        user_action("setAdmin", who="owner"),
        user_action("cancelAdmin", who="owner"),
        user_action("changePassword", targetPassword="x"),
        user_action("updateUserApis", enabledApis=["a"]),
        user_action("updateUserGroups", userGroups=["g"]),
        user_action("batchUpdateUserGroups", usernames=["ann", "bob"], userGroups=["g"]),
        user_action("userGroup", groupAction="add", groupName="g"),
        user_action("linkOidc", oidcSub="s"),
        user_action("setTvboxToken", tvboxToken="t"),
        user_action("setShowAdultContent", showAdultContent=True),
        user_action("deleteUser"),
    ]


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def test_the_same_key_and_request_get_the_same_answer(site: People) -> None:
    """And change nothing more, on every route; another request with that key is refused."""
    for number, change in enumerate(await changes(site)):
        caller, key = site.known_as(change.who), f"key-{number}"
        first = await caller.send(change.method, change.path, change.body, idempotency_key=key)
        assert 200 == first[0], (change, first)
        before = await everything(site.pool)
        again = await caller.send(change.method, change.path, change.body, idempotency_key=key)
        path = change.other_path or change.path
        reused = await caller.send(change.method, path, change.other, idempotency_key=key)

        assert first == again, change
        if change.path != "/api/register":  # there what is missing is told first
            assert REUSED == error_of(reused), change
        assert before == await everything(site.pool), change


async def test_every_one_of_these_changes_something_or_says_it_did_nothing(site: People) -> None:
    """Else the test above would show nothing: each request makes an operation of its own."""
    for number, change in enumerate(await changes(site)):
        await site.known_as(change.who).send(
            change.method, change.path, change.body, idempotency_key=f"key-{number}"
        )
        [(count,)] = await query(
            site.pool, "SELECT COUNT(*) FROM operations WHERE fingerprint > ''"
        )
        assert number + 1 == count, change


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("k", 200),
        ("x" * 255, 200),
        ("!~", 200),
        ("x" * 256, 400),
        ("", 400),
        ("two words", 400),
        ("tab\tbed", 400),
        ("é", 400),
        ("钥", 400),
        ("nul\0", 400),
    ],
)
async def test_a_key_is_printable_ascii_of_bounded_length(
    site: People, key: str, status: int
) -> None:
    """What is no key is refused before anything is done."""
    headers: Any = {**site.front.cookie("ann"), "idempotency-key": key.encode()}
    answer = await site.stranger.client.post(
        "/api/change-password", headers=headers, json={"newPassword": "x"}
    )

    assert status == answer.status_code
    if status == 400:
        assert ("参数格式错误", "Idempotency-Key") == (
            answer.json()["error"],
            answer.json()["field"],
        )


async def test_the_same_key_of_another_user_is_another_key(site: People) -> None:
    """Nobody can meet, or guess, what somebody else asked for."""
    keys = {"action": "create", "type": "week"}
    path = "/api/admin/cardkey"
    made = [
        (await caller.post(path, keys, idempotency_key="k"))[1]["result"]["keys"]
        for caller in (site.adm, site.ada, site.owner, site.adm)
    ]

    assert made[0] == made[3]
    assert 3 == len({*map(str, made)})


async def test_the_same_key_on_another_route_or_query_is_refused(site: People) -> None:
    """The request is method, path, query and body; what the header is called does not matter."""
    body = {"action": "create", "type": "week"}
    assert 200 == (await site.adm.post("/api/admin/cardkey", body, Idempotency_Key="k"))[0]
    for method, path in (
        ("POST", "/api/admin/cardkey?more=1"),
        ("DELETE", "/api/admin/cardkey?hash=1"),
        ("POST", "/api/redeem/cardkey"),
    ):
        assert REUSED == error_of(await site.adm.send(method, path, body, idempotency_key="k"))


async def test_many_of_the_same_at_once_make_one_change(site: People) -> None:
    """Whoever comes while the first is under way waits for its answer."""
    body = {"username": "ann", "type": "add", "amount": 5, "reason": "r"}
    send = site.adm.post
    answers = await asyncio.gather(
        *(send("/api/admin/points/adjust", body, idempotency_key="k") for _ in range(20))
    )

    assert [(200, {"ok": True})] * 20 == answers
    assert (200, {"balance": 5}) == await site.ann.get("/api/points/balance")


async def test_a_refusal_is_not_kept(site: People) -> None:
    """The same key may try again, once there are points."""
    path = "/api/redeem/cardkey"
    first = await site.ann.post(path, {}, idempotency_key="k")
    await give_points(site.pool, "ann", 300)
    second = await site.ann.post(path, {}, idempotency_key="k")

    assert (200, {"success": False, "error": "积分不足"}) == first
    assert (200, True) == (second[0], second[1]["success"])
    assert second == await site.ann.post(path, {}, idempotency_key="k")


async def test_a_stale_repetition_of_an_admins_action_undoes_nothing(site: People) -> None:
    """It is answered as it was, and tells the fronts what is true now."""
    delete = {"action": "deleteUser", "targetUsername": "bob"}
    ban = {**delete, "action": "ban"}
    assert 200 == (await site.adm.post("/api/admin/user", ban, idempotency_key="ban"))[0]
    await site.adm.post("/api/admin/user", {**ban, "action": "unban"})
    caller = Caller(site.front)

    assert (200, {"ok": True}) == await site.adm.post("/api/admin/user", ban, idempotency_key="ban")
    assert await site.bob.is_in()
    assert 200 == (await site.adm.post("/api/admin/user", delete, idempotency_key="delete"))[0]
    async with without_signed_cookies(site) as near:
        assert 200 == (await Caller(near).register("bob"))[0]
    await site.front.site.bars.look()
    await caller.log_in("bob")
    await site.front.save("bob", "s+1", record())
    assert (200, {"ok": True}) == await site.adm.post(
        "/api/admin/user", delete, idempotency_key="delete"
    )
    assert {"s+1"} == set(await site.front.records("bob"))
    assert await caller.is_in()


async def test_the_key_of_a_deleted_user_is_nothing_to_who_has_the_name_next(
    site: People,
) -> None:
    """They would be told the card key that the former one redeemed."""
    async with without_signed_cookies(site) as near:
        keys = []
        for password in ("the first", "the second"):
            caller = Caller(near)
            await near.site.bars.look()
            assert 200 == (await caller.register("newbie", password))[0]
            await give_points(site.pool, "newbie", 1_000)
            told = [await caller.post("/api/redeem/cardkey", idempotency_key="k") for _ in "12"]
            assert [True, True] == [body["success"] for _, body in told]
            keys.append({body["cardKey"] for _, body in told})
            delete = {"action": "deleteUser", "targetUsername": "newbie"}
            assert 200 == (await site.adm.post("/api/admin/user", delete))[0]

    assert [1, 1] == [len(each) for each in keys]
    assert not keys[0] & keys[1]


async def test_a_stale_repetition_of_an_add_lets_nobody_in(site: People) -> None:
    """Who was deleted since stays out."""
    add = {"action": "add", "targetUsername": "added", "targetPassword": "password"}
    await site.adm.post("/api/admin/user", add, idempotency_key="k")
    await site.adm.post("/api/admin/user", {"action": "deleteUser", "targetUsername": "added"})

    assert (200, {"ok": True}) == await site.adm.post("/api/admin/user", add, idempotency_key="k")
    assert {"added": "deleted"} == site.front.site.bars.names
