"""/api/admin/cardkey: keys are made, listed, exported, deleted and cleaned up by admins."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.accounts.card_keys import hash_of
from shared.settings import Settings
from shared.times import DAY_MS
from tests.callers import (
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
)

PATH = "/api/admin/cardkey"
MODE = f"{PATH}/system-mode"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def listed(site: People, **chosen: Any) -> list[str]:
    """The texts of the keys that an admin sees."""
    status, body = await site.adm.get(PATH, **chosen)
    assert 200 == status
    return [key["key"] for key in body["cardKeys"]]


async def test_a_batch_of_keys_is_made(site: People) -> None:
    """Each of 16 letters and digits, none twice; they are listed newest first."""
    status, body = await site.adm.post(PATH, {"action": "create", "type": "month", "count": 1_000})
    keys = body["result"]["keys"]

    assert (200, True, 1_000, "month") == (
        *(status, body["ok"]),
        *(body["result"]["totalCount"], body["result"]["type"]),
    )
    assert 1_000 == len(set(keys))
    assert all(re.fullmatch("[A-Za-z0-9]{16}", key) for key in keys)
    assert keys[::-1] == await listed(site)
    _, body = await site.adm.get(PATH, pageSize=1)
    [key] = body["cardKeys"]
    assert (1_000, hash_of(key["key"]), "month", "unused", "admin_created", 30 * DAY_MS) == (
        *(body["total"], key["keyHash"], key["keyType"], key["status"], key["source"]),
        key["expiresAt"] - key["createdAt"],
    )


async def test_what_cannot_be_made_is_refused(site: People) -> None:
    """And nothing is."""
    create = {"action": "create", "type": "week", "count": 1}
    for changes, error in (
        ({"action": ""}, "不支持的操作类型"),
        ({"action": "Create"}, "不支持的操作类型"),
        ({"action": "drop"}, "不支持的操作类型"),
        ({"action": None}, "参数格式错误"),
        ({"type": ""}, "无效的卡密类型"),
        ({"type": "day"}, "无效的卡密类型"),
        ({"type": "week "}, "无效的卡密类型"),
        ({"count": 0}, "无效的数量"),
        ({"count": -1}, "无效的数量"),
        ({"count": 1_001}, "无效的数量"),
        ({"count": 10**30}, "无效的数量"),
        ({"count": 1.0}, "参数格式错误"),
        ({"count": True}, "参数格式错误"),
        ({"count": "1"}, "参数格式错误"),
        ({"count": None}, "参数格式错误"),
    ):
        answer = await site.adm.post(PATH, {**create, **changes})
        assert (400, error) == error_of(answer), changes
    assert [] == await listed(site)


async def test_the_list_is_filtered(site: People) -> None:
    """By status, type and user; a word that is none of them is refused."""
    week, bound = await new_keys(site.pool, 2)
    [year] = await new_keys(site.pool, 1, "year")
    await site.ann.post("/api/user/cardkey", {"cardKey": bound})

    assert [year, bound, week] == await listed(site)
    assert [year, week] == await listed(site, status="unused")
    assert [bound, week] == await listed(site, type="week")
    assert [bound] == await listed(site, boundTo="ann")
    assert [] == await listed(site, boundTo="Ann")
    assert [week] == await listed(site, status="unused", type="week")
    assert [bound] == await listed(site, page=2, pageSize=1)
    for name in ("status", "type"):
        for wrong in ("", "x", "unused' OR '1'='1"):
            status, body = await site.adm.get(PATH, **{name: wrong})
            assert (400, "参数格式错误", name) == (status, body["error"], body["field"])


async def test_an_unbound_key_can_be_deleted(site: People) -> None:
    """Once; whoever held it sees that it is worth nothing any more."""
    await give_points(site.pool, "ann", 300)
    _, redeemed = await site.ann.post("/api/redeem/cardkey")
    [bound] = await new_keys(site.pool)
    await site.ann.post("/api/user/cardkey", {"cardKey": bound})
    deleted = hash_of(redeemed["cardKey"])

    assert (400, "缺少卡密哈希") == error_of(await site.adm.delete(PATH))
    assert (400, "缺少卡密哈希") == error_of(await site.adm.delete(PATH, hash=""))
    for unknown in ("x", redeemed["cardKey"], deleted.upper(), "%", "' OR '1'='1", "🌏", "\x00"):
        answer = await site.adm.delete(PATH, hash=unknown)
        assert (404, "卡密无效或不存在") == error_of(answer), unknown
    assert (400, "已使用的卡密不能删除") == error_of(
        await site.adm.delete(PATH, hash=hash_of(bound))
    )
    assert (200, {"ok": True}) == await site.adm.delete(PATH, hash=deleted)
    assert (404, "卡密无效或不存在") == error_of(await site.adm.delete(PATH, hash=deleted))
    assert [bound] == await listed(site)
    _, held = await site.ann.get("/api/user/cardkeys")
    assert ["expired"] == [key["status"] for key in held["cardKeys"]]


async def test_a_repeated_parameter_deletes_one_key_at_most(site: People) -> None:
    """One that was named."""
    keys = await new_keys(site.pool, 3)
    pollution = "&".join(f"hash={hash_of(key)}" for key in keys[:2])
    assert 200 == (await site.adm.send("DELETE", f"{PATH}?{pollution}"))[0]

    left = await listed(site)
    assert 2 == len(left)
    assert keys[2] in left


async def test_cleaning_up_removes_what_ran_out_unbound(site: People) -> None:
    """And nothing else; the answer counts."""
    fresh, bound = await new_keys(site.pool, 2)
    await new_keys(site.pool, 3, age_days=8)
    await site.ann.post("/api/user/cardkey", {"cardKey": bound})

    assert (200, {"ok": True, "cleanedCount": 3}) == await site.adm.post(
        PATH, {"action": "cleanup"}
    )
    assert (200, {"ok": True, "cleanedCount": 0}) == await site.adm.post(
        PATH, {"action": "cleanup"}
    )
    assert [bound, fresh] == await listed(site)


async def test_the_export_is_a_table_without_formulas(site: People) -> None:
    """Names that older sites took begin with what a spreadsheet would run."""
    formulas = ("=1+1", "+1", "-1", "@SUM(A1)", '=cmd|" /C calc"!A0', "\uff1d1", "a,b", 'q"q')
    for name, key in zip(formulas, await new_keys(site.pool, len(formulas)), strict=True):
        await enrol(site.pool, name)
        await signed(site.front, name).post("/api/user/cardkey", {"cardKey": key})
    answer = await site.adm.answer("GET", f"{PATH}/export")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))

    assert (200, "text/csv; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert answer.content.startswith(codecs.BOM_UTF8)
    assert 'attachment; filename="cardkeys.csv"' == answer.headers["content-disposition"]
    assert "no-store" == answer.headers["cache-control"]
    shown = {row["bound to"] for row in rows}
    safe = {f"'{name}" for name in formulas[:6]} | set(formulas[6:])
    assert safe == shown
    assert {"week"} == {row["type"] for row in rows}
    assert {"used"} == {row["status"] for row in rows}
    assert all(row["bound"].endswith("Z") and len(row["key"]) == 16 for row in rows)
    chosen = await site.adm.answer("GET", f"{PATH}/export?status=unused")
    assert 1 == len(chosen.text.splitlines())


# --- promotion --------------------------------------------------------------------------


async def test_the_system_mode_counts_from_the_next_registration(site: People) -> None:
    """With how many keys were given, and how many of them still run."""
    none = {"totalPromotionCardKeys": 0, "activePromotionCardKeys": 0}
    mode = {"systemMode": "operation", "promotionCardKeyType": "week", "promotionStats": none}
    assert (200, mode) == await site.adm.get(MODE)
    asked = {"systemMode": "promotion", "promotionCardKeyType": "year"}
    assert (200, {**asked, "promotionStats": none}) == await site.adm.post(MODE, asked)
    for name in ("first", "second"):
        await site.stranger.register(name)
    await query(site.pool, "UPDATE card_keys SET expires_at = created_at WHERE bound_to = 'first'")
    stats = {"totalPromotionCardKeys": 2, "activePromotionCardKeys": 1}

    assert (200, {**asked, "promotionStats": stats}) == await site.adm.get(MODE)
    assert (200, {**asked, "systemMode": "operation", "promotionStats": stats}) == (
        await site.adm.post(MODE, {"systemMode": "operation"})
    )
    assert (200, {**asked, "systemMode": "operation", "promotionStats": stats}) == (
        await site.adm.post(MODE, {})
    )


async def test_a_wrong_mode_changes_nothing(site: People) -> None:
    """Nor does half a request."""
    before = await everything(site.pool)
    for body, error in (
        ({"systemMode": "free"}, "无效的系统模式"),
        ({"systemMode": ""}, "无效的系统模式"),
        ({"systemMode": "promotion", "promotionCardKeyType": "day"}, "无效的卡密类型"),
        ({"systemMode": "promotion", "promotionCardKeyType": ""}, "无效的卡密类型"),
        ({"systemMode": 1}, "参数格式错误"),
    ):
        assert (400, error) == error_of(await site.adm.post(MODE, body)), body
    assert before == await everything(site.pool)


async def test_the_mode_can_be_set_in_a_document_that_holds_something_else(site: People) -> None:
    """A section that is no section is none."""
    await configure(site.pool, CardKeyConfig=["junk"])
    status, body = await site.adm.post(MODE, {"systemMode": "promotion"})

    assert (200, "promotion") == (status, body["systemMode"])
