"""A user's own membership and card keys, as front ends ask for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.accounts.card_keys import hash_of
from shared.settings import Settings
from shared.times import DAY_MS, datetime_text, now_ms
from tests.callers import (
    LONG_AGO_MS,
    People,
    error_of,
    give_points,
    new_keys,
    people,
    query,
)

PATH = "/api/user/cardkey"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def bound(site: People, kind: Any = "week", age_days: int = 0) -> dict[str, Any]:
    """What ann is told of her membership after she bound a new key."""
    [key] = await new_keys(site.pool, 1, kind, age_days)
    status, body = await site.ann.post(PATH, {"cardKey": key})
    assert (200, True) == (status, body["ok"])
    info: dict[str, Any] = body["cardKeyInfo"]
    return info


async def end_in(site: People, days: float) -> None:
    """Let ann's membership end so many days from now."""
    until = datetime_text(now_ms() + int(days * DAY_MS))
    for table in ("memberships", "user_card_keys"):
        await query(site.pool, f"UPDATE {table} SET expires_at = %s", until)


async def test_a_key_makes_a_membership(site: People) -> None:
    """With all that the settings page shows of it."""
    assert (200, {"hasCardKey": False}) == await site.ann.get(PATH)
    [key] = await new_keys(site.pool, 1, "month")
    _, answer = await site.ann.post(PATH, {"cardKey": f" {key}\n"})
    status, body = await site.ann.get(PATH)
    info = body["cardKeyInfo"]

    assert {"ok": True, "cardKeyInfo": info} == answer
    assert (200, True) == (status, body["hasCardKey"])
    expected = {
        "plainKey": key,
        "boundKey": hash_of(key),
        "daysRemaining": 30,
        "isExpiring": True,
        "isExpired": False,
        "source": "admin_created",
    }
    assert expected == {name: info[name] for name in expected}
    assert {*expected, "expiresAt", "boundAt"} == set(info)


async def test_a_first_key_gives_what_is_left_of_it_and_a_second_all_its_days(
    site: People,
) -> None:
    """An unused key ages; bound to a running membership it extends that by its whole days."""
    first = await bound(site, "month", age_days=10)
    assert 20 == first["daysRemaining"]
    second = await bound(site, "week", age_days=3)

    assert first["expiresAt"] + 7 * DAY_MS == second["expiresAt"]


async def test_a_membership_that_ended_begins_anew(site: People) -> None:
    """From now on, by all days of the new key."""
    await bound(site)
    await end_in(site, -5)
    assert (await site.ann.get(PATH))[1]["cardKeyInfo"]["isExpired"]

    assert 7 == (await bound(site, age_days=2))["daysRemaining"]


async def test_a_key_that_cannot_be_bound_says_why(site: People) -> None:
    """And the membership stays what it was."""
    [key, other] = await new_keys(site.pool, 2)
    [old] = await new_keys(site.pool, age_days=7)
    await site.bob.post(PATH, {"cardKey": key})
    for body, expected in (
        ({}, "缺少卡密"),
        ({"cardKey": ""}, "缺少卡密"),
        ({"cardKey": " \u3000"}, "缺少卡密"),
        ({"cardKey": None}, "缺少卡密"),
        ({"cardKey": ["x"]}, "缺少卡密"),
        ({"cardKey": key}, "卡密已被使用"),
        ({"cardKey": old}, "卡密已过期"),
        ({"cardKey": other.swapcase()}, "卡密无效或不存在"),
        ({"cardKey": hash_of(other)}, "卡密无效或不存在"),
        ({"cardKey": other + "\u0000"}, "卡密无效或不存在"),
    ):
        assert (400, expected) == error_of(await site.ann.post(PATH, body)), body
    assert (200, {"hasCardKey": False}) == await site.ann.get(PATH)
    assert (400, "卡密已被使用") == error_of(await site.bob.post(PATH, {"cardKey": key}))


async def test_the_owner_may_bind_a_key_before_there_is_a_row(site: People) -> None:
    """It is made on the way."""
    [key] = await new_keys(site.pool)

    assert 200 == (await site.owner.post(PATH, {"cardKey": key}))[0]
    assert (await site.owner.get(PATH))[1]["hasCardKey"]


