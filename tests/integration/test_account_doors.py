"""Who may come in: the same checks, in the same order, at the door of every account route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.settings import Settings
from tests.callers import People, error_of, everything, people, query, signed

MEMBERS = [
    ("POST", "/api/change-password"),
    ("GET", "/api/user/cardkey"),
    ("POST", "/api/user/cardkey"),
    ("GET", "/api/user/cardkeys"),
    ("GET", "/api/cardkeys/my"),
    ("GET", "/api/user/welcome-banner"),
    ("GET", "/api/points/balance"),
    ("GET", "/api/points/history"),
    ("POST", "/api/redeem/cardkey"),
    ("GET", "/api/invitation/info"),
    ("GET", "/api/invitation-config"),
    ("POST", "/api/logout?everywhere=true"),
]
#: With the status that others than admins get.
ADMINS = [
    ("GET", "/api/admin/cardkey", 401),
    ("POST", "/api/admin/cardkey", 401),
    ("DELETE", "/api/admin/cardkey", 401),
    ("GET", "/api/admin/cardkey/export", 401),
    ("GET", "/api/admin/cardkey/system-mode", 401),
    ("POST", "/api/admin/cardkey/system-mode", 401),
    ("POST", "/api/admin/user", 401),
    ("GET", "/api/admin/config", 401),
    ("PUT", "/api/admin/config", 401),
    ("POST", "/api/admin/points/adjust", 403),
    ("GET", "/api/admin/points/users", 403),
    ("GET", "/api/admin/points/history", 403),
    ("GET", "/api/admin/invitation-config", 403),
    ("PUT", "/api/admin/invitation-config", 403),
]
DOORS = [*MEMBERS, *((method, path) for method, path, _ in ADMINS)]
#: A body that the POST routes of members take, so that nothing else can be the reason.
BODIES: dict[str, Any] = {
    "/api/change-password": {"newPassword": "another password"},
    "/api/user/cardkey": {"cardKey": "A" * 16},
}


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def test_without_a_login_the_answer_is_plain_text(site: People) -> None:
    """401 and one word, as front ends look for it; whatever the body is, nobody looks at it."""
    for method, path in DOORS:
        for body in (None, b"{", {"username": "ann", "targetUsername": "bob"}):
            answer = await site.stranger.answer(method, path, body)

            assert (401, "Unauthorized") == (answer.status_code, answer.text), path
            assert answer.headers["content-type"].startswith("text/plain")


async def test_a_signed_cookie_of_nobody_is_told_so(site: People) -> None:
    """The signature is right, but the database knows no such user."""
    caller = signed(site.front, "nobody", role="owner")
    for method, path in DOORS:
        answer = await caller.send(method, path, BODIES.get(path))

        banner = path == "/api/user/welcome-banner"
        assert ((404, "User not found") if banner else (401, "用户不存在")) == error_of(answer), (
            path
        )


async def test_a_banned_user_is_told_so(site: People) -> None:
    """An admin who was banned too: at once where it is known, and by the database where not."""
    await site.owner.post("/api/admin/user", {"action": "ban", "targetUsername": "adm"})
    for method, path in DOORS:
        at_the_gate = await site.adm.send(method, path, BODIES.get(path))
        assert (401, "用户已被封禁") == error_of(at_the_gate), path
    for method, path in DOORS:
        if path in {"/api/user/cardkey", "/api/redeem/cardkey"} and method == "POST":
            continue  # these two ask the gate alone
        site.front.site.bars.names = {}  # as on another front, a moment later
        by_mysql = await site.adm.send(method, path, BODIES.get(path))
        assert (401, "用户已被封禁") == error_of(by_mysql), path


async def test_admin_routes_are_for_admins(site: People) -> None:
    """By the role in the database: a cookie may claim what it likes, and nothing happens."""
    before = await everything(site.pool)
    for method, path, status in ADMINS:
        for caller in (site.ann, signed(site.front, "ann", role="owner")):
            assert (status, "权限不足") == error_of(await caller.send(method, path, b"{")), path

    assert before == await everything(site.pool)
    for method, path, _ in ADMINS:
        for caller in (site.adm, site.owner):
            assert "权限不足" not in str(await caller.send(method, path))


async def test_a_role_counts_from_the_moment_it_is_given(site: People) -> None:
    """And no longer than it is: no login has to be renewed."""
    give = {"action": "setAdmin", "targetUsername": "ann"}
    statuses = []
    for action in ("setAdmin", "cancelAdmin"):
        await site.owner.post("/api/admin/user", {**give, "action": action})
        statuses.append((await site.ann.get("/api/admin/config"))[0])

    assert [200, 401] == statuses


async def test_only_the_environment_makes_an_owner(site: People) -> None:
    """Whom the table calls owner, say after a change of USERNAME, is a user like others."""
    await query(site.pool, "UPDATE users SET role = 'owner' WHERE username = 'ann'")
    try:
        assert (401, "权限不足") == error_of(await site.ann.get("/api/admin/config"))
        assert (200, "owner") == (
            (config := await site.owner.get("/api/admin/config"))[0],
            config[1]["Role"],
        )
    finally:
        await query(site.pool, "UPDATE users SET role = 'user' WHERE username = 'ann'")


async def test_the_owner_needs_no_row_before_the_first_request(site: People) -> None:
    """A new site has no users at all, and its owner may look at everything."""
    for _, path in [door for door in DOORS if door[0] == "GET" and "history" not in door[1]]:
        assert 200 == (await site.owner.get(path))[0], path
    assert [("owner",)] == await query(
        site.pool, "SELECT role FROM users WHERE username = %s", "admin"
    )
