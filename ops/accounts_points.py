"""A user's points: the account and all records, or what is here already."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

from ops.accounts_books import Fate
from ops.accounts_page import Page
from ops.importing import Refusal
from ops.lunatv_belongings import Belongings
from ops.lunatv_values import PointsRecord
from ops.points_plan import PlannedPoints, plan_points
from shared.times import datetime_text

_ACCOUNT = """
SELECT invitation_code, balance, total_earned, total_redeemed
FROM user_points WHERE username = %s FOR UPDATE
"""
_OPEN = """
INSERT INTO user_points
    (invitation_code, balance, total_earned, total_redeemed, updated_at, username)
VALUES (%s, %s, %s, %s, %s, %s)
"""
_FILL = """
UPDATE user_points SET invitation_code = COALESCE(invitation_code, %s), balance = %s,
    total_earned = %s, total_redeemed = %s, updated_at = %s
WHERE username = %s
"""
_RECORD = """
INSERT INTO points_records
    (id, username, type, amount, reason, related_user, card_key_id, admin_username, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


@dataclass(frozen=True, slots=True)
class _Account:
    """An account as it is here."""

    code: str | None
    balance: int
    total_earned: int
    total_redeemed: int

    @property
    def figures(self) -> tuple[int, int, int]:
        return self.balance, self.total_earned, self.total_redeemed


async def bring_points(
    page: Page, username: str, belongings: Belongings, held_ids: Set[str], *, may_log_in: bool
) -> None:
    """The points of *username*, where nothing ever happened to an account here.

    Who *may_log_in* has an account, be it an empty one. *held_ids* are what records may name
    as a key.
    """
    found = await page.row(_ACCOUNT, (username,))
    here = None if found is None else _Account(*found)
    query = "SELECT id FROM points_records WHERE username = %s"
    stored = {id_ for [id_] in await page.rows(query, (username,))}
    if stored or (here is not None and any(here.figures)):
        _keep(page, username, belongings, stored)
        return
    if not (belongings.points or belongings.records or may_log_in):
        return
    records = await _free_records(page, username, belongings)
    points = plan_points(username, belongings.points, records, held_ids, page.task.now_ms)
    await _write(page, username, belongings, here, points)


def _keep(page: Page, username: str, belongings: Belongings, stored: Set[str]) -> None:
    """Count what came along before; what is newer would no longer add up."""
    if belongings.points is not None:
        page.books.settle("points_accounts", "kept")
    kept = stored & belongings.records.keys()
    page.books.settle("points_records", "kept", len(kept))
    for id_ in sorted(belongings.records.keys() - kept):
        refusal = Refusal(f"user {username}, record {id_}", "account_kept", "it has points here")
        page.books.refuse("points_records", refusal)


async def _free_records(page: Page, username: str, belongings: Belongings) -> list[PointsRecord]:
    """The records whose ids are not another user's here."""
    query = "SELECT id FROM points_records WHERE id IN"
    taken = {id_ for [id_] in await page.rows_in(query, belongings.records)}
    for id_ in sorted(taken):
        refusal = Refusal(f"user {username}, record {id_}", "id_taken", "another user has it")
        page.books.refuse("points_records", refusal)
    return [record for id_, record in belongings.records.items() if id_ not in taken]


async def _write(
    page: Page,
    username: str,
    belongings: Belongings,
    here: _Account | None,
    points: PlannedPoints,
) -> None:
    account, books = belongings.points, page.books
    code = None if account is None else account.invitation_code
    if holder := await _code_holder(page, username, code):
        points.account_repairs["code_taken"] = f"it is {holder}'s; another is made when needed"
        code = None
    figures = (points.balance, points.total_earned, points.total_redeemed)
    changes = here is None or here.figures != figures or bool(code and not here.code)
    if account is not None:
        fate: Fate = "created" if here is None else "filled" if changes else "kept"
        books.settle("points_accounts", fate)
    if not changes and not points.records:
        return
    updated_ms = account.updated_at if account is not None else None
    updated_at = datetime_text(page.task.now_ms if updated_ms is None else updated_ms)
    statement = _OPEN if here is None else _FILL
    await page.write(statement, (code, *figures, updated_at, username))
    rows = [_row(username, record) for record in (*points.opening, *points.records)]
    await page.write_many(_RECORD, rows)
    books.settle("points_records", "created", len(points.records))
    _tell(page, username, points)
    _remember(page, username, code, points)


async def _code_holder(page: Page, username: str, code: str | None) -> str | None:
    """Who else has the invitation *code* here."""
    if code is None:
        return None
    query = "SELECT username FROM user_points WHERE invitation_code = %s AND username <> %s"
    row = await page.row(query, (code, username))
    return page.task.unwritten.codes.get(code) if row is None else str(row[0])


def _tell(page: Page, username: str, points: PlannedPoints) -> None:
    where = f"user {username}"
    for reason, detail in points.account_repairs.items():
        page.books.repair("points_accounts", where, reason, detail)
    for id_, reason in points.record_repairs.items():
        detail = "taken as a redemption" if reason == "sign" else "the user does not hold the key"
        page.books.repair("points_records", f"{where}, record {id_}", reason, detail)
    for record in points.opening:
        detail = f"{record.type} {record.amount:+}"
        page.books.repair("points_records", where, "opening_record", detail)


def _remember(page: Page, username: str, code: str | None, points: PlannedPoints) -> None:
    """For a dry run: what later transactions would find."""
    if not page.task.dry:
        return
    if code is not None:
        page.task.unwritten.codes[code] = username
    for record in points.records:
        if record.type == "earn" and record.related_user is not None:
            page.task.unwritten.earned.add((username, record.related_user))


def _row(username: str, record: PointsRecord) -> Sequence[Any]:
    return (
        *(record.id, username, record.type, record.amount, record.reason),
        *(record.related_user, record.card_key_id, record.admin_username),
        datetime_text(record.created_at),
    )