async def test_keys_are_listed_by_where_they_came_from(site: People) -> None:
    """Redeemed ones with the days that are left; all of them on the other page."""
    await give_points(site.pool, "ann", 600)
    _, redeemed = await site.ann.post("/api/redeem/cardkey")
    _, given_away = await site.ann.post("/api/redeem/cardkey")
    await bound(site)
    await site.bob.post(PATH, {"cardKey": given_away["cardKey"]})
    status, own = await site.ann.get("/api/user/cardkeys")
    _, everything = await site.ann.get("/api/cardkeys/my")
    by_key = {key["plainKey"]: key for key in own["cardKeys"]}

    assert (200, {redeemed["cardKey"], given_away["cardKey"]}) == (status, set(by_key))
    kept = by_key[redeemed["cardKey"]]
    expected = {"status": "unused", "type": "week", "source": "redeem", "username": "ann"}
    assert {**expected, "daysRemaining": 7} == {
        name: kept[name] for name in (*expected, "daysRemaining")
    }
    assert not kept.get("isExpired", False)
    gone = by_key[given_away["cardKey"]]
    assert ("used", "bob") == (gone["status"], gone["usedBy"])
    assert {"manual", "redeem"} == {key["source"] for key in everything["cardKeys"]}
    assert 3 == len(everything["cardKeys"])
    assert not any("daysRemaining" in key for key in everything["cardKeys"])


async def test_a_redeemed_key_that_ran_out_says_so(site: People) -> None:
    """No days are left, never fewer."""
    await give_points(site.pool, "ann", 300)
    await site.ann.post("/api/redeem/cardkey")
    await end_in(site, -3)
    _, own = await site.ann.get("/api/user/cardkeys")

    assert [True] == [key["isExpired"] for key in own["cardKeys"]]
    assert [0] == [key.get("daysRemaining", 0) for key in own["cardKeys"]]


@pytest.mark.parametrize(
    ("days", "kind", "urgency"),
    [
        (-0.1, "expired", "high"),
        (0.5, "expiring", "medium"),
        (6.5, "expiring", "medium"),
        (7.5, "expiring", "low"),
        (29.5, "expiring", "low"),
        (30.5, "active", "none"),
    ],
)
async def test_the_banner_gets_pressing(site: People, days: float, kind: str, urgency: str) -> None:
    """Who needs to do something is told where."""
    assert (200, "welcome", "none") == (
        (first := await site.ann.get("/api/user/welcome-banner"))[0],
        first[1]["type"],
        first[1]["urgency"],
    )
    await bound(site)
    await end_in(site, days)
    _, banner = await site.ann.get("/api/user/welcome-banner")

    assert (kind, urgency) == (banner["type"], banner["urgency"])
    assert ("/settings" if kind != "active" else None) == banner.get("actionUrl")
    assert banner["expirationDate"].endswith("Z")
    assert (0 if days < 0 else int(days) + 1) == banner["daysRemaining"]


async def test_everybody_sees_only_what_is_theirs(site: People) -> None:
    """Whatever name stands in the query or the body."""
    await bound(site)
    [key] = await new_keys(site.pool)
    other = {"username": "ann", "user": "ann", "targetUsername": "ann"}
    for path in ("/api/user/cardkey", "/api/user/cardkeys", "/api/cardkeys/my"):
        assert "ann" not in str(await site.bob.get(path, **other))
    await site.bob.post(PATH, {"cardKey": key, **other})

    [(owner,)] = await query(
        site.pool, "SELECT bound_to FROM card_keys WHERE key_hash = %s", hash_of(key)
    )
    assert "bob" == owner


async def test_an_imported_membership_without_its_keys_text_is_shown(site: People) -> None:
    """Older sites kept the hash alone: there is no text to show, and that is no error."""
    assert LONG_AGO_MS < (await bound(site))["boundAt"]
    await query(site.pool, "UPDATE card_keys SET plain_key = '', source = NULL")
    _, body = await site.ann.get(PATH)

    assert {"plainKey", "source"}.isdisjoint(body["cardKeyInfo"])
