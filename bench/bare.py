"""
`python -m bench.bare KIND SECONDS FIRST`: redeems or binds as a bare asyncmy script issues them.

The statements of moonwake's transactions one after the other on 32 connections, without HTTP,
logins, locks, or the row that makes a change repeatable. Prints the number of transactions.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncmy

from bench.transactions import CLIENTS, key_text, user_name
from shared.settings import from_env

#: (cursor, client, number of its transaction)
Work = Callable[[Any, int, int], Awaitable[None]]


async def redeem(cursor: Any, client: int, _number: int) -> None:
    user, row_id, now = user_name(client), str(uuid.uuid4()), _now()
    plain = uuid.uuid4().hex[:16]
    key_hash, until = hashlib.sha256(plain.encode()).hexdigest(), now + timedelta(days=7)
    await cursor.execute(
        "SELECT enabled, reward_points, redeem_threshold, card_key_type"
        " FROM invitation_configs WHERE id = 1"
    )
    _, _, threshold, kind = await cursor.fetchone()
    await cursor.execute(
        "UPDATE user_points SET balance = balance - %s, total_redeemed = total_redeemed + %s"
        " WHERE username = %s AND balance >= %s",
        (threshold, threshold, user, threshold),
    )
    await cursor.execute(
        "INSERT INTO points_records (id, username, type, amount, reason, card_key_id, created_at)"
        " VALUES (%s, %s, 'redeem', %s, 'bench', %s, %s)",
        (str(uuid.uuid4()), user, -threshold, row_id, now),
    )
    await cursor.execute(
        "INSERT INTO card_keys (key_hash, plain_key, key_type, source, created_at, expires_at)"
        " VALUES (%s, %s, %s, 'points_redeem', %s, %s)",
        (key_hash, plain, kind, now, until),
    )
    await cursor.execute(
        "INSERT INTO user_card_keys"
        " (id, key_hash, username, key_type, source, created_at, expires_at)"
        " VALUES (%s, %s, %s, %s, 'redeem', %s, %s)",
        (row_id, key_hash, user, kind, now, until),
    )


async def bind(cursor: Any, client: int, number: int) -> None:
    user, now = user_name(client), _now()
    key_hash = hashlib.sha256(key_text("bare", client, number).encode()).hexdigest()
    await cursor.execute(
        "SELECT invitation_code, balance FROM user_points WHERE username = %s FOR UPDATE", (user,)
    )
    await cursor.fetchone()
    await cursor.execute(
        "SELECT key_type, status, created_at, expires_at FROM card_keys"
        " WHERE key_hash = %s FOR UPDATE",
        (key_hash,),
    )
    kind, status, created_at, expires_at = await cursor.fetchone()
    if status != "unused":
        raise RuntimeError(f"key {number} is {status}")
    await cursor.execute(
        "SELECT key_hash, expires_at FROM memberships WHERE username = %s", (user,)
    )
    before = await cursor.fetchone()
    until = expires_at if before is None else before[1] + timedelta(days=7)
    await cursor.execute(
        "UPDATE card_keys SET status = 'used', bound_to = %s, bound_at = %s WHERE key_hash = %s",
        (user, now, key_hash),
    )
    await cursor.execute(
        "UPDATE user_card_keys SET status = 'used', used_by = %s, used_at = %s WHERE key_hash = %s",
        (user, now, key_hash),
    )
    await cursor.execute(
        "INSERT INTO user_card_keys (id, key_hash, username, key_type, status, source, created_at,"
        " expires_at, used_at, used_by) VALUES (%s, %s, %s, %s, 'used', 'manual', %s, %s, %s, %s)",
        (str(uuid.uuid4()), key_hash, user, kind, created_at, until, now, user),
    )
    if before is not None:
        await cursor.execute(
            "UPDATE user_card_keys SET expires_at = %s WHERE username = %s AND key_hash = %s",
            (until, user, before[0]),
        )
    await cursor.execute(
        "INSERT INTO memberships (username, key_hash, bound_at, expires_at)"
        " VALUES (%s, %s, %s, %s) ON DUPLICATE KEY UPDATE key_hash = %s, bound_at = %s,"
        " expires_at = %s",
        (user, key_hash, now, until, key_hash, now, until),
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


async def run(work: Work, duration_s: float, first: int) -> int:
    """How many transactions *CLIENTS* connections make in *duration_s*."""
    settings = from_env()
    async with asyncmy.create_pool(
        minsize=CLIENTS,
        maxsize=CLIENTS,
        host=settings.mysql_host,
        port=settings.mysql_port,
        user=settings.mysql_user,
        password=settings.mysql_password,
        db=settings.mysql_database,
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ) as pool:
        end_s = time.monotonic() + duration_s

        async def run_client(client: int) -> int:
            done = 0
            async with pool.acquire() as connection, connection.cursor() as cursor:
                while time.monotonic() < end_s:
                    await connection.begin()
                    await work(cursor, client, first + done)
                    await connection.commit()
                    done += 1
            return done

        return sum(await asyncio.gather(*map(run_client, range(CLIENTS))))


if __name__ == "__main__":
    kind, seconds, begin = sys.argv[1:]
    works: dict[str, Work] = {"redeem": redeem, "bind": bind}
    print(asyncio.run(run(works[kind], float(seconds), int(begin))))
