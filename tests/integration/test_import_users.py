"""`moonwake import-users`: the accounts of a LunaTV site, brought along and made to agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from redis.asyncio import Redis

from ops import accounts_import, accounts_users
from ops.accounts_books import KINDS
from ops.accounts_page import Page
from ops.audit import audit
from shared.accounts import admin_config, memberships, passwords, registration, users
from shared.accounts import points as accounts
from shared.accounts.invitations import Invitation
from shared.accounts.points import Cause
from shared.accounts.users import NewUser
from shared.errors import NotFound, Refused
from shared.mysql import Cursor, Pool, open_mysql, transaction
from shared.settings import Settings
from tests.commands import moonwake
from tests.lunatv import site, site_url
from tests.odd_sites import (
    AT,
    DAY,
    OWNER,
    OddSite,
    bound,
    moment,
    points,
    put,
    put_fields,
    put_held,
    put_history,
    put_invitation,
    put_key,
    put_points,
    put_reward,
    put_users,
    scrypt,
    sha256,
)
from tests.plays import rows

COUNTS = ("found", "created", "filled", "kept", "refused", "repaired")
TABLES = (
    *("users", "barred_users", "user_points", "points_records", "memberships", "card_keys"),
    *("user_card_keys", "invitations", "ip_reward_records", "user_login_stats"),
    *("admin_configs", "invitation_configs"),
)


@pytest.fixture(name="luna")
async def _luna(migrated: Settings) -> AsyncIterator[Redis]:
    async with site(migrated) as redis:
        yield redis


async def bring(settings: Settings, *options: str, code: int | None = 0) -> dict[str, Any]:
    """The summary of an import that ends with *code*; it always adds up."""
    done = await moonwake(settings, "import-users", site_url(settings), "--json", *options)
    assert done.exit_code in ((0, 1) if code is None else (code,)), done.output
    summary: dict[str, Any] = orjson.loads(done.stdout)
    kinds = {kind: counts for kind, counts in summary.items() if kind != "dry_run"}
    for counts in kinds.values():
        taken = counts["created"] + counts["filled"] + counts["kept"]
        assert counts["found"] == taken + counts["refused"], summary
        for what in ("refused", "repaired"):
            assert counts[what] == sum(counts[f"{what}_by_reason"].values())
    assert done.exit_code == any(counts["refused"] for counts in kinds.values())
    return summary


def told(summary: dict[str, Any], kind: str) -> dict[str, int]:
    """The counts of *kind* that are not 0."""
    return {name: summary[kind][name] for name in COUNTS if summary[kind][name]}


async def everything(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables of accounts, with their ids and times."""
    found = {table: await rows(pool, f"SELECT * FROM {table}") for table in TABLES}
    return {table: sorted(content, key=repr) for table, content in found.items()}


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_a_site_is_like_what_comes_along_agrees(
    migrated: Settings, pool: Pool, luna: Redis, seed: int
) -> None:
    """The audit is clean, a dry run tells the same, a second run changes and repairs nothing."""
    await OddSite(luna, seed).build()
    planned = await bring(migrated, "--dry-run", code=None)
    assert [(0,)] == await rows(pool, "SELECT COUNT(*) FROM users")

    done = await bring(migrated, code=None)

    assert {**planned, "dry_run": False} == done
    assert [] == await audit(pool, OWNER)
    before = await everything(pool)
    again = await bring(migrated, code=None)
    assert before == await everything(pool)
    for kind in again.keys() - {"dry_run"}:
        first, second = done[kind], again[kind]
        assert (first["found"], first["refused"]) == (second["found"], second["refused"])
        assert (0, 0, 0) == (second["created"], second["filled"], second["repaired"]), kind


# --- users ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pwd", "hashed", "given"),
    [
        pytest.param("s3cret", None, "s3cret", id="plaintext"),
        pytest.param("!", None, "!", id="a plaintext that means nobody here"),
        pytest.param(scrypt("s3cret"), None, "s3cret", id="scrypt"),
        pytest.param(None, sha256("s3cret"), "s3cret", id="SHA-256"),
        pytest.param("new", sha256("old"), "new", id="both: the first was changed last"),
        pytest.param("", sha256("s3cret"), "s3cret", id="an empty one beside a hash"),
    ],
)
@pytest.mark.parametrize("where", ["u", "user"])
async def test_every_user_logs_in_as_before(
    *,
    migrated: Settings,
    pool: Pool,
    luna: Redis,
    where: str,
    pwd: str | None,
    hashed: str | None,
    given: str,
) -> None:
    """Whatever the form and the layout; a plaintext password is in no row."""
    if pwd is not None:
        await luna.set("u:ann:pwd", pwd)
    if hashed is not None:
        await put_fields(luna, f"{where}:ann:info", password=hashed, role="user")

    summary = await bring(migrated)

    assert {"found": 1, "created": 1} == told(summary, "users")
    [(stored,)] = await rows(pool, "SELECT password_hash FROM users")
    assert (await passwords.verify(given, stored)).right
    assert stored.startswith("$argon2id$") or stored in {pwd, hashed}
    assert [("ann", 0)] == await rows(pool, "SELECT username, balance FROM user_points")


@pytest.mark.parametrize("pwd", ["", "x" * 1_025, "$argon2id$" + "x" * 300])
async def test_a_user_without_a_usable_password_comes_along_without_one(
    migrated: Settings, pool: Pool, luna: Redis, pwd: str
) -> None:
    """An admin can give a new one; nobody logs in until then."""
    await luna.set("u:ann:pwd", pwd)

    summary = await bring(migrated)

    assert [("ann", "!")] == await rows(pool, "SELECT username, password_hash FROM users")
    assert ({"password_unusable": 1} if pwd else {}) == summary["users"]["repaired_by_reason"]


