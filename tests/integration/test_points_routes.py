"""A user's own points, redemption and invitations; and what admins see and change of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.settings import Settings
from tests.callers import People, error_of, everything, give_points, people, query

ADJUST = "/api/admin/points/adjust"
CONFIG = "/api/admin/invitation-config"
WEEKLY = {"enabled": True, "rewardPoints": 100, "redeemThreshold": 300, "cardKeyType": "week"}


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def balance(site: People) -> int:
    _, body = await site.ann.get("/api/points/balance")
    return int(body["balance"])


# --- one's own ------------------------------------------------------------------------


async def test_an_owner_without_a_row_has_no_points_either(site: People) -> None:
    """The environment makes them known: they are told of points, not that nobody knows them."""
    assert [] == await query(site.pool, "SELECT 1 FROM users WHERE role = 'owner'")
    assert (200, {"success": False, "error": "积分不足"}) == await site.owner.post(
        "/api/redeem/cardkey"
    )


async def test_who_has_no_account_has_no_points(site: People) -> None:
    """The owner, before anything happened; a code is made when it is asked for."""
    assert (200, {"balance": 0}) == await site.owner.get("/api/points/balance")
    _, history = await site.owner.get("/api/points/history")
    assert {"history": [], "page": 1, "pageSize": 20, "total": 0} == history
    _, info = await site.owner.get("/api/invitation/info")
    assert (16, 0) == (len(info["code"]), info["balance"])
    assert info == (await site.owner.get("/api/invitation/info"))[1]


async def test_points_become_a_key_that_can_be_bound(site: People) -> None:
    """The record says what for; the key is the configured one."""
    await give_points(site.pool, "ann", 350)
    status, redeemed = await site.ann.post("/api/redeem/cardkey")
    key = redeemed["cardKey"]

    assert (200, {"success": True, "cardKey": key}) == (status, redeemed)
    assert 16 == len(key)
    _, history = await site.ann.get("/api/points/history")
    [record, _] = history["history"]
    assert ("redeem", -300, "兑换周卡") == (record["type"], record["amount"], record["reason"])
    _, held = await site.ann.get("/api/user/cardkeys")
    assert [(record["cardKeyId"], key)] == [(k["id"], k["plainKey"]) for k in held["cardKeys"]]
    assert 50 == await balance(site)
    assert 200 == (await site.ann.post("/api/user/cardkey", {"cardKey": key}))[0]


async def test_too_few_points_are_told_in_a_200(site: People) -> None:
    """As front ends expect it; nothing is taken and no key is made."""
    await give_points(site.pool, "ann", 299)
    before = await everything(site.pool)

    assert (200, {"success": False, "error": "积分不足"}) == await site.ann.post(
        "/api/redeem/cardkey"
    )
    assert before == await everything(site.pool)


async def test_the_history_is_paged_newest_first(site: People) -> None:
    """With a total; a page behind the last one is empty."""
    for number in range(1, 26):
        body = {"username": "ann", "type": "add", "amount": number, "reason": f"no. {number}"}
        await site.adm.post(ADJUST, body)
    for query_, amounts in (
        ({}, range(25, 5, -1)),
        ({"page": 2}, range(5, 0, -1)),
        ({"page": 3, "pageSize": 10}, range(5, 0, -1)),
        ({"pageSize": 100}, range(25, 0, -1)),
        ({"page": 1_000_000, "pageSize": 100}, ()),
    ):
        for answer in (
            await site.ann.get("/api/points/history", **query_),
            await site.adm.get("/api/admin/points/history", username="ann", **query_),
        ):
            status, body = answer
            assert (200, 25) == (status, body["total"])
            assert sorted(amounts) == sorted(each["amount"] for each in body["history"])
            shown = (query_.get("page", 1), query_.get("pageSize", 20))
            assert shown == (body["page"], body["pageSize"])
    record = (await site.ann.get("/api/points/history"))[1]["history"][0]
    assert ("admin_adjust", "adm") == (record["type"], record["adminUsername"])
    assert {"id", "username", "reason", "createdAt"} < set(record)


async def test_a_page_is_a_whole_number_within_bounds(site: People) -> None:
    """Anything else is a 400 that says what would do."""
    wrong = ("0", "-1", "1.5", "x", "", " 1", "1e2", "9999999999", "\u0663", "1;DROP", "101000000")
    for path in ("/api/points/history", "/api/admin/points/users", "/api/admin/cardkey"):
        for name in ("page", "pageSize"):
            for value in wrong:
                status, body = await site.adm.get(path, **{name: value})
                assert (400, "参数格式错误", name) == (status, body["error"], body["field"]), value


async def test_everybody_may_see_what_invitations_bring(site: People) -> None:
    """The defaults of a new site."""
    assert (200, WEEKLY) == await site.ann.get("/api/invitation-config")
    assert (200, WEEKLY) == await site.adm.get(CONFIG)


# --- admins' ----------------------------------------------------------------------------


ADJUSTMENTS: list[tuple[dict[str, Any], Any]] = [
    ({"username": ""}, (400, "缺少用户名")),
    ({"username": None}, (400, "参数格式错误")),
    ({"username": "ann "}, (400, "参数格式错误")),
    ({"username": "ann\u0000"}, (400, "参数格式错误")),
    ({"username": "Ann"}, (404, "用户不存在")),
    ({"username": "nobody"}, (404, "用户不存在")),
    ({"type": ""}, (400, "无效的调整类型")),
    ({"type": "set"}, (400, "无效的调整类型")),
    ({"type": "Add"}, (400, "无效的调整类型")),
    ({"type": ["add"]}, (400, "参数格式错误")),
    ({"amount": 0}, (400, "积分数量必须是正整数")),
    ({"amount": -5}, (400, "积分数量必须是正整数")),
    ({"amount": 1_000_001}, (400, "积分数量必须是正整数")),
    ({"amount": 2**31}, (400, "积分数量必须是正整数")),
    ({"amount": 2**63}, (400, "积分数量必须是正整数")),
    ({"amount": 10**400}, (400, "积分数量必须是正整数")),
    ({"amount": 5.0}, (400, "积分数量必须是正整数")),
    ({"amount": 1.5}, (400, "积分数量必须是正整数")),
    ({"amount": 1e30}, (400, "积分数量必须是正整数")),
    ({"amount": True}, (400, "积分数量必须是正整数")),
    ({"amount": "5"}, (400, "积分数量必须是正整数")),
    ({"amount": None}, (400, "积分数量必须是正整数")),
    ({"amount": [5]}, (400, "积分数量必须是正整数")),
    ({"reason": ""}, (400, "调整原因不能为空且不超过200字")),
    ({"reason": " \n"}, (400, "调整原因不能为空且不超过200字")),
    ({"reason": "字" * 201}, (400, "调整原因不能为空且不超过200字")),
    ({"type": "deduct", "amount": 11}, (400, "扣除积分不能超过用户当前余额")),
    ({"type": "deduct", "amount": 10}, (200, {"ok": True})),
    ({"reason": "🌏" * 200}, (200, {"ok": True})),
    ({"amount": 1_000_000}, (200, {"ok": True})),
]


async def test_an_adjustment_is_checked_in_every_part(site: People) -> None:
    """Whole points within bounds, a reason, a known user; and never below zero."""
    await give_points(site.pool, "ann", 10)
    for changes, expected in ADJUSTMENTS:
        before = await balance(site)
        body = {"username": "ann", "type": "add", "amount": 5, "reason": "because", **changes}
        answer = await site.adm.post(ADJUST, body)

        assert expected == error_of(answer), changes
        sign = -1 if body["type"] == "deduct" else 1
        assert before + (sign * body["amount"] if answer[0] == 200 else 0) == await balance(site)


async def test_a_balance_has_an_upper_bound(site: People) -> None:
    """Its column does not overflow."""
    await query(site.pool, "UPDATE user_points SET balance = 2000000000 WHERE username = 'ann'")
    try:
        body = {"username": "ann", "type": "add", "amount": 1, "reason": "r"}
        assert (400, "积分余额超出上限") == error_of(await site.adm.post(ADJUST, body))
    finally:
        await query(site.pool, "UPDATE user_points SET balance = 0 WHERE username = 'ann'")


async def test_admins_see_the_accounts_of_all(site: People) -> None:
    """By name, paged, with a total."""
    await give_points(site.pool, "ann", 10)
    _, body = await site.adm.get("/api/admin/points/users")
    assert ["ada", "adm", "ann", "bob"] == [user["username"] for user in body["users"]]
    ann = body["users"][2]
    assert (10, 10, 0, 16) == (
        *(ann["balance"], ann["totalEarned"], ann["totalRedeemed"]),
        len(ann["invitationCode"]),
    )
    _, body = await site.adm.get("/api/admin/points/users", page=2, pageSize=3)
    assert (["bob"], 4, 2, 3) == (
        *([user["username"] for user in body["users"]], body["total"]),
        *(body["page"], body["pageSize"]),
    )


async def test_a_history_is_of_a_user(site: People) -> None:
    """Whom the query names."""
    for name, error in (("", "缺少用户名"), ("ann ", "参数格式错误"), ("n" * 51, "参数格式错误")):
        answer = await site.adm.get("/api/admin/points/history", username=name)
        assert (400, error) == error_of(answer)
    assert (400, "缺少用户名") == error_of(await site.adm.get("/api/admin/points/history"))
    _, body = await site.adm.get("/api/admin/points/history", username="nobody")
    assert [] == body["history"]


async def test_the_configuration_counts_from_the_next_redemption(site: People) -> None:
    """Saving it switches invitations on, as the page means it."""
    await query(site.pool, "UPDATE invitation_configs SET enabled = FALSE")
    await give_points(site.pool, "ann", 100)
    body = {"rewardPoints": 7, "redeemThreshold": 90, "cardKeyType": "year"}
    kept = {"enabled": True, **body}

    assert (200, {"ok": True, "config": kept}) == await site.adm.put(CONFIG, body)
    assert (200, kept) == await site.ann.get("/api/invitation-config")
    await site.ann.post("/api/redeem/cardkey")
    _, history = await site.ann.get("/api/points/history")
    assert {(-90, "兑换年卡"), (100, "test")} == {
        (each["amount"], each["reason"]) for each in history["history"]
    }


async def test_a_wrong_configuration_changes_nothing(site: People) -> None:
    """Amounts are whole and positive, the type is one of four."""
    body = {"rewardPoints": 7, "redeemThreshold": 90, "cardKeyType": "year"}
    for name, text in (
        ("rewardPoints", "奖励积分必须是正整数"),
        ("redeemThreshold", "兑换门槛必须是正整数"),
    ):
        for amount in (0, -1, 1_000_001, 2**64):
            answer = await site.adm.put(CONFIG, {**body, name: amount})
            assert (400, text) == error_of(answer), amount
        for wrong in (None, "5", 1.5, 7.0, True, [7]):
            answer = await site.adm.put(CONFIG, {**body, name: wrong})
            assert (400, text) == error_of(answer), wrong
    for kind in ("", "day", "Week", "week "):
        answer = await site.adm.put(CONFIG, {**body, "cardKeyType": kind})
        assert (400, "无效的卡密类型") == error_of(answer), kind
    assert (400, "无效的卡密类型") == error_of(await site.adm.put(CONFIG, {}))
    assert (200, WEEKLY) == await site.adm.get(CONFIG)
