"""What workers do to accounts every few minutes."""

from __future__ import annotations

from typing import Any

from shared.accounts import card_keys, users
from shared.connections import Pool, transaction
from shared.times import DAY_MS, datetime_text, now_ms
from worker.jobs.housekeeping import OPERATIONS_KEPT_MS, keep_house


async def rows(pool: Pool, query: str) -> list[tuple[Any, ...]]:
    async with transaction(pool) as cursor:
        await cursor.execute(query)
        return list(await cursor.fetchall())


async def test_keys_that_ran_out_unbound_are_marked_with_who_holds_them(pool: Pool) -> None:
    """A used key and one whose time is not over stay as they are."""
    long_ago = now_ms() - 8 * DAY_MS
    old, new = (
        card_keys.new_keys("week", 1, "points_redeem", ms)[0] for ms in (long_ago, now_ms())
    )
    [used] = card_keys.new_keys("week", 1, "admin_created", long_ago)
    async with transaction(pool) as cursor:
        await users.insert(cursor, users.NewUser(username="ann", password_hash="!"), long_ago)
        await card_keys.insert(cursor, [old, new, used])
        for key in (old, new):
            await cursor.execute(*card_keys.holding_of("ann", key, "redeem", card_keys.new_id()))
        await cursor.execute(
            "UPDATE card_keys SET status = 'used' WHERE key_hash = %s", used.key_hash
        )

    await keep_house(pool)

    stored = dict(await rows(pool, "SELECT key_hash, status FROM card_keys"))
    assert {old.key_hash: "expired", new.key_hash: "unused", used.key_hash: "used"} == stored
    held = dict(await rows(pool, "SELECT key_hash, status FROM user_card_keys"))
    assert {old.key_hash: "expired", new.key_hash: "unused"} == held


async def test_results_are_kept_for_a_week(pool: Pool) -> None:
    """A request may be repeated that long; then its result goes."""
    now = now_ms()
    async with transaction(pool) as cursor:
        for name, age_ms in (("old", OPERATIONS_KEPT_MS + 1_000), ("new", OPERATIONS_KEPT_MS // 2)):
            await cursor.execute(
                "INSERT INTO operations (id, fingerprint, created_at) VALUES (%s, '', %s)",
                (name, datetime_text(now - age_ms)),
            )

    await keep_house(pool)

    assert [("new",)] == await rows(pool, "SELECT id FROM operations")


async def test_what_late_events_left_of_a_deleted_user_is_removed(pool: Pool) -> None:
    """The drain makes a user without a password again; whoever registered anew is not one."""
    async with transaction(pool) as cursor:
        for name in ("gone", "back", "met"):
            await users.insert(cursor, users.NewUser(username=name, password_hash="!"), now_ms())
        await users.delete(cursor, "gone")
        await cursor.execute("INSERT INTO users (username, password_hash) VALUES ('gone', '!')")
        await cursor.execute("UPDATE users SET password_hash = 'hash' WHERE username = 'back'")

    await keep_house(pool)

    left = {name for (name,) in await rows(pool, "SELECT username FROM users")}
    assert {"back", "met"} == left
    assert {"gone": "deleted"} == dict(
        await rows(pool, "SELECT username, reason FROM barred_users")
    )
