"""`moonwake audit`: what the domain leaves behind is clean, and every disagreement is named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest

from ops.audit import EXAMPLES_MAX, audit
from ops.audit_checks import CHECKS, Check
from shared.accounts import card_keys, memberships, points, redemption, registration, users
from shared.accounts.invitations import Invitation, InvitationConfig
from shared.accounts.points import Cause
from shared.accounts.users import NewUser
from shared.mysql import (
    Cursor,
    Dialect,
    Pool,
    dialect_of,
    reading,
    rows_changed,
    snapshot,
    transaction,
)
from shared.settings import Settings
from shared.times import DAY_MS
from tests.commands import moonwake
from tests.plays import rows
from tests.waiting import until

OWNER = "admin"
NOW_MS = 1_700_000_000_000
WEEKLY = InvitationConfig(
    enabled=True, reward_points=100, redeem_threshold=100, card_key_type="week"
)


async def _join(cursor: Cursor, name: str, inviter: str = "", address: str | None = None) -> None:
    invitation = None
    if inviter:
        account = await points.lock_account(cursor, inviter)
        invitation = Invitation(account.invitation_code, address)
    user = NewUser(username=name, password_hash="secret", after_former=True)
    await registration.create_user(cursor, user, NOW_MS, invitation=invitation)


async def _play_only(cursor: Cursor) -> None:
    """What drains and imports leave of users whom nobody registered."""
    await users.ensure_owner(cursor, OWNER)
    for name in ("met", "李小龍 'quoted' {0}%s"):
        await cursor.execute(
            "INSERT INTO users (username, password_hash) VALUES (%s, '!')", (name,)
        )


async def _invite(cursor: Cursor) -> None:
    """Ann invites from every kind of address; one who was invited goes and comes again."""
    await _join(cursor, "ann")
    await _join(cursor, "ben", "ann", "192.0.2.1")
    await _join(cursor, "cas", "ann", "2001:db8:0:1::a")
    await _join(cursor, "dee", "ann", "2001:db8:0:1::b")  # the same household
    await _join(cursor, "eve", "ann", None)
    await _join(cursor, "flo", "ann", "::1")
    await _join(cursor, "gus", "ben", "192.0.2.9")
    await users.delete(cursor, "cas")
    await _join(cursor, "cas", "ann", "192.0.2.2")
    await _join(cursor, "hal", "cas", "192.0.2.3")
    await users.delete(cursor, "cas")  # an inviter too
    await users.delete(cursor, "gus")


async def _use_keys(cursor: Cursor) -> None:
    """Keys are redeemed, given away, bound, bound after another; their users go, or time does."""
    own = await redemption.redeem(cursor, "ann", WEEKLY, NOW_MS)
    await memberships.bind(cursor, "ann", own.key, NOW_MS)
    given = await redemption.redeem(cursor, "ann", WEEKLY, NOW_MS)
    await memberships.bind(cursor, "dee", given.key, NOW_MS + 1)
    old, later, left, dead, held = card_keys.new_keys("month", 5, "admin_created", NOW_MS)
    await card_keys.insert(cursor, [old, later, left, dead, held])
    await memberships.bind(cursor, "eve", old.key, NOW_MS)
    await memberships.bind(cursor, "eve", later.key, NOW_MS + DAY_MS)
    await memberships.bind(cursor, "hal", left.key, NOW_MS)
    await users.delete(cursor, "hal")
    await cursor.execute(*card_keys.holding_of("flo", held, "manual", "held-1"))
    await cursor.execute(*card_keys.holding_of("flo", dead, "manual", "held-2"))
    await card_keys.delete_unused(cursor, dead.key_hash)
    await points.adjust(cursor, "ann", 40, Cause("gift", admin_username=OWNER), NOW_MS)
    await points.adjust(cursor, "ann", -5, Cause("oops", admin_username=OWNER), NOW_MS)


async def _settle(cursor: Cursor) -> None:
    """Some are banned, some no more; keys of which time is over are marked, one is fresh."""
    for name in ("ben", "dee"):
        await users.set_banned(cursor, name, banned=True)
    await users.set_banned(cursor, "dee", banned=False)
    await card_keys.expire(cursor, NOW_MS + 40 * DAY_MS)
    [fresh] = card_keys.new_keys("year", 1, "admin_created", NOW_MS)
    await card_keys.insert(cursor, [fresh])
    await cursor.execute(*card_keys.holding_of("flo", fresh, "manual", "held-3"))
    # As imported: the real front ends' word for an address they do not know, a key in no list.
    await cursor.execute(
        "INSERT INTO invitations (id, inviter, invitee, invitation_code, ip_address, rewarded,"
        " reward_time) VALUES ('old', 'dee', 'met', 'OLD', 'unknown', TRUE, NOW(3))"
    )
    await cursor.execute(
        "INSERT INTO ip_reward_records (id, ip_address, inviter, invitee)"
        " VALUES ('old', 'unknown', 'dee', 'met')"
    )
    await points.earn(cursor, "dee", 7, Cause("邀请好友注册", related_user="met"), NOW_MS)
    await cursor.execute(
        "INSERT INTO card_keys (key_hash, plain_key, key_type, status, expires_at)"
        " VALUES (REPEAT('a', 64), '', 'week', 'unused', NOW(3))"
    )


@pytest.fixture(name="site")
async def _site(pool: Pool) -> Pool:
    """A database in which everything happened that may happen."""
    async with transaction(pool) as cursor:
        for step in (_play_only, _invite, _use_keys, _settle):
            await step(cursor)
    return pool


async def test_whatever_may_happen_leaves_nothing_to_find(site: Pool) -> None:
    """Nobody is woken for a deleted user, an import or somebody who only ever played."""
    assert [] == await audit(site, OWNER)
    counts = await rows(
        site,
        "SELECT (SELECT COUNT(*) FROM invitations WHERE rewarded), COUNT(*) FROM memberships",
    )
    assert [(3, 3)] == counts


async def test_an_empty_site_is_clean(pool: Pool) -> None:
    """A new installation has its configuration, and nothing else."""
    assert [] == await audit(pool, OWNER)


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done by hand, and what is to be said of it."""

    check: str
    sql: tuple[str, ...]
    told: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.check}: {self.told}"


