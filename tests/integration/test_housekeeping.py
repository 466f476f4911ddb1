"""What workers do to accounts every few minutes."""

from __future__ import annotations

from typing import Any

import pytest

from shared.accounts import card_keys, users
from shared.mysql import Pool, transaction
from shared.times import DAY_MS, datetime_text, now_ms
from worker.jobs import housekeeping
from worker.jobs.housekeeping import OPERATIONS_KEPT_MS, UNNAMED_KEPT_MS, keep_house


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


async def test_results_are_kept_for_a_week_where_somebody_can_ask_for_them(pool: Pool) -> None:
    """Without a key of a client's for an hour: only our own attempts look for those."""
    now = now_ms()
    async with transaction(pool) as cursor:
        for name, fingerprint, age_ms in (
            ("named, old", "f", OPERATIONS_KEPT_MS + 1_000),
            ("named", "f", OPERATIONS_KEPT_MS // 2),
            ("unnamed, old", "", UNNAMED_KEPT_MS + 1_000),
            ("unnamed", "", UNNAMED_KEPT_MS // 2),
        ):
            await cursor.execute(
                "INSERT INTO operations (id, fingerprint, created_at) VALUES (%s, %s, %s)",
                (name, fingerprint, datetime_text(now - age_ms)),
            )

    await keep_house(pool)

    assert {("named",), ("unnamed",)} == set(await rows(pool, "SELECT id FROM operations"))


async def test_one_run_goes_on_until_nothing_is_left_to_do(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In transactions of bounded size: a busy site makes more in five minutes than one takes."""
    monkeypatch.setattr(housekeeping, "_ROWS_MAX", 3)
    old = datetime_text(now_ms() - OPERATIONS_KEPT_MS - 1_000)
    async with transaction(pool) as cursor:
        for number in range(10):
            await cursor.execute(
                "INSERT INTO operations (id, fingerprint, created_at) VALUES (%s, 'f', %s)",
                (str(number), old),
            )
            await cursor.execute(
                "INSERT INTO barred_changes (token, created_at) VALUES (1, %s)", old
            )
    monkeypatch.setattr(housekeeping, "_ROUNDS_MAX", 2)
    await keep_house(pool)
    assert [(4,)] == await rows(pool, "SELECT COUNT(*) FROM operations")
    monkeypatch.undo()
    monkeypatch.setattr(housekeeping, "_ROWS_MAX", 3)
    await keep_house(pool)

    assert [] == await rows(pool, "SELECT id FROM operations")
    assert [] == await rows(pool, "SELECT id FROM barred_changes")


async def test_old_results_are_found_without_reading_the_week(pool: Pool) -> None:
    """By an index that holds those of a kind together, oldest first."""
    plan = await rows(
        pool,
        "EXPLAIN FORMAT=JSON"
        " SELECT * FROM operations WHERE is_named = 0 AND created_at < '2020-01-01'",
    )
    assert "idx_is_named_created_at" in plan[0][0]


async def test_what_late_events_left_of_a_deleted_user_is_removed(pool: Pool) -> None:
    """The drain makes them again, without a password; who registered and the owner stay."""
    async with transaction(pool) as cursor:
        for name in ("gone", "back", "met", "chief"):
            await users.insert(cursor, users.NewUser(username=name, password_hash="!"), now_ms())
        await users.delete(cursor, "gone")
        await users.delete(cursor, "chief")
        for name, role in (("gone", "user"), ("chief", "owner")):
            await cursor.execute(
                "INSERT INTO users (username, password_hash, role) VALUES (%s, '!', %s)",
                (name, role),
            )
        await cursor.execute("UPDATE users SET password_hash = 'hash' WHERE username = 'back'")

    await keep_house(pool)

    left = {name for (name,) in await rows(pool, "SELECT username FROM users")}
    assert {"back", "met", "chief"} == left
    assert {"gone": "deleted", "chief": "deleted"} == dict(
        await rows(pool, "SELECT username, reason FROM barred_users")
    )