async def test_users_are_found_wherever_a_site_keeps_them(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Lists, hashes, passwords and the document; names that differ by case are two users."""
    await luna.set("u:ann:pwd", "secret")
    await put_fields(luna, "u:a:b:info", role="user", created_at=str(AT))
    await put_fields(luna, "user:plus:info", role="admin", password=sha256("x"))
    await put_users(luna, {"username": "Ann", "oidcSub": "sub", "createdAt": AT + 1})
    await luna.zadd("users:list", {"listed": AT + 2})
    await luna.sadd("sys:users", "member")  # type: ignore[misc]

    assert {"found": 6, "created": 6} == told(await bring(migrated), "users")

    query = "SELECT username, role, oidc_sub, created_at FROM users ORDER BY username"
    found = {name: rest for name, *rest in await rows(pool, query)}
    assert ["Ann", "a:b", "ann", "listed", "member", "plus"] == sorted(found)
    assert ["user", "sub", moment(AT + 1)] == found["Ann"]
    assert moment(AT) == found["a:b"][2]
    assert moment(AT + 2) == found["listed"][2]
    assert "admin" == found["plus"][0]


async def test_the_document_says_what_a_user_may_do(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """The hash is stale: it counts where the document says nothing.

    But not for groups and APIs: whose last one was taken away has none in the document.
    """
    hashed = {"role": "admin", "banned": "true", "tags": '["old"]', "enabledApis": '["x"]'}
    for name in ("ann", "bob"):
        await put_fields(luna, f"u:{name}:info", **hashed, oidcSub=f"sub-{name}")
    live = {"username": "ann", "role": "user", "banned": False, "tags": ["new"]}
    await put_users(luna, {**live, "tvboxToken": "token", "showAdultContent": True})

    await bring(migrated)

    query = (
        "SELECT username, role, banned, tags, enabled_apis, oidc_sub, tvbox_token,"
        " show_adult_content FROM users ORDER BY username"
    )
    assert [
        ("ann", "user", 0, ["new"], [], "sub-ann", "token", 1),
        ("bob", "admin", 1, ["old"], ["x"], "sub-bob", None, 0),
    ] == [
        (*row[:3], orjson.loads(row[3]), orjson.loads(row[4]), *row[5:])
        for row in await rows(pool, query)
    ]
    assert [("bob", "banned")] == await rows(pool, "SELECT username, reason FROM barred_users")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ('["a", "b"]', ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("vip", ["vip"]),
        ("", []),
        ("5", ["5"]),
        ('{"a": 1}', ['{"a": 1}']),
    ],
)
async def test_tags_are_read_in_every_form(
    migrated: Settings, pool: Pool, luna: Redis, tags: str, expected: list[str]
) -> None:
    """A JSON list, names with commas, a bare word."""
    await put_fields(luna, "u:ann:info", role="user", tags=tags)

    await bring(migrated)

    [(stored,)] = await rows(pool, "SELECT tags FROM users")
    assert expected == orjson.loads(stored)


async def test_the_owner_is_whom_the_environment_names(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """His password is not stored, nobody else gets his role, and nobody bans him."""
    await luna.set(f"u:{OWNER}:pwd", "secret")
    entries = [
        {"username": name, "role": "owner", "banned": name == OWNER} for name in ("eve", OWNER)
    ]
    await put_users(luna, *entries)

    summary = await bring(migrated)

    query = "SELECT username, password_hash, role, banned FROM users ORDER BY username"
    assert [(OWNER, "!", "owner", 0), ("eve", "!", "admin", 0)] == await rows(pool, query)
    expected = {"owner_made_admin": 1, "owner_not_banned": 1}
    assert expected == summary["users"]["repaired_by_reason"]
    assert [] == await rows(pool, "SELECT * FROM barred_users")


async def test_an_owner_without_a_key_of_his_own_comes_with_his_points(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """On a LunaTV he normally has none."""
    await put_points(luna, OWNER, 30, 30, 0)

    await bring(migrated)

    assert [(OWNER, "owner")] == await rows(pool, "SELECT username, role FROM users")
    assert [(30,)] == await rows(pool, "SELECT balance FROM user_points")


async def test_one_identity_of_a_login_provider_stays_with_one_user(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """With whom the site logs in by it."""
    for name in ("ann", "bob", "cas"):
        await put_fields(luna, f"u:{name}:info", role="user", oidcSub="sub")
    await luna.set("oidc:sub:sub", "bob")

    summary = await bring(migrated)

    query = "SELECT username, oidc_sub FROM users ORDER BY username"
    assert [("ann", None), ("bob", "sub"), ("cas", None)] == await rows(pool, query)
    assert {"identity_taken": 2} == summary["users"]["repaired_by_reason"]


async def put_what_cannot_be_taken(luna: Redis) -> None:
    """Something of every kind; only ann and one of her records are as they should be."""
    await luna.set("u:ann:pwd", "secret")
    for name in ("a" * 51, "space ", "con\ntrol", "cat:pr:src+1"):
        await luna.set(f"u:{name}:pwd", "secret")
    await luna.set(b"u:\xff:pwd", "secret")
    await luna.sadd("u:dan:pwd", "a set")  # type: ignore[misc]
    await put_fields(luna, "u:eve:info", role="emperor")
    await put_users(luna, {"username": "fay", "tags": [5]}, {"role": "user"}, {"username": 7})
    await put(luna, "user:points:ann", b"{broken")
    await put(luna, "user:points:nobody", {"balance": 5})
    await put_history(luna, "nobody", points("1", "earn", 5), points("2", "earn", 5))
    await put_history(
        luna, "ann", b"[]", points("3", "earn", -5), points("4", "gift", 5), points("5", "earn", 5)
    )
    await put(luna, "user_login_stats:ann", {"loginCount": "many"})
    await put(luna, "cardkey:hash:short", {})
    await put(luna, f"cardkey:hash:{sha256('x')}", {"keyType": "week"})
    await put_held(luna, "nobody", sha256("y"), "held")
    await put(luna, "user:cardkey:ann:1", {"id": "2"})
    await put(luna, "invitation:invitee:bob", [])
    await put_invitation(luna, "ann", "nobody")
    await put(luna, "ip:reward:192.0.2.1", {"id": "1"})
    await put_reward(luna, "unknown", "ann", "bob")
    await put(
        luna, "config:invitation", {"rewardPoints": 0, "redeemThreshold": 1, "cardKeyType": "week"}
    )


async def test_an_identity_that_is_somebodys_here_stays_theirs(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """The user comes along without it."""
    async with transaction(pool) as cursor:
        user = NewUser(username="bob", password_hash="x", oidc_sub="sub")
        await registration.create_user(cursor, user, AT)
    await put_users(luna, {"username": "ann", "oidcSub": "sub"})

    summary = await bring(migrated)

    query = "SELECT username, oidc_sub FROM users ORDER BY username"
    assert [("ann", None), ("bob", "sub")] == await rows(pool, query)
    assert {"identity_taken": 1} == summary["users"]["repaired_by_reason"]


async def test_what_cannot_be_taken_is_told_and_the_rest_is_taken(
    migrated: Settings, pool: Pool, luna: Redis, tmp_path: Path
) -> None:
    """Each refusal has its kind, its key and its reason, in the report or on the terminal."""
    await put_what_cannot_be_taken(luna)
    report = tmp_path / "refused.jsonl"

    summary = await bring(migrated, "--report", str(report), code=1)

    reasons = {kind: summary[kind]["refused_by_reason"] for kind in KINDS}
    assert {
        "users": {"ambiguous_key": 1, "invalid_key_format": 1, "invalid_user_name": 3}
        | {"invalid_value": 4, "wrong_type": 1},
        "card_keys": {"invalid_key": 1, "invalid_value": 1},
        "user_card_keys": {"invalid_value": 1, "no_such_user": 1},
        "memberships": {},
        "points_accounts": {"broken_json": 1, "no_such_user": 1},
        "points_records": {"invalid_value": 3, "no_such_user": 2},
        "invitations": {"invalid_value": 1, "no_such_user": 1},
        "ip_rewards": {"invalid_value": 1, "unknown_address": 1},
        "login_stats": {"invalid_value": 1},
        "configurations": {"奖励积分必须是正整数": 1},
    } == reasons
    assert [("ann", 5)] == await rows(pool, "SELECT username, balance FROM user_points")
    assert [] == await audit(pool, OWNER)
    lines = [orjson.loads(line) for line in report.read_bytes().splitlines()]
    assert {
        "what": "refused",
        "kind": "login_stats",
        "where": "user_login_stats:ann",
        "reason": "invalid_value",
        "detail": "loginCount: allowed is Expected `int`, got `str`",
    } in lines
    assert b"secret" not in report.read_bytes()

    spoken = await moonwake(migrated, "import-users", site_url(migrated))
    assert 1 == spoken.exit_code
    assert (
        "refused: users: u:dan:pwd: wrong_type: it is a set: allowed is a string" in spoken.output
    )
    assert "refused points records: no_such_user 2" in spoken.output


# --- what is here already -----------------------------------------------------------


async def test_who_was_only_met_here_is_filled_in(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """A play made the row; what was decided here since stays."""
    async with transaction(pool) as cursor:
        for name in ("ann", "bob", OWNER):
            role = "owner" if name == OWNER else "user"
            values = (name, role)
            await cursor.execute(
                "INSERT INTO users (username, password_hash, role) VALUES (%s, '!', %s)", values
            )
        await users.set_banned(cursor, "bob", banned=True)
    await luna.set("u:ann:pwd", scrypt("secret"))
    entry = {"username": "ann", "role": "admin", "tags": ["vip"], "banned": True}
    await put_users(luna, entry, {"username": "bob"}, {"username": OWNER, "role": "owner"})

    assert {"found": 3, "filled": 3} == told(await bring(migrated), "users")

    query = "SELECT username, password_hash, role, banned, tags FROM users ORDER BY username"
    assert [
        (OWNER, "!", "owner", 0, "[]"),
        ("ann", scrypt("secret"), "admin", 1, '["vip"]'),
        ("bob", "!", "user", 1, "[]"),
    ] == await rows(pool, query)
    assert [] == await audit(pool, OWNER)
    assert {"found": 3, "kept": 3} == told(await bring(migrated), "users")


async def test_who_is_met_at_that_moment_is_filled_in(
    migrated: Settings, pool: Pool, luna: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker made the row between the look and the insert."""
    await luna.set("u:ann:pwd", scrypt("secret"))
    real = accounts_users.bring_user

    async def met(page: Page, *arguments: Any) -> bool:
        class Meeting:
            """The transaction's cursor; behind its first look comes the worker."""

            looked = False

            async def execute(self, *statement: Any) -> None:
                await page.cursor.execute(*statement)
                if not self.looked:
                    self.looked = True
                    async with open_mysql(migrated) as own, transaction(own) as other:
                        await other.execute(
                            "INSERT IGNORE INTO users (username, password_hash) VALUES ('ann', '!')"
                        )

            def __getattr__(self, name: str) -> Any:
                return getattr(page.cursor, name)

        monkeypatch.setattr(accounts_import, "bring_user", real)
        return await real(replace(page, cursor=cast("Cursor", Meeting())), *arguments)

    monkeypatch.setattr(accounts_import, "bring_user", met)

    assert {"found": 1, "filled": 1} == told(await bring(migrated), "users")
    assert [(scrypt("secret"),)] == await rows(pool, "SELECT password_hash FROM users")


async def test_what_changed_here_since_stays(migrated: Settings, pool: Pool, luna: Redis) -> None:
    """Passwords, roles, bans, points, codes and settings are this site's after the first run."""
    await luna.set("u:ann:pwd", "secret")
    await put_users(luna, {"username": "ann"}, {"username": "oidc", "oidcSub": "sub"})
    await put_points(luna, "ann", 10, 10, 0, invitationCode="OLD")
    await bring(migrated)
    async with transaction(pool) as cursor:
        await users.set_password(cursor, "ann", "changed here")
        await users.set_banned(cursor, "ann", banned=True)
        await users.set_role(cursor, "oidc", "admin")
        await accounts.earn(cursor, "ann", 5, Cause("here"), AT)
        document = await admin_config.read(cursor)
        await admin_config.write(cursor, {"Here": 1}, document.version)
    before = await everything(pool)
    entries: list[dict[str, Any]] = [
        {"username": "ann", "tags": ["new"]},
        {"username": "oidc", "role": "user"},
    ]
    await put_users(luna, *entries, There=1)
    await put_points(luna, "ann", 70, 70, 0, invitationCode="NEW")
    await put_history(luna, "ann", points("late", "earn", 60))

    summary = await bring(migrated, code=1)

    assert before == await everything(pool)
    assert {"account_kept": 1} == summary["points_records"]["refused_by_reason"]


async def test_a_password_that_came_later_is_filled_in(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """And nothing else: the role here may have been changed since."""
    await put_users(luna, {"username": "ann", "oidcSub": "sub"})
    await bring(migrated)
    await luna.set("u:ann:pwd", scrypt("secret"))
    await put_users(luna, {"username": "ann", "role": "admin", "banned": True})

    assert {"found": 1, "filled": 1} == told(await bring(migrated), "users")

    query = "SELECT password_hash, role, banned, oidc_sub FROM users"
    assert [(scrypt("secret"), "user", 0, "sub")] == await rows(pool, query)


async def test_who_was_deleted_here_does_not_come_back(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Nor anything of theirs; only --restore-deleted brings them back."""
    key = await put_key(luna, "k", status="used", boundTo="ann", boundAt=AT + DAY)
    await put_users(luna, {"username": "ann", "cardKey": bound(key)})
    await put_held(luna, "ann", key, "held")
    await put_points(luna, "ann", 5, 5, 0)
    await put_history(luna, "ann", points("1", "earn", 5))
    await bring(migrated)
    async with transaction(pool) as cursor:
        await users.delete(cursor, "ann")

    summary = await bring(migrated, code=1)

    for kind in ("users", "memberships", "user_card_keys", "points_accounts", "points_records"):
        assert {"deleted_here": 1} == summary[kind]["refused_by_reason"], kind
    assert [] == await rows(pool, "SELECT * FROM users")
    assert [] == await audit(pool, OWNER)

    await bring(migrated, "--restore-deleted")
    [(name, plain, *_)] = await rows(pool, MEMBERS)
    assert ("ann", "k") == (name, plain)
    assert [] == await rows(pool, "SELECT * FROM barred_users")
    assert [] == await audit(pool, OWNER)


# --- points -----------------------------------------------------------------------


SUMS = """
SELECT p.balance, p.total_earned, p.total_redeemed, COALESCE(SUM(r.amount), 0),
    COALESCE(SUM(IF(r.type = 'earn', r.amount, 0)), 0),
    COALESCE(-SUM(IF(r.type = 'redeem', r.amount, 0)), 0)
FROM user_points p LEFT JOIN points_records r ON r.username = p.username
WHERE p.username = 'ann' GROUP BY p.balance, p.total_earned, p.total_redeemed
"""


@pytest.mark.parametrize(
    ("account", "records", "expected", "opening"),
    [
        ((70, 100, 30), [("earn", 100), ("redeem", -30)], (70, 100, 30), {}),
        ((70, 100, 30), [("earn", 100), ("redeem", 30)], (70, 100, 30), {}),
        ((70, 500, 430), [("earn", 100)], (70, 500, 430), {"earn": 400, "redeem": -430}),
        ((70, 0, 0), [], (70, 0, 0), {"admin_adjust": 70}),
        ((0, 100, 0), [("earn", 100), ("admin_adjust", -40)], (0, 100, 0), {"admin_adjust": -60}),
        ((5, 50, 0), [("earn", 100)], (5, 100, 0), {"admin_adjust": -95}),
        ((-5, -1, -2), [], (0, 0, 0), {}),
        (None, [("earn", 100), ("redeem", -30)], (70, 100, 30), {}),
        (None, [("redeem", -30)], (0, 0, 30), {"admin_adjust": 30}),
        ((3_000, 2_000_000_000, 0), [("earn", 1)], (3_000, 2_000_000_000, 0), None),
    ],
)
async def test_points_add_up_whatever_the_site_lost(
    *,
    migrated: Settings,
    pool: Pool,
    luna: Redis,
    account: tuple[int, int, int] | None,
    records: list[tuple[str, int]],
    expected: tuple[int, int, int],
    opening: dict[str, int] | None,
) -> None:
    """The balance is the site's; opening records before all others make up for what is gone."""
    await luna.set("u:ann:pwd", sha256("x"))
    if account is not None:
        await put_points(luna, "ann", *account, invitationCode="CODE")
    for n, (kind, amount) in enumerate(records):
        await put_history(luna, "ann", points(f"id-{n}", kind, amount, createdAt=AT + n))

    await bring(migrated)

    [sums] = await rows(pool, SUMS)
    assert (*expected, *expected) == tuple(int(each) for each in sums)
    made = await rows(
        pool,
        "SELECT type, amount, created_at FROM points_records WHERE reason = '导入期初' ORDER BY 1",
    )
    assert opening in (None, {kind: amount for kind, amount, _ in made})
    assert {moment(AT - bool(records))} >= {at for _, _, at in made}
    [(code,)] = await rows(pool, "SELECT invitation_code FROM user_points")
    assert code == (None if account is None else "CODE")


async def test_a_history_may_have_the_name_of_a_users_points(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """A key is what its type says: the points of the user 'history:ann' are a string."""
    for name in ("ann", "history:ann"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
    await put_history(luna, "bob", points("1", "earn", 3))
    await luna.set("u:bob:pwd", sha256("x"))
    await put_points(luna, "history:ann", 9, 9, 0)

    await bring(migrated)

    query = "SELECT username, balance FROM user_points ORDER BY username"
    assert [("ann", 0), ("bob", 3), ("history:ann", 9)] == await rows(pool, query)


async def test_an_empty_account_here_is_filled_and_keeps_its_code(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Nothing ever happened to it; who was invited by its code knows that one."""
    await luna.set("u:ann:pwd", sha256("x"))
    await bring(migrated)
    async with transaction(pool) as cursor:
        code = (await accounts.lock_account(cursor, "ann")).invitation_code
    await put_points(luna, "ann", 5, 5, 0, invitationCode="OTHER")

    assert {"found": 1, "filled": 1} == {
        name: count
        for name, count in told(await bring(migrated), "points_accounts").items()
        if name != "repaired"
    }

    query = "SELECT invitation_code, balance FROM user_points"
    assert [(code, 5)] == await rows(pool, query)
    assert [] == await audit(pool, OWNER)


async def test_an_invitation_code_belongs_to_one_user(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Another of the same code gets one of their own when it is asked for."""
    for name in ("ann", "bob"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
        await put_points(luna, name, 0, 0, 0, invitationCode="SAME")

    summary = await bring(migrated)

    query = "SELECT username, invitation_code FROM user_points ORDER BY username"
    assert [("ann", "SAME"), ("bob", None)] == await rows(pool, query)
    assert {"code_taken": 1} == summary["points_accounts"]["repaired_by_reason"]


# --- card keys ----------------------------------------------------------------------


MEMBERS = """
SELECT m.username, k.plain_key, k.key_type, m.bound_at, m.expires_at
FROM memberships m JOIN card_keys k ON k.key_hash = m.key_hash ORDER BY m.username
"""
KEYS = "SELECT plain_key, status, bound_to, bound_at FROM card_keys ORDER BY plain_key, bound_to"
HELD = "SELECT username, status, source, used_by, expires_at FROM user_card_keys ORDER BY username"
BOUND_AT, UNTIL = moment(AT + DAY), moment(AT + 40 * DAY)


async def test_memberships_and_keys_come_along_as_they_are(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Of the document and of the hash the document counts; a key that agrees needs no repair."""
    used = {"status": "used", "boundAt": AT + DAY}
    mine = await put_key(luna, "mine", kind="month", boundTo="ann", **used)
    await put_held(
        luna, "ann", mine, "h1", type="month", status="used", usedBy="ann", expiresAt=AT + 40 * DAY
    )
    other = await put_key(luna, "other", source=None)
    await put_fields(luna, "u:ann:info", role="user", cardKey=orjson.dumps(bound(other)).decode())
    await put_users(luna, {"username": "ann", "cardKey": bound(mine)})

    summary = await bring(migrated)

    assert [("ann", "mine", "month", BOUND_AT, UNTIL)] == await rows(pool, MEMBERS)
    assert [("mine", "used", "ann", BOUND_AT), ("other", "unused", None, None)] == await rows(
        pool, KEYS
    )
    assert [("ann", "used", "redeem", "ann", UNTIL)] == await rows(pool, HELD)
    assert 0 == sum(summary[kind]["repaired"] for kind in KINDS)


@pytest.mark.parametrize(
    ("fields", "repairs"),
    [
        ({}, {"made_used": 1}),
        ({"status": "expired"}, {"made_used": 1}),
        ({"status": "used"}, {"bound_to": 1, "bound_at": 1}),
        ({"status": "used", "boundTo": "ann", "boundAt": 5}, {"bound_at": 1}),
        ({"status": "used", "boundTo": "gone", "boundAt": AT + DAY}, {"bound_to": 1}),
        ({"key": "other text"}, {"made_used": 1, "plain_key_wrong": 1}),
        (None, {"key_made": 1}),
    ],
)
async def test_the_key_of_a_membership_is_used_and_its_users(
    *,
    migrated: Settings,
    pool: Pool,
    luna: Redis,
    fields: dict[str, Any] | None,
    repairs: dict[str, int],
) -> None:
    """Whatever the key itself says; one that is gone is made, of the type that fits."""
    key = sha256("k") if fields is None else await put_key(luna, "k", **fields)
    await put_users(luna, {"username": "ann", "cardKey": bound(key)})

    summary = await bring(migrated)

    plain = "k" if fields is not None and "key" not in fields else ""
    kind = "month" if fields is None else "week"
    assert [("ann", plain, kind, BOUND_AT, UNTIL)] == await rows(pool, MEMBERS)
    assert [(key, "used", "ann")] == await rows(
        pool, "SELECT key_hash, status, bound_to FROM card_keys"
    )
    assert [("ann", "used", "manual", "ann", UNTIL)] == await rows(pool, HELD)
    assert repairs == summary["card_keys"]["repaired_by_reason"]
    assert {"row_made": 1} == summary["user_card_keys"]["repaired_by_reason"]
    assert [] == await audit(pool, OWNER)


@pytest.mark.parametrize(
    ("bound_to", "first"), [("bob", "bob"), ("ann", "ann"), (None, "bob"), ("gone", "bob")]
)
async def test_of_two_members_with_one_key_nobody_loses_time(
    *, migrated: Settings, pool: Pool, luna: Redis, bound_to: str | None, first: str
) -> None:
    """The key is whose it says, else who bound first; the other gets one that is made up."""
    key = await put_key(luna, "k", status="used", boundTo=bound_to, boundAt=AT)
    ann, bob = bound(key, AT + DAY), bound(key, AT + DAY - 1, AT + 50 * DAY)
    await put_users(luna, {"username": "ann", "cardKey": ann}, {"username": "bob", "cardKey": bob})

    summary = await bring(migrated)

    assert {"key_taken": 1} == summary["memberships"]["repaired_by_reason"]
    found = {name: (plain, until) for name, plain, _, _, until in await rows(pool, MEMBERS)}
    assert {"ann": UNTIL, "bob": moment(AT + 50 * DAY)} == {
        name: until for name, (_, until) in found.items()
    }
    assert [first] == [name for name, (plain, _) in found.items() if plain == "k"]
    assert [] == await audit(pool, OWNER)

    # Both go, and come back.
    before = await rows(pool, MEMBERS)
    async with transaction(pool) as cursor:
        for name in found:
            await users.delete(cursor, name)
    await bring(migrated, "--restore-deleted")
    assert before == await rows(pool, MEMBERS)
    assert [] == await audit(pool, OWNER)


async def test_a_key_that_was_given_away_is_used_with_whom_redeemed_it(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """On a LunaTV it stays unused there; and who bound it, but holds no row, gets one."""
    for name in ("ann", "bob"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
    key = await put_key(
        luna, "k", source="promotion_register", status="used", boundTo="bob", boundAt=AT + DAY
    )
    await put_held(luna, "ann", key, "h1")
    await put_points(luna, "ann", 0, 600, 600)
    for id_ in ("h1", "gone"):
        await put_history(luna, "ann", points(f"p-{id_}", "redeem", -300, cardKeyId=id_))

    summary = await bring(migrated)

    assert [
        ("ann", "used", "redeem", "bob", moment(AT + 7 * DAY)),
        ("bob", "used", "promotion_register", "bob", moment(AT + 7 * DAY)),
    ] == await rows(pool, HELD)
    expected = {"made_used": 1, "row_made": 1}
    assert expected == summary["user_card_keys"]["repaired_by_reason"]
    query = "SELECT id, card_key_id FROM points_records WHERE type = 'redeem' ORDER BY id"
    assert [("p-gone", None), ("p-h1", "h1")] == await rows(pool, query)
    assert 1 == summary["points_records"]["repaired_by_reason"]["key_gone"]


async def test_a_key_that_somebody_used_who_is_gone_cannot_be_bound_again(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Only their row tells of it; the row itself has no user here."""
    key = await put_key(luna, "k")
    await put_held(luna, "gone", key, "h1", status="used", usedAt=AT + 5)

    summary = await bring(migrated, code=1)

    assert [("k", "used", None, moment(AT + 5))] == await rows(pool, KEYS)
    assert {"made_used": 1} == summary["card_keys"]["repaired_by_reason"]


async def test_a_key_that_comes_after_its_used_row_is_used(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """It could not be read when its row came along."""
    await luna.set("u:ann:pwd", sha256("x"))
    await put_held(luna, "ann", sha256("k"), "h1", status="used", usedBy="ann")
    await bring(migrated)
    await luna.delete("u:ann:pwd", "user:cardkey:ann:h1")
    await put_key(luna, "k", kind="year")

    await bring(migrated)

    query = "SELECT k.status, h.key_type FROM card_keys k JOIN user_card_keys h USING (key_hash)"
    assert [("used", "year")] == await rows(pool, query)
    assert [] == await audit(pool, OWNER)


async def test_rows_of_one_id_are_told_apart(migrated: Settings, pool: Pool, luna: Redis) -> None:
    """The second gets an id of its own, and no record of points takes the first for it."""
    for name in ("ann", "bob"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
        await put_held(luna, name, await put_key(luna, f"k-{name}"), "same")
        await put_history(luna, name, points(name, "redeem", -300, cardKeyId="same"))

    summary = await bring(migrated)

    query = "SELECT username, id = 'same' FROM user_card_keys ORDER BY username"
    assert [("ann", 1), ("bob", 0)] == await rows(pool, query)
    query = "SELECT username, card_key_id FROM points_records WHERE type = 'redeem' ORDER BY 1"
    assert [("ann", "same"), ("bob", None)] == await rows(pool, query)
    assert {"id_taken": 1} == summary["user_card_keys"]["repaired_by_reason"]
    assert [] == await audit(pool, OWNER)


async def test_keys_that_were_bound_here_stay_bound(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """What the site says later of such a key costs nobody their membership."""
    for name in ("ann", "bob", "cas"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
    first, second = await put_key(luna, "k1"), await put_key(luna, "k2")
    await put_held(luna, "cas", first, "h1")
    await put_held(luna, "cas", second, "h2")
    await bring(migrated)
    async with transaction(pool) as cursor:
        await memberships.bind(cursor, "ann", "k1", AT + DAY)
    # At the old site bob binds the first key, and ann the second one.
    for key, plain, user in ((first, "k1", "bob"), (second, "k2", "ann")):
        await put_key(luna, plain, status="used", boundTo=user, boundAt=AT + DAY)
        await put_fields(luna, f"u:{user}:info", cardKey=orjson.dumps(bound(key)).decode())

    summary = await bring(migrated)

    assert [
        ("ann", "k1", moment(AT + 7 * DAY)),
        ("bob", "", UNTIL),
    ] == [(name, plain, until) for name, plain, _, _, until in await rows(pool, MEMBERS)]
    assert {"found": 2, "filled": 1, "kept": 1, "repaired": 1} == told(summary, "card_keys") | {
        "repaired": 1
    }
    assert [("ann",), ("ann",)] == await rows(
        pool, "SELECT used_by FROM user_card_keys WHERE username = 'cas'"
    )
    assert [] == await audit(pool, OWNER)


# --- invitations and settings -----------------------------------------------------


@pytest.mark.parametrize(
    ("ip", "reward", "earned", "expected"),
    [
        ("192.0.2.1", ("ann", "bob"), True, ("192.0.2.1", 1, moment(AT + 5))),
        ("192.0.2.1", ("ann", "bob"), False, ("192.0.2.1", 0, None)),
        ("192.0.2.1", ("ann", "cas"), True, ("192.0.2.1", 0, None)),
        ("192.0.2.1", None, True, ("192.0.2.1", 0, None)),
        ("::ffff:192.0.2.1", ("ann", "bob"), True, ("192.0.2.1", 1, moment(AT + 5))),
        ("2001:db8::5", ("ann", "bob"), True, ("2001:db8::5", 1, moment(AT + 5))),
        ("some text", ("ann", "bob"), True, ("some text", 1, moment(AT + 5))),
        ("unknown", ("ann", "bob"), True, ("", 0, None)),
    ],
)
async def test_an_invitation_is_rewarded_where_address_and_points_say_so(
    *,
    migrated: Settings,
    pool: Pool,
    luna: Redis,
    ip: str,
    reward: tuple[str, str] | None,
    earned: bool,
    expected: tuple[Any, ...],
) -> None:
    """LunaTV itself never notes it."""
    for name in ("ann", "bob"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
    await put_invitation(luna, "ann", "bob", ip)
    if reward is not None:
        await put_reward(luna, ip, *reward)
    if earned:
        await put_history(luna, "ann", points("1", "earn", 100, relatedUser="bob"))

    summary = await bring(migrated, code=None)

    assert {"found": 1, "created": 1} == told(summary, "invitations")
    query = "SELECT ip_address, rewarded, reward_time FROM invitations"
    assert [expected] == await rows(pool, query)
    assert [] == await audit(pool, OWNER)


async def test_an_address_that_was_rewarded_there_is_not_rewarded_here(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """Each /64 counts as one, as it does here; other addresses of it keep their records."""
    await luna.set("u:ann:pwd", sha256("x"))
    await put_points(luna, "ann", 0, 0, 0, invitationCode="CODE")
    for n, ip in enumerate(("192.0.2.1", "2001:db8::1", "2001:db8::2")):
        await put_reward(luna, ip, "ann", f"friend{n}")
    await bring(migrated)

    async with transaction(pool) as cursor:
        for name, address in (("bob", "192.0.2.1"), ("cas", "2001:db8::3"), ("dan", "192.0.2.9")):
            user = NewUser(username=name, password_hash="x")
            await registration.create_user(cursor, user, AT, invitation=Invitation("CODE", address))

    assert [("dan",)] == await rows(pool, "SELECT invitee FROM invitations WHERE rewarded")
    query = "SELECT ip_address FROM ip_reward_records WHERE inviter = 'ann' ORDER BY 1"
    expected = ["192.0.2.1", "192.0.2.9", "2001:db8::/64", "2001:db8::2"]
    assert [(address,) for address in expected] == await rows(pool, query)


async def test_what_nobody_understands_of_the_configuration_is_left_out_and_told(
    migrated: Settings, pool: Pool, luna: Redis, tmp_path: Path
) -> None:
    """Else nobody could store the document again, as a page for admins sends it back."""
    rules = {"enabled": True, "systemMode": "both", "promotionCardKeyType": "", "other": 1}
    await put_users(luna, {"username": "ann"}, CardKeyConfig=rules, SiteConfig={"SiteName": "x"})
    document = orjson.loads(await luna.get("admin:config"))
    document["UserConfig"]["AllowRegister"] = "no"
    await put(luna, "admin:config", document)

    report = tmp_path / "report"
    summary = await bring(migrated, "--report", str(report))

    assert {"found": 1, "filled": 1, "repaired": 2} == told(summary, "configurations")
    async with transaction(pool) as cursor:
        stored = (await admin_config.read(cursor)).config
    del rules["systemMode"]
    assert (rules, {}) == (stored["CardKeyConfig"], stored["UserConfig"])
    assert "CardKeyConfig.systemMode: allowed is operation, promotion" in report.read_text()
    admin_config.check(stored)


async def test_configuration_and_logins_come_along(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """The document without its users, whose table is the truth; days are those of the site."""
    document = {"SiteConfig": {"SiteName": "月"}, "CardKeyConfig": {"enabled": True}}
    await put_users(luna, {"username": "ann"}, **document)
    config = {"enabled": False, "rewardPoints": 7, "redeemThreshold": 9, "cardKeyType": "year"}
    await put(luna, "config:invitation", config)
    evening = AT // DAY * DAY + 20 * 3_600_000
    stats = {"loginCount": 4, "firstLoginTime": 0, "lastLoginTime": evening}
    await put(luna, "user_login_stats:ann", stats)

    assert {"found": 2, "filled": 2} == told(await bring(migrated), "configurations")

    [(stored, version)] = await rows(pool, "SELECT config_value, version FROM admin_configs")
    assert ({**document, "UserConfig": {}}, 2) == (orjson.loads(stored), version)
    query = "SELECT enabled, reward_points, redeem_threshold, card_key_type FROM invitation_configs"
    assert [(0, 7, 9, "year")] == await rows(pool, query)
    query = (
        "SELECT login_count, first_login_at, last_login_at, last_login_date FROM user_login_stats"
    )
    at = moment(evening)
    assert [(4, None, at, at.date() + timedelta(days=1))] == await rows(pool, query)


# --- the run ----------------------------------------------------------------------


class Killed(BaseException):
    """What SIGKILL would do: nothing catches it."""


STEPS = (
    *("bring_loose_keys", "bring_rewards", "bring_points", "bring_keys", "bring_invitations"),
    "bring_document",
)


@pytest.mark.parametrize("step", STEPS)
async def test_an_import_killed_half_way_is_made_whole_by_the_next(
    migrated: Settings, pool: Pool, luna: Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Wherever it dies nothing is half there, and the end is the same as without."""
    await OddSite(luna, 5).build()
    calls, real = 0, getattr(accounts_import, step)

    async def dying(*arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        await real(*arguments, **options)
        if calls == (8 if step in ("bring_points", "bring_keys") else 1):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(accounts_import, step, dying)
        with pytest.raises(Killed):
            await bring(migrated, code=None)
    users = await rows(pool, "SELECT COUNT(*) FROM users")
    assert ([(7,)] == users) is (step in ("bring_points", "bring_keys"))
    assert [] == await audit(pool, OWNER)

    await bring(migrated, code=None)

    assert [] == await audit(pool, OWNER)
    interrupted = await essentials(pool)
    async with transaction(pool) as cursor:
        for table in TABLES[::-1][2:]:
            await cursor.execute(f"DELETE FROM {table}")
        await cursor.execute("UPDATE admin_configs SET config_value = '{}'")
    await bring(migrated, code=None)
    assert await essentials(pool) == interrupted


async def essentials(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """What an import decides; no row numbers, salts or times of the import."""
    columns = {
        "users": "username, password_hash = '!', role, banned, tags, oidc_sub",
        "user_points": "username, invitation_code, balance, total_earned, total_redeemed",
        "points_records": "id, username, type, amount, reason, related_user, card_key_id",
        "memberships": "*",
        "card_keys": "key_hash, plain_key, key_type, status, source, bound_to, bound_at",
        "user_card_keys": "*",
        "invitations": "id, inviter, invitee, ip_address, rewarded, reward_time",
        "ip_reward_records": "*",
        "user_login_stats": "username, login_count, last_login_at, last_login_date",
        "admin_configs": "config_value",
    }
    return {
        table: sorted(await rows(pool, f"SELECT {chosen} FROM {table}"), key=repr)
        for table, chosen in columns.items()
    }


@pytest.mark.parametrize("seed", range(4))
async def test_a_site_that_went_on_beside_this_one_still_agrees(
    migrated: Settings, pool: Pool, luna: Redis, seed: int
) -> None:
    """Two sites that change the same accounts contradict each other; what is here stays right."""
    await OddSite(luna, seed).build()
    await bring(migrated, code=None)
    async with transaction(pool) as cursor:
        for plain, name in (("key1", "user1"), ("key2", "user2"), ("key3", "user3")):
            with suppress(Refused):
                await memberships.bind(cursor, name, plain, AT)
        for change in (
            users.delete(cursor, "user4"),
            accounts.adjust(cursor, "user5", 40, Cause("here"), AT),
            users.set_password(cursor, "user6", "changed here"),
        ):
            with suppress(NotFound):
                await change
    before = await essentials(pool)
    await luna.flushdb()
    await OddSite(luna, seed + 100).build()

    await bring(migrated, code=None)

    after = await essentials(pool)
    assert [] == await audit(pool, OWNER)
    for table in ("memberships", "points_records"):
        assert set(before[table]) <= set(after[table]), table
    await bring(migrated, "--restore-deleted", code=None)
    assert [] == await audit(pool, OWNER)


async def test_a_user_whom_mysql_refuses_is_told_and_the_others_are_taken(
    migrated: Settings, pool: Pool, luna: Redis
) -> None:
    """With all that is theirs: nobody comes along half."""
    for name in ("ann", "bob"):
        await luna.set(f"u:{name}:pwd", sha256("x"))
    most = 2_000_000_000
    await put_points(luna, "ann", 1, 1, 0)
    await put_history(luna, "ann", points("1", "earn", most), points("2", "earn", most))

    summary = await bring(migrated, code=1)

    assert [("bob",)] == await rows(pool, "SELECT username FROM users")
    for kind, count in {"users": 1, "points_accounts": 1, "points_records": 2}.items():
        assert {"refused_by_mysql": count} == summary[kind]["refused_by_reason"]


async def test_the_old_site_is_only_read(migrated: Settings, pool: Pool, luna: Redis) -> None:
    """An account that may do nothing but read is enough."""
    await OddSite(luna, 1).build()
    await luna.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+only"],
        keys=["*"],
        categories=["+@read", "+@connection"],
    )
    try:
        done = await moonwake(migrated, "import-users", site_url(migrated, "reader:only@"))
    finally:
        await luna.acl_deluser("reader")

    assert 1 == done.exit_code, done.output
    assert [] != await rows(pool, "SELECT * FROM users")


async def test_an_empty_site_brings_nothing(migrated: Settings, pool: Pool) -> None:
    """Not even the owner."""
    summary = await bring(migrated)

    assert {} == {kind: counts for kind in KINDS if (counts := told(summary, kind))}
    assert [] == await rows(pool, "SELECT * FROM users")


async def test_a_site_that_cannot_be_read_ends_the_command_with_2(migrated: Settings) -> None:
    """A script can tell 'try again' from 'something was refused'."""
    done = await moonwake(migrated, "import-users", "redis://127.0.0.1:1/0")

    assert (2, True) == (done.exit_code, "the Redis to import from" in done.output)


async def test_many_users_come_in_portions(migrated: Settings, pool: Pool, luna: Redis) -> None:
    """More than are read, and more keys than are written, at a time."""
    for n in range(120):
        await luna.set(f"u:user{n}:pwd", sha256("x"))
        await put_points(luna, f"user{n}", 5, 5, 0)
    for n in range(450):
        await put_key(luna, f"key{n}")

    summary = await bring(migrated)

    assert {"found": 120, "created": 120} == told(summary, "users")
    assert {"found": 450, "created": 450} == told(summary, "card_keys")
    assert [(120, 600)] == await rows(pool, "SELECT COUNT(*), SUM(balance) FROM user_points")
