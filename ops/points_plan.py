"""
Points that add up: what a site says of an account, and records whose sums are just that.

A site keeps the newest 1,000 records, and loses updates of either. So opening records make up
for the rest. Nothing here does I/O.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from ops.card_plan import NAMESPACE
from ops.lunatv_values import PointsAccount, PointsRecord
from shared.accounts.points import RecordType

OPENING = "导入期初"


@dataclass(slots=True)
class PlannedPoints:
    """An account as it is to be here; *opening* records are those that no site had."""

    balance: int
    total_earned: int
    total_redeemed: int
    records: list[PointsRecord]
    opening: list[PointsRecord]
    account_repairs: dict[str, str] = field(default_factory=dict)
    #: By the record's id.
    record_repairs: dict[str, str] = field(default_factory=dict)


def plan_points(
    user: str,
    account: PointsAccount | None,
    records: Iterable[PointsRecord],
    held_ids: Collection[str],
    now_ms: int,
) -> PlannedPoints:
    """The account of *user* and its records, which add up to it.

    A record names a key (*held_ids*: by the id of the user's row) only if the user holds it.
    """
    repairs: dict[str, str] = {}
    left = set(held_ids)
    kept = [_mended(record, left, repairs) for record in sorted(records, key=_age)]
    earned, redeemed = _sum(kept, "earn"), -_sum(kept, "redeem")
    total = PlannedPoints(0, earned, redeemed, kept, [], {}, repairs)
    if account is None:
        target = max(0, earned - redeemed + _sum(kept, "admin_adjust"))
        if kept:
            total.account_repairs["account_made"] = "there are records and no account"
    else:
        target = account.balance
        _raise_totals(total, account)
        if target < 0:
            target = 0
            total.account_repairs["balance_below_0"] = f"{account.balance} there, here 0"
    at = _opening_ms(account, kept, now_ms)
    total.balance = target
    total.opening = list(_opening(user, total, (earned, redeemed), at))
    return total


def _raise_totals(total: PlannedPoints, account: PointsAccount) -> None:
    """Take the account's totals, unless its records are more: then one of its updates was lost."""
    for name in ("total_earned", "total_redeemed"):
        by_records, there = getattr(total, name), getattr(account, name)
        if by_records > there:
            detail = f"{there} there, but {by_records} by its records"
            total.account_repairs[name] = detail
        setattr(total, name, max(by_records, there))


def _opening(
    user: str, total: PlannedPoints, by_records: tuple[int, int], at_ms: int
) -> Iterable[PointsRecord]:
    earned, redeemed = by_records
    adjusted = _sum(total.records, "admin_adjust")
    missing: dict[RecordType, int] = {
        "earn": total.total_earned - earned,
        "redeem": redeemed - total.total_redeemed,
        "admin_adjust": total.balance - total.total_earned + total.total_redeemed - adjusted,
    }
    for kind, amount in missing.items():
        if amount:
            row_id = str(uuid.uuid5(NAMESPACE, f"opening:{kind}:{user}"))
            yield PointsRecord(row_id, kind, amount, at_ms, OPENING)


def _opening_ms(account: PointsAccount | None, records: Sequence[PointsRecord], now_ms: int) -> int:
    """Before all *records*; without any when the account was changed last."""
    if records:
        return max(0, records[0].created_at - 1)
    if account is not None and account.updated_at is not None:
        return account.updated_at
    return now_ms


def _mended(record: PointsRecord, left: set[str], repairs: dict[str, str]) -> PointsRecord:
    """*record* as it is to be; *left* are the keys that no record before it took."""
    if record.type == "redeem" and record.amount > 0:  # some versions write it so
        repairs[record.id] = "sign"
        record = structs.replace(record, amount=-record.amount)
    if record.card_key_id is not None and record.card_key_id not in left:
        repairs[record.id] = "key_gone"
        record = structs.replace(record, card_key_id=None)
    if record.type == "redeem":
        left.discard(record.card_key_id or "")
    return record


def _sum(records: Iterable[PointsRecord], kind: RecordType) -> int:
    return sum(record.amount for record in records if record.type == kind)


def _age(record: PointsRecord) -> tuple[int, str]:
    return record.created_at, record.id
