"""Two hundred requests at once to one front: exactly what there is to get is got, and no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.accounts import ledger, locks, passwords
from shared.accounts.passwords import Verdict
from shared.settings import Settings
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    enrol,
    error_of,
    give_points,
    new_keys,
    people,
    query,
    signed,
)

MANY = 200


@pytest.fixture(name="site", params=[True, False], ids=["locks", "no-locks"])
async def _site(
    migrated: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[People]:
    """With and without the locks in Redis, on which no promise rests. Passwords cost nothing."""

    async def plain(password: str, _field: str = "") -> str:
        return password

    async def compared(password: str, stored: str | None) -> Verdict:
        return Verdict(password == stored)

    monkeypatch.setattr(passwords, "hashed", plain)
    monkeypatch.setattr(passwords, "verify", compared)
    # The last of a crowd may wait for long on a slow machine: that is not what is shown here.
    monkeypatch.setattr(locks, "WAIT_S", 120)
    monkeypatch.setattr(ledger, "TIMEOUT_S", 120)
    settings = replace(migrated, redis_locks=request.param, registrations_per_address=1_000_000)
    async with people(settings) as site:
        yield site


async def test_one_of_many_users_binds_a_key(site: People) -> None:
    """The others are told that it is used, and have no membership."""
    names = [f"user{number}" for number in range(MANY)]
    await enrol(site.pool, *names)
    [key] = await new_keys(site.pool)
    callers = [signed(site.front, name) for name in names]
    answers = await asyncio.gather(
        *(caller.post("/api/user/cardkey", {"cardKey": key}) for caller in callers)
    )

    assert {200: 1, 400: MANY - 1} == Counter(status for status, _ in answers)
    assert {"卡密已被使用"} == {error_of(answer)[1] for answer in answers if answer[0] == 400}
    [winner] = [name for name, answer in zip(names, answers, strict=True) if answer[0] == 200]
    assert [(winner,)] == await query(site.pool, "SELECT username FROM memberships")


async def test_points_for_three_keys_are_three_keys(site: People) -> None:
    """However many requests one user sends."""
    await give_points(site.pool, "ann", 999)
    answers = await asyncio.gather(*(site.ann.post("/api/redeem/cardkey") for _ in range(MANY)))
    keys = [body["cardKey"] for _, body in answers if body["success"]]

    assert {200} == {status for status, _ in answers}
    assert (3, 3) == (len(keys), len(set(keys)))
    assert {"积分不足"} == {body["error"] for _, body in answers if not body["success"]}
    assert (200, {"balance": 99}) == await site.ann.get("/api/points/balance")


async def test_one_address_is_rewarded_once(site: People) -> None:
    """Whoever registers from there; all of them are there afterwards, and were invited."""
    [(code,)] = await query(
        site.pool, "SELECT invitation_code FROM user_points WHERE username = 'ann'"
    )
    answers = await asyncio.gather(
        *(
            Caller(site.front, address="198.51.100.1").register(
                f"user{number}", invitationCode=code
            )
            for number in range(MANY)
        )
    )

    assert {200: MANY} == Counter(status for status, _ in answers)
    _, info = await site.ann.get("/api/invitation/info")
    assert (MANY, 100, 100) == (info["totalInvites"], info["totalRewards"], info["balance"])


async def test_one_of_many_takes_a_name(site: People) -> None:
    """In any spelling; the others are told, and their keys stay unused."""
    keys = await new_keys(site.pool, 40)
    spellings = ("newbie", "Newbie", "NEWBIE", "nEwBiE")
    answers = await asyncio.gather(
        *(
            Caller(site.front).register(spellings[number % 4], cardKey=key)
            for number, key in enumerate(keys)
        )
    )

    assert {200: 1, 400: 39} == Counter(status for status, _ in answers)
    assert {"该用户名已被注册"} == {error_of(each)[1] for each in answers if each[0] == 400}
    [(used,)] = await query(site.pool, "SELECT COUNT(*) FROM card_keys WHERE status = 'used'")
    assert 1 == used


async def test_no_balance_goes_below_zero(site: People) -> None:
    """Admins take, the user redeems, all at the same moment."""
    await give_points(site.pool, "ann", 1_000)
    take = {"username": "ann", "type": "deduct", "amount": 100, "reason": "r"}
    answers = await asyncio.gather(
        *(
            site.ann.post("/api/redeem/cardkey")
            if number % 2
            else site.adm.post("/api/admin/points/adjust", take)
            for number in range(40)
        )
    )
    taken = sum(100 for status, body in answers if body == {"ok": True})
    redeemed = sum(300 for _, body in answers if body.get("success"))

    assert {200, 400} >= {status for status, _ in answers}
    assert (200, {"balance": 1_000 - taken - redeemed}) == await site.ann.get("/api/points/balance")
    assert 1_000 - taken - redeemed < 100


async def test_a_ban_and_logins_at_once_leave_nobody_in(site: People) -> None:
    """Whichever comes first: after the ban no session of the user counts."""
    await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
    callers = [Caller(site.front) for _ in range(10)]
    ban = site.adm.post("/api/admin/user", {"action": "ban", "targetUsername": "cat"})
    await asyncio.gather(*(caller.log_in("cat") for caller in callers), ban)

    assert [False] * 10 == [await caller.is_in() for caller in callers]