_ANNS_KEY = "(SELECT key_hash FROM memberships WHERE username = 'ann')"
_EVES_KEY = "(SELECT key_hash FROM memberships WHERE username = 'eve')"
_FRESH_KEY = "(SELECT key_hash FROM user_card_keys WHERE id = 'held-3')"

DAMAGES = [
    Damage(
        "points-sums",
        ("UPDATE user_points SET balance = balance + 1 WHERE username = 'ann'",),
        "ann: balance 236 (records: 235), earned 400 (400), redeemed 200 (200)",
    ),
    Damage(
        "points-sums",
        ("UPDATE user_points SET total_earned = 0 WHERE username = 'ann'",),
        "earned 0 (400)",
    ),
    Damage(
        "points-sums",
        ("UPDATE user_points SET total_redeemed = 7 WHERE username = 'dee'",),
        "dee: balance 7 (records: 7), earned 7 (7), redeemed 7 (0)",
    ),
    Damage(
        "points-sums",
        ("UPDATE user_points SET balance = 9 WHERE username = 'flo'",),
        "flo: balance 9 (records: 0)",
    ),
    Damage(
        "points-signs",
        (
            "UPDATE points_records SET amount = -amount WHERE username = 'dee'",
            "UPDATE user_points SET balance = 10, total_earned = 10 WHERE username = 'dee'",
            "INSERT INTO points_records (id, username, type, amount, reason)"
            " VALUES ('more', 'dee', 'earn', 17, '')",
        ),
        "earn -7",
    ),
    Damage(
        "points-signs",
        (
            "INSERT INTO points_records (id, username, type, amount, reason)"
            " VALUES ('paid', 'flo', 'redeem', 5, ''), ('back', 'flo', 'redeem', -5, '')",
        ),
        "flo: record paid, redeem 5",
    ),
    Damage(
        "points-without-account",
        (
            "INSERT INTO points_records (id, username, type, amount, reason)"
            " VALUES ('lost', 'met', 'admin_adjust', 5, '')",
        ),
        "met: 1 records, 5 points",
    ),
    Damage(
        "user-without-account",
        ("UPDATE users SET password_hash = 'secret' WHERE username = 'met'",),
        "met (user)",
    ),
    Damage(
        "invitation-code-empty",
        ("UPDATE user_points SET invitation_code = '' WHERE username = 'dee'",),
        "dee",
    ),
    Damage(
        "card-key-hash",
        (f"UPDATE card_keys SET plain_key = 'another' WHERE key_hash = {_FRESH_KEY}",),
        "card_keys.id",
    ),
    Damage(
        "card-key-binding",
        ("UPDATE card_keys SET bound_at = NULL WHERE status = 'used' AND bound_to IS NULL",),
        "used, bound to nobody, bound never",
    ),
    Damage(
        "card-key-binding",
        (f"UPDATE card_keys SET bound_to = 'flo' WHERE key_hash = {_FRESH_KEY}",),
        "unused, bound to flo, bound never",
    ),
    Damage(
        "card-key-binding",
        ("UPDATE card_keys SET bound_at = NOW(3) WHERE status = 'expired'",),
        "expired, bound to nobody",
    ),
    Damage(
        "card-key-not-held",
        (
            "DELETE FROM user_card_keys WHERE username = 'eve'"
            f" AND key_hash <> {_EVES_KEY} AND status = 'used'",
        ),
        "is bound, the user's row is missing",
    ),
    Damage(
        "card-key-used-unbound",
        ("UPDATE user_card_keys SET status = 'used', used_by = 'flo' WHERE id = 'held-3'",),
        "is used by flo, and still unused",
    ),
    Damage(
        "card-key-used-unbound",
        ("UPDATE user_card_keys SET status = 'used', used_by = 'flo' WHERE id = 'held-1'",),
        "is used by flo, and still expired",
    ),
    Damage(
        "card-key-used-twice",
        (f"UPDATE user_card_keys SET used_by = 'ben' WHERE key_hash = {_ANNS_KEY}",),
        "bound to ann, used by ben according to ann's keys",
    ),
    Damage(
        "held-key-unusable",
        (
            "UPDATE user_card_keys SET status = 'unused', used_by = NULL"
            " WHERE username = 'ann' AND used_by = 'dee'",
        ),
        "is used",
    ),
    Damage(
        "held-key-unusable",
        ("UPDATE user_card_keys SET status = 'unused' WHERE id = 'held-1'",),
        "is expired",
    ),
    Damage(
        "held-key-unusable",
        (f"DELETE FROM card_keys WHERE key_hash = {_FRESH_KEY}",),
        "is missing",
    ),
    Damage(
        "held-key-without-user",
        ("UPDATE user_card_keys SET used_by = NULL WHERE username = 'ann' AND used_by = 'dee'",),
        "ann: key",
    ),
    Damage(
        "held-key-type",
        ("UPDATE user_card_keys SET key_type = 'week' WHERE id = 'held-3'",),
        "is shown as week, and is year",
    ),
    Damage(
        "redeemed-key-missing",
        ("DELETE FROM user_card_keys WHERE username = 'ann' AND used_by = 'dee'",),
        "ann: 100 points for key",
    ),
    Damage(
        "redeemed-key-missing",
        (
            "INSERT INTO points_records (id, username, type, amount, reason, card_key_id)"
            " SELECT 'twice', username, type, amount, reason, card_key_id FROM points_records"
            f" WHERE card_key_id = (SELECT id FROM user_card_keys WHERE key_hash = {_ANNS_KEY})",
            "UPDATE user_points SET balance = balance - 100, total_redeemed = total_redeemed + 100"
            " WHERE username = 'ann'",
        ),
        "paid 2 times",
    ),
    Damage(
        "membership-key",
        ("UPDATE memberships SET bound_at = bound_at + INTERVAL 1 SECOND WHERE username = 'ann'",),
        "is used, bound to ann at 2023-11-14 22:13:20",
    ),
    Damage(
        "membership-key",
        ("UPDATE card_keys SET bound_to = NULL WHERE bound_to = 'ann'",),
        "bound to nobody",
    ),
    Damage(
        "membership-not-held",
        (
            "UPDATE memberships SET expires_at = expires_at + INTERVAL 1 SECOND"
            " WHERE username = 'ann'",
        ),
        "ann: membership until 2023-11-21 22:13:21",
    ),
    Damage(
        "invitation-reward-time",
        ("UPDATE invitations SET reward_time = NULL WHERE invitee = 'ben'",),
        "ann invited ben: rewarded, reward time never",
    ),
    Damage(
        "invitation-reward-time",
        ("UPDATE invitations SET reward_time = NOW(3) WHERE invitee = 'eve'",),
        "ann invited eve: not rewarded",
    ),
    Damage(
        "reward-without-address",
        ("UPDATE ip_reward_records SET ip_address = '192.0.2.99' WHERE invitee = 'ben'",),
        "ann was rewarded for ben from 192.0.2.1",
    ),
    Damage(
        "reward-without-address",
        ("UPDATE ip_reward_records SET ip_address = '2001:db8::/64' WHERE invitee = 'flo'",),
        "ann was rewarded for flo from ::1",
    ),
    Damage(
        "reward-without-address",
        (
            "UPDATE ip_reward_records SET inviter = 'eve' WHERE ip_address = 'unknown'",
            "INSERT INTO ip_reward_records (id, ip_address, inviter, invitee)"
            " VALUES ('other', '192.0.2.98', 'dee', 'met')",
        ),
        "dee was rewarded for met from unknown",
    ),
    Damage(
        "reward-without-points",
        ("UPDATE points_records SET related_user = NULL WHERE related_user = 'ben'",),
        "ann for ben",
    ),
    Damage(
        "reward-doubled",
        (
            "INSERT INTO points_records (id, username, type, amount, reason, related_user)"
            " VALUES ('again', 'ann', 'earn', 100, '', 'ben')",
            "UPDATE user_points SET balance = balance + 100, total_earned = total_earned + 100"
            " WHERE username = 'ann'",
        ),
        "ann earned 2 times for ben, from 1 addresses",
    ),
    Damage(
        "ban-unknown-to-fronts",
        ("DELETE FROM barred_users WHERE username = 'ben'",),
        "ben: not barred",
    ),
    Damage(
        "barred-not-banned",
        ("UPDATE users SET banned = FALSE WHERE username = 'ben'",),
        "ben: not banned",
    ),
    Damage(
        "barred-not-banned",
        ("INSERT INTO barred_users (username, reason) VALUES ('ghost', 'banned')",),
        "ghost: no such user",
    ),
    Damage(
        "deleted-user-is-there",
        (
            "INSERT INTO users (username, password_hash) VALUES ('cas', 'hash')",
            "INSERT INTO user_points (username, invitation_code)"
            " VALUES ('cas', 'CASCASCASCASCAS1')",
        ),
        "cas (user), since",
    ),
    Damage(
        "owner-role",
        ("UPDATE users SET role = 'owner' WHERE username = 'dee'",),
        "dee",
    ),
    Damage(
        "owner-barred",
        (
            "UPDATE users SET banned = TRUE WHERE username = 'admin'",
            "INSERT INTO barred_users (username, reason) VALUES ('admin', 'banned')",
        ),
        "admin: banned since",
    ),
    Damage(
        "operation-without-result",
        ("INSERT INTO operations (id, fingerprint) VALUES ('0a', '')",),
        "0a of",
    ),
    Damage(
        "configuration-missing",
        ("DELETE FROM admin_configs", "DELETE FROM invitation_configs"),
        "admin_configs is empty",
        count=2,
    ),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
async def test_a_disagreement_is_found_and_nothing_else(site: Pool, damage: Damage) -> None:
    """Each check finds its own kind, names the rows, and says what to do; no other is alarmed."""
    async with transaction(site) as cursor:
        for statement in damage.sql:
            await cursor.execute(statement)
            assert rows_changed(cursor) > 0, statement

    found = await audit(site, OWNER)

    assert [(damage.check, damage.count)] == [(each.check, each.count) for each in found]
    assert damage.told in found[0].examples[0]
    assert found[0].remedy


def test_every_check_is_tried() -> None:
    """No check is without a disagreement that it finds."""
    tried = {damage.check for damage in DAMAGES} | {"points-negative"}
    assert {check.name for check in CHECKS} == tried


def test_the_guide_has_every_finding() -> None:
    """Who is woken by one finds the same words there."""
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    missing = [
        check.name
        for check in CHECKS
        if f"| `{check.name}` | {check.means} | {check.remedy} |" not in guide
    ]
    assert [] == missing


@asynccontextmanager
async def _unchecked(cursor: Cursor) -> AsyncIterator[None]:
    """Let the database take what its CHECKs forbid."""
    if dialect_of(cursor) is Dialect.MARIADB:
        await cursor.execute("SET check_constraint_checks = OFF")
        yield
        await cursor.execute("SET check_constraint_checks = ON")
        return
    change = "ALTER TABLE user_points ALTER CHECK chk_user_points_balance"
    await cursor.execute(f"{change} NOT ENFORCED")
    try:
        yield
    finally:
        await cursor.execute("UPDATE user_points SET balance = 0 WHERE balance < 0")
        await cursor.execute(f"{change} ENFORCED")


async def test_a_debt_is_found_where_the_database_let_it_in(site: Pool) -> None:
    """A lost CHECK is noticed by what came in without it."""
    async with reading(site) as cursor, _unchecked(cursor):
        await cursor.execute("UPDATE user_points SET balance = -5 WHERE username = 'eve'")
        await cursor.execute(
            "INSERT INTO points_records (id, username, type, amount, reason)"
            " VALUES ('debt', 'eve', 'admin_adjust', -5, '')"
        )
        found = await audit(site, OWNER)

    assert [("points-negative", 1)] == [(each.check, each.count) for each in found]
    assert ["eve: balance -5, earned 0, redeemed 0"] == found[0].examples


# --- one moment ------------------------------------------------------------------------


async def test_what_is_not_committed_is_not_found(site: Pool) -> None:
    """A change half way is none, and the audit waits for no lock of it."""
    async with transaction(site) as cursor:
        await cursor.execute("UPDATE user_points SET balance = balance + 1")
        await cursor.execute("SELECT * FROM users FOR UPDATE")

        assert [] == await audit(site, OWNER)


async def test_all_checks_look_at_the_same_moment(site: Pool) -> None:
    """What is committed between two checks is seen by neither."""
    waiting = Check("waiting", "SELECT 1 AS one WHERE GET_LOCK('audit', 60) = 0", "", "", "")
    async with reading(site) as cursor:
        await cursor.execute("SELECT GET_LOCK('audit', 0)")
        auditing = asyncio.create_task(audit(site, OWNER, [waiting, *CHECKS]))
        await until(lambda: _waits(site), "the audit waits in its first check")
        async with transaction(site) as other:
            await other.execute("UPDATE user_points SET balance = balance + 1")
        await cursor.execute("SELECT RELEASE_LOCK('audit')")

        assert [] == await auditing
    assert ["points-sums"] == [each.check for each in await audit(site, OWNER)]


async def _waits(pool: Pool) -> bool:
    async with reading(pool) as cursor:
        mariadb = dialect_of(cursor) is Dialect.MARIADB
        home = "information_schema" if mariadb else "performance_schema"
        await cursor.execute(f"SELECT COUNT(*) FROM {home}.processlist WHERE state = 'User lock'")
        [count] = await cursor.fetchone()
    return bool(count)


async def test_a_snapshot_leaves_its_session_as_it_was(pool: Pool) -> None:
    """The next user of the connection reads what is committed, and may write."""
    async with snapshot(pool) as cursor:
        await cursor.execute("SELECT CONNECTION_ID()")
        [session] = await cursor.fetchone()

    async with transaction(pool) as cursor:
        await cursor.execute("SELECT CONNECTION_ID()")
        assert (session,) == await cursor.fetchone()
        await cursor.execute("SELECT COUNT(*) FROM users")
        async with transaction(pool) as other:
            await other.execute("INSERT INTO users (username, password_hash) VALUES ('ann', '!')")
        await cursor.execute("SELECT COUNT(*) FROM users")
        assert (1,) == await cursor.fetchone()
        await cursor.execute("DELETE FROM users")


# --- as a command ------------------------------------------------------------------------


async def test_the_command_tells_what_is_wrong_and_ends_with_1(
    site: Pool, migrated: Settings
) -> None:
    """The number is that of all rows, the examples are the first ones, and can be read."""
    clean = await moonwake(migrated, "audit")
    assert (0, f"{len(CHECKS)} checks: everything agrees\n") == (clean.exit_code, clean.output)
    async with transaction(site) as cursor:
        await cursor.executemany(
            "INSERT INTO users (username, password_hash) VALUES (%s, 'secret')",
            [(f"\x1b[31m{n:03d}",) for n in range(1_000)],
        )

    done = await moonwake(migrated, "audit")

    assert 1 == done.exit_code
    assert f"{len(CHECKS)} checks: 1 disagrees" in done.output
    assert "\x1b" not in done.output
    words = re.sub(r"\s+", " ", done.output)
    for part in ("1,000", r"- \x1b[31m000 (user)", "- and 995 more: moonwake audit --json", "do: "):
        assert part in words


async def test_the_json_document_holds_more_examples(site: Pool, migrated: Settings) -> None:
    """A script reads names, numbers and the first examples of each kind."""
    clean = orjson.loads((await moonwake(migrated, "audit", "--json")).stdout)
    assert ("clean", [], len(CHECKS)) == (
        clean["result"],
        clean["findings"],
        len(clean["checks"]),
    )
    async with transaction(site) as cursor:
        await cursor.execute("UPDATE user_points SET invitation_code = '' WHERE username = 'ann'")
        await cursor.executemany(
            "INSERT INTO operations (id, fingerprint) VALUES (%s, '')",
            [(f"{n:03d}",) for n in range(50)],
        )

    done = await moonwake(migrated, "audit", "--json")

    found = orjson.loads(done.stdout)
    assert (1, "disagrees") == (done.exit_code, found["result"])
    assert [("invitation-code-empty", 1, 1), ("operation-without-result", 50, EXAMPLES_MAX)] == [
        (each["check"], each["count"], len(each["examples"])) for each in found["findings"]
    ]
    assert found["findings"][1]["examples"][0].startswith("000 of ")


async def test_a_server_that_does_not_answer_ends_the_audit_with_2(migrated: Settings) -> None:
    """Not to be taken for a disagreement."""
    done = await moonwake(replace(migrated, mysql_port=1), "audit")

    assert (2, True) == (done.exit_code, "MySQL" in done.output)
