"""
Points: an account per user, and a record for whatever changes it.

The balance is the sum of a user's records; `total_earned` is that of type earn, `total_redeemed`
that of type redeem with the sign turned. An admin's adjustment changes the balance alone.
Account and record are written in one round trip: who is refused has to undo the transaction.
"""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from shared.accounts import users
from shared.errors import DataRefused, NotFound, Refused, Taken
from shared.mysql import Cursor, Statement, execute_together, mysql_errors
from shared.times import datetime_text, ms_of

#: Of one change; and of a balance, so that its column never overflows.
AMOUNT_MAX, BALANCE_MAX = 1_000_000, 2_000_000_000
REASON_MAX = 200
TOO_FEW = "积分不足"
DEDUCT_TOO_MUCH = "扣除积分不能超过用户当前余额"
TOO_MANY = "积分余额超出上限"

_CODE_ALPHABET = string.ascii_uppercase + string.digits
_CODE_LENGTH = 16

_ACCOUNTS = """
SELECT username, invitation_code, balance, total_earned, total_redeemed, updated_at
FROM user_points
"""
_ACCOUNT = _ACCOUNTS + " WHERE username = %s"
_OPEN = """
INSERT INTO user_points (username, invitation_code) VALUES (%s, %s)
ON DUPLICATE KEY UPDATE user_points.username = user_points.username
"""
_RECORD = """
INSERT INTO points_records
    (id, username, type, amount, reason, related_user, card_key_id, admin_username, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_EARN = """
UPDATE user_points SET balance = balance + %s, total_earned = total_earned + %s
WHERE username = %s AND balance <= %s AND total_earned <= %s
"""
_SPEND = """
UPDATE user_points SET balance = balance - %s, total_redeemed = total_redeemed + %s
WHERE username = %s AND balance >= %s AND total_redeemed <= %s
"""
_ADJUST = """
UPDATE user_points SET balance = balance + %s
WHERE username = %s AND balance + %s BETWEEN 0 AND %s
"""
_HISTORY = """
SELECT id, username, type, amount, reason, related_user, card_key_id, admin_username, created_at
FROM points_records WHERE username = %s ORDER BY created_at DESC, id DESC LIMIT %s OFFSET %s
"""

RecordType = Literal["earn", "redeem", "admin_adjust"]


class Account(msgspec.Struct, rename="camel", omit_defaults=True):
    """A user's points (facts section 4, UserPoints)."""

    username: str
    invitation_code: str
    balance: int
    total_earned: int
    total_redeemed: int
    updated_at: int  # ms


