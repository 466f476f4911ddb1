"""What a database holds of accounts, in the words of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.mysql import Pool, transaction
from shared.times import ms_of
from tests.integration.accounts_model import Model
from tests.plays import select

#: Table -> label -> values.
Tables = dict[str, dict[Any, Any]]
#: Table -> rows as they are stored.
Rows = dict[str, list[tuple[Any, ...]]]

_QUERIES = {
    "users": "SELECT username, role, banned FROM users",
    "barred": "SELECT username, reason FROM barred_users",
    "accounts": "SELECT username, invitation_code, balance, total_earned, total_redeemed"
    " FROM user_points",
    "records": "SELECT r.username, r.type, r.amount, r.reason, r.related_user, r.card_key_id,"
    " h.key_hash, r.admin_username, r.created_at"
    " FROM points_records r LEFT JOIN user_card_keys h ON h.id = r.card_key_id",
    "keys": "SELECT key_hash, key_type, status, source, created_at, expires_at, bound_to,"
    " bound_at FROM card_keys",
    "held": "SELECT username, key_hash, key_type, status, source, created_at, expires_at,"
    " used_at, used_by FROM user_card_keys",
    "memberships": "SELECT username, key_hash, bound_at, expires_at FROM memberships",
    "invitations": "SELECT invitee, inviter, invitation_code, ip_address, reward_time, created_at"
    " FROM invitations",
    "addresses": "SELECT ip_address, inviter, invitee, reward_time FROM ip_reward_records",
    "config": "SELECT enabled, reward_points, redeem_threshold, card_key_type"
    " FROM invitation_configs",
    "operations": "SELECT id, result IS NOT NULL FROM operations",
}


@dataclass(frozen=True, slots=True)
class Labels:
    """What the model calls that which is drawn at random, and the ids of operations."""

    #: Of a key's hash.
    keys: Mapping[str, str]
    #: Of an invitation code.
    codes: Mapping[str, str]
    operations: Mapping[str, int]

    def key(self, key_hash: str | None) -> str | None:
        return None if key_hash is None else self.keys.get(key_hash, f"unknown {key_hash}")

    def code(self, code: str) -> str:
        return self.codes.get(code, f"unknown {code}")


async def rows_in(pool: Pool) -> Rows:
    """Every row of accounts, while nobody changes them."""
    async with transaction(pool) as cursor:
        return {table: await select(cursor, query) for table, query in _QUERIES.items()}


def codes_in(rows: Rows) -> dict[str, str]:
    """name -> invitation code"""
    return {name: code for name, code, *_ in rows["accounts"]}


def tables_of(model: Model) -> Tables:
    """Every table as *model* has it."""
    return {
        "users": dict(model.users),
        "barred": dict(model.barred),
        "accounts": {name: tuple(values) for name, values in model.accounts.items()},
        "records": {name: sorted(values, key=repr) for name, values in model.records.items()},
        "keys": {key: tuple(values) for key, values in model.keys.items()},
        "held": {whose: tuple(values) for whose, values in model.held.items()},
        "memberships": dict(model.memberships),
        "invitations": dict(model.invitations),
        "addresses": dict(model.addresses),
        "config": {"config": [model.config]},
        "operations": dict.fromkeys(model.operations, True),
    }


def tables_in(rows: Rows, labels: Labels) -> Tables:
    """The same as it is stored."""
    return {
        "users": {name: (role, bool(banned)) for name, role, banned in rows["users"]},
        "barred": {name: str(reason) for name, reason in rows["barred"]},
        "accounts": {
            name: (labels.code(code), *points) for name, code, *points in rows["accounts"]
        },
        "records": _records(rows, labels),
        "keys": {labels.key(key): _plain(values) for key, *values in rows["keys"]},
        "held": {(name, labels.key(key)): _plain(values) for name, key, *values in rows["held"]},
        "memberships": {
            name: (labels.key(key), *_plain(times)) for name, key, *times in rows["memberships"]
        },
        "invitations": {
            invitee: (inviter, labels.code(code), address, *_plain(times))
            for invitee, inviter, code, address, *times in rows["invitations"]
        },
        "addresses": {unit: _plain(values) for unit, *values in rows["addresses"]},
        "config": {"config": [(bool(row[0]), *row[1:]) for row in rows["config"]]},
        "operations": {
            labels.operations.get(id_, id_): bool(told) for id_, told in rows["operations"]
        },
    }


def _records(rows: Rows, labels: Labels) -> dict[str, list[tuple[Any, ...]]]:
    records = defaultdict(list)
    for name, *cause, row_id, key_hash, admin, at in rows["records"]:
        key = labels.key(key_hash) if key_hash or row_id is None else f"no such row: {row_id}"
        records[name].append((*cause, key, admin, ms_of(at)))
    return {name: sorted(values, key=repr) for name, values in records.items()}


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    """*values* with times in ms."""
    return tuple(ms_of(value) if isinstance(value, datetime) else value for value in values)
