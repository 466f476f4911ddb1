"""Who asks is asked at the end of a request: it may have begun long before, as somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from shared.accounts import passwords
from shared.accounts.ledger import user_lock
from shared.settings import Settings
from tests.callers import (
    PASSWORD,
    Caller,
    People,
    Told,
    enrol,
    everything,
    give_points,
    new_keys,
    people,
    told,
    without_signed_cookies,
)
from tests.fronts import Front, front
from tests.plays import record
from tests.waiting import until

USER = "/api/admin/user"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        await enrol(site.pool, "cat", password_hash=await passwords.hashed(PASSWORD))
        yield site


class SlowRequest:
    """One whose headers are there, and whose body ends only when a test says so."""

    def __init__(self, caller: Caller, method: str, path: str, body: Any) -> None:
        self._rest = asyncio.Event()
        self.begun = asyncio.Event()
        self._body = orjson.dumps(body)
        headers = {"content-type": "application/json"}
        request = caller.client.request(method, path, content=self._parts(), headers=headers)
        self._task = asyncio.create_task(request)

    async def _parts(self) -> AsyncIterator[bytes]:
        yield self._body[:1]
        self.begun.set()
        await self._rest.wait()
        yield self._body[1:]

    async def finish(self) -> Told:
        self._rest.set()
        return told(await self._task)


async def logged_in(site: Front, name: str) -> Caller:
    caller = Caller(site)
    assert (200, {"ok": True}) == await caller.log_in(name)
    return caller


async def test_a_session_that_ended_meanwhile_sets_no_password(site: People) -> None:
    """Whoever copied it is out when the user changes theirs, and stays out."""
    async with without_signed_cookies(site) as near:
        thief, cat = await logged_in(near, "cat"), await logged_in(near, "cat")
        slow = SlowRequest(thief, "POST", "/api/change-password", {"newPassword": "stolen"})
        await slow.begun.wait()
        assert (200, {"ok": True}) == await cat.post("/api/change-password", {"newPassword": "new"})

        assert (401, "Unauthorized") == await slow.finish()
        assert (200, {"ok": True}) == await Caller(near).log_in("cat", "new")


async def test_a_front_that_still_trusts_a_session_sets_no_password_by_it(site: People) -> None:
    """Fronts remember sessions for seconds; this is looked up at that moment."""
    async with without_signed_cookies(site) as near, without_signed_cookies(site) as far:
        thief, cat = await logged_in(near, "cat"), await logged_in(near, "cat")
        late = Caller(far)
        late.client.cookies = thief.client.cookies
        assert await late.is_in()
        assert (200, {"ok": True}) == await cat.post("/api/change-password", {"newPassword": "new"})

        assert (401, "Unauthorized") == await late.post(
            "/api/change-password", {"newPassword": "stolen"}
        )
        assert (200, {"ok": True}) == await Caller(near).log_in("cat", "new")


async def test_what_ends_sessions_ends_them_at_once_where_it_was_asked_for(site: People) -> None:
    """This front remembers them no longer."""
    async with without_signed_cookies(site) as near:
        owner = Caller(near)
        await owner.log_in(near.settings.username, near.settings.password)
        change = {"targetUsername": "cat", "targetPassword": PASSWORD}
        for actions in (["changePassword"], ["ban", "unban"]):
            cat = await logged_in(near, "cat")
            assert await cat.is_in()
            for action in actions:
                assert 200 == (await owner.post(USER, {"action": action, **change}))[0]
            assert not await cat.is_in()
        one, other = await logged_in(near, "cat"), await logged_in(near, "cat")
        assert await other.is_in()
        assert (200, {"ok": True}) == await one.post("/api/logout?everywhere=true")
        assert not await other.is_in()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", USER, {"action": "setShowAdultContent", "targetUsername": "bob"}),
        (
            *("POST", "/api/admin/points/adjust"),
            {"username": "ann", "type": "add", "amount": 5, "reason": "r"},
        ),
        ("POST", "/api/admin/cardkey", {"action": "create", "type": "week", "count": 2}),
        ("POST", "/api/admin/cardkey/system-mode", {"systemMode": "operation"}),
        ("PUT", "/api/admin/invitation-config", {"rewardPoints": 1, "redeemThreshold": 1}),
        ("PUT", "/api/admin/config", {"config": {}, "version": 1}),
    ],
)
async def test_an_admin_who_was_banned_meanwhile_changes_nothing(
    site: People, method: str, path: str, body: Any
) -> None:
    """However long they keep the request open."""
    slow = SlowRequest(site.adm, method, path, body)
    await slow.begun.wait()
    await site.owner.post(USER, {"action": "ban", "targetUsername": "adm"})
    before = await everything(site.pool)

    assert (401, {"error": "用户已被封禁"}) == await slow.finish()
    assert before == await everything(site.pool)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/user/cardkey", {}),
        ("/api/redeem/cardkey", {}),
        ("/api/change-password", {"newPassword": "x"}),
        ("/api/playrecords", {"key": "s+1", "record": record()}),
    ],
)
async def test_a_user_who_was_banned_meanwhile_does_nothing(
    site: People, path: str, body: Any
) -> None:
    """Neither with what is theirs nor by playing."""
    await give_points(site.pool, "bob", 1_000)
    [key] = await new_keys(site.pool)
    slow = SlowRequest(site.bob, "POST", path, {"cardKey": key} if "user" in path else body)
    await slow.begun.wait()
    await site.adm.post(USER, {"action": "ban", "targetUsername": "bob"})
    before = await everything(site.pool)

    assert (401, {"error": "用户已被封禁"}) == await slow.finish()
    assert before == await everything(site.pool)
    async with front(site.front.settings) as other:
        await site.adm.post(USER, {"action": "unban", "targetUsername": "bob"})
        await other.site.bars.look()
        assert {} == await other.records("bob")


async def test_an_admin_who_loses_the_role_while_waiting_changes_nothing(site: People) -> None:
    """For a lock that others hold, up to ten seconds: it is asked once more when that is ours."""
    adjust = {"username": "ann", "type": "add", "amount": 5, "reason": "r"}
    async with site.front.site.ledger.locks.hold(user_lock("ann")):
        change = asyncio.create_task(site.adm.post("/api/admin/points/adjust", adjust))
        await until(lambda: waiting_in(site) == 1, "it waits")
        answer = await site.owner.post(USER, {"action": "cancelAdmin", "targetUsername": "adm"})
        assert (200, {"ok": True}) == answer
    assert (403, {"error": "权限不足"}) == await change  # as this route tells others
    assert (200, {"balance": 0}) == await site.ann.get("/api/points/balance")


@pytest.mark.parametrize("path", ["/api/user/cardkey", "/api/redeem/cardkey"])
async def test_who_is_banned_while_waiting_binds_and_redeems_nothing(
    site: People, path: str
) -> None:
    """They were let in when they asked; what counts is when it is their turn."""
    await give_points(site.pool, "bob", 1_000)
    [key] = await new_keys(site.pool)
    async with site.front.site.ledger.locks.hold(user_lock("bob")):
        change = asyncio.create_task(site.bob.post(path, {"cardKey": key}))
        await until(lambda: waiting_in(site, "bob") == 1, "it waits")
        await site.owner.post(USER, {"action": "ban", "targetUsername": "bob"})
        before = await everything(site.pool)
    assert (401, {"error": "用户已被封禁"}) == await change
    assert before == await everything(site.pool)


def waiting_in(site: People, name: str = "ann") -> int:
    """How many wait for a lock of this user's."""
    queue = site.front.site.ledger.locks._queues.get(user_lock(name))
    return 0 if queue is None else len(queue._waiters or ())