class PointsRecord(msgspec.Struct, rename="camel", omit_defaults=True):
    """One change; *amount* is negative where points go."""

    id: str
    username: str
    type: RecordType
    amount: int
    reason: str
    created_at: int  # ms
    related_user: str | None = None
    card_key_id: str | None = None
    admin_username: str | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why points change: *reason* for people, and what it has to do with."""

    reason: str
    related_user: str | None = None
    card_key_id: str | None = None
    admin_username: str | None = None


def new_invitation_code() -> str:
    """16 letters and digits (facts section 6, Registration)."""
    return "".join(secrets.choice(_CODE_ALPHABET) for _ in range(_CODE_LENGTH))


async def open_account(cursor: Cursor, username: str) -> None:
    """Give *username*, a stored user, an account with a code of its own, unless there is one."""
    await cursor.execute(_OPEN, (username, new_invitation_code()))


def locking(username: str) -> Statement:
    """Locks the account of *username* until the transaction ends; finds no row if there is none."""
    return _ACCOUNT + " FOR UPDATE", (username,)


async def lock_account(cursor: Cursor, username: str) -> Account:
    """The account of *username*, locked until the transaction ends: one change per user at a time.

    Made if the user has none yet, as those have who only ever played something. Raises `NotFound`.
    """
    account = await _read(cursor, *locking(username))
    if account is None or not account.invitation_code:
        await _complete(cursor, username, has_account=account is not None)
        account = await _read(cursor, *locking(username))
    if account is None:
        raise NotFound(users.UNKNOWN)
    return account


async def read_account(cursor: Cursor, username: str) -> Account | None:
    """The account of *username*, if there is one."""
    return await _read(cursor, _ACCOUNT, (username,))


async def _read(cursor: Cursor, query: str, values: Sequence[Any]) -> Account | None:
    await cursor.execute(query, values)
    row = await cursor.fetchone()
    return None if row is None else _account_of(row)


def _account_of(row: Sequence[Any]) -> Account:
    username, code, balance, earned, redeemed, updated_at = row
    return Account(username, code or "", balance, earned, redeemed, ms_of(updated_at))


async def _complete(cursor: Cursor, username: str, *, has_account: bool) -> None:
    if has_account:  # one that was imported without a code
        await cursor.execute(
            "UPDATE user_points SET invitation_code = %s"
            " WHERE username = %s AND invitation_code IS NULL",
            (new_invitation_code(), username),
        )
    else:
        # Locked: of a user who is deleted at this moment the account's foreign key would fail.
        await users.lock(cursor, username)
        await open_account(cursor, username)


async def earn(cursor: Cursor, username: str, amount: int, cause: Cause, now_ms: int) -> None:
    """Give *amount* points.

    Raises `Refused` where no account can take them, `NotFound` for an unknown user.
    """
    limit = BALANCE_MAX - amount
    update = (_EARN, (amount, amount, username, limit, limit))
    record = _record(username, "earn", amount, cause, now_ms)
    await _change(cursor, TOO_MANY, update, record)


async def spend(
    cursor: Cursor, username: str, amount: int, cause: Cause, now_ms: int, *others: Statement
) -> None:
    """Take *amount* points for a redemption, and execute *others* in the same round trip.

    Raises `Refused` where there are fewer, `NotFound` for an unknown user.
    """
    limit = BALANCE_MAX - amount
    update = (_SPEND, (amount, amount, username, amount, limit))
    record = _record(username, "redeem", -amount, cause, now_ms)
    await _change(cursor, TOO_FEW, update, record, *others)


async def adjust(cursor: Cursor, username: str, amount: int, cause: Cause, now_ms: int) -> None:
    """An admin gives (*amount* above 0) or takes points.

    Raises `NotFound` for an unknown user, `Refused` where the balance would go below 0 or
    above `BALANCE_MAX`.
    """
    await lock_account(cursor, username)
    update = (_ADJUST, (amount, username, amount, BALANCE_MAX))
    record = _record(username, "admin_adjust", amount, cause, now_ms)
    await _change(cursor, DEDUCT_TOO_MUCH if amount < 0 else TOO_MANY, update, record)


async def _change(cursor: Cursor, refusal: str, *statements: Statement) -> None:
    """Execute *statements*, the first of which changes the account where its condition allows.

    Raises `Refused` with *refusal* where it does not, `NotFound` for an unknown user.
    """
    try:
        with mysql_errors():
            changed, *_ = await execute_together(cursor, *statements)
    except Taken:
        raise
    except DataRefused as error:  # the record's foreign key on the user's name
        raise NotFound(users.UNKNOWN) from error
    if changed != 1:
        raise Refused(refusal)


def _record(username: str, kind: RecordType, amount: int, cause: Cause, now_ms: int) -> Statement:
    """Keeps what changed: with it a balance is the sum of its records."""
    related = (cause.related_user, cause.card_key_id, cause.admin_username)
    values = (str(uuid.uuid4()), username, kind, amount, cause.reason, *related)
    return _RECORD, (*values, datetime_text(now_ms))


async def history(
    cursor: Cursor, username: str, page: int, size: int
) -> tuple[list[PointsRecord], int]:
    """(one page of a user's records, newest first, number of all); *page* counts from 1."""
    await cursor.execute("SELECT COUNT(*) FROM points_records WHERE username = %s", (username,))
    [total] = await cursor.fetchone()
    await cursor.execute(_HISTORY, (username, size, (page - 1) * size))
    records = [
        PointsRecord(
            id=id_,
            username=name,
            type=kind,
            amount=amount,
            reason=reason,
            related_user=related_user,
            card_key_id=card_key_id,
            admin_username=admin_username,
            created_at=ms_of(created_at),
        )
        for (
            *(id_, name, kind, amount, reason, related_user, card_key_id),
            admin_username,
            created_at,
        ) in await cursor.fetchall()
    ]
    return records, total


async def listed(cursor: Cursor, page: int, size: int) -> tuple[list[Account], int]:
    """(one page of all accounts by user name, number of all); *page* counts from 1."""
    await cursor.execute("SELECT COUNT(*) FROM user_points")
    [total] = await cursor.fetchone()
    await cursor.execute(
        _ACCOUNTS + " ORDER BY username LIMIT %s OFFSET %s", (size, (page - 1) * size)
    )
    return [_account_of(row) for row in await cursor.fetchall()], total
