"""Card keys, who holds them and memberships: what a user has of them, and what nobody bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from ops.accounts_books import Fate
from ops.accounts_page import Page
from ops.card_plan import (
    PlannedKey,
    PlannedRow,
    derived_id,
    key_of_membership,
    placeholder_hash,
    plan_rows,
)
from ops.importing import Refusal
from ops.lunatv_people import Person
from ops.lunatv_values import CardKey, HeldKey, Membership, is_hash
from shared.times import datetime_text, ms_of

_KEYS = """
SELECT key_hash, plain_key, key_type, status, source, created_at, expires_at, bound_to, bound_at
FROM card_keys WHERE key_hash IN
"""
_INSERT_KEY = """
INSERT INTO card_keys
    (plain_key, key_type, status, source, created_at, expires_at, bound_to, bound_at, key_hash)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_BIND = """
UPDATE card_keys SET status = 'used', bound_to = %s, bound_at = %s WHERE key_hash = %s
"""
#: Also of who redeemed the key and gave it away, and is here already.
_BIND_ROWS = """
UPDATE user_card_keys SET status = 'used', used_by = COALESCE(%s, used_by, username),
    used_at = COALESCE(used_at, %s)
WHERE key_hash = %s
"""
#: Rows that came when the key itself was refused.
_USED_ROWS = """
SELECT key_hash, MIN(COALESCE(used_at, created_at)) FROM user_card_keys
WHERE status = 'used' AND key_hash IN
"""
_TYPE_ROWS = "UPDATE user_card_keys SET key_type = %s WHERE key_hash = %s"
_INSERT_ROW = """
INSERT INTO user_card_keys (id, key_hash, username, key_type, status, source, created_at,
    expires_at, used_at, used_by, notes)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_INSERT_MEMBERSHIP = """
INSERT INTO memberships (username, key_hash, bound_at, expires_at) VALUES (%s, %s, %s, %s)
"""
_EXTEND_ROW = "UPDATE user_card_keys SET expires_at = %s WHERE username = %s AND key_hash = %s"


# --- keys that nobody bound -------------------------------------------------------


async def bring_loose_keys(page: Page, keys: Sequence[PlannedKey]) -> None:
    """Keys bound to nobody who is here."""
    hashes = [planned.key.key_hash for planned in keys]
    stored = await _stored_keys(page, hashes)
    used = dict(await page.rows_in(_USED_ROWS, hashes, after=" GROUP BY key_hash"))
    for planned in keys:
        key_hash = planned.key.key_hash
        if planned.key.status != "used" and key_hash not in stored and key_hash in used:
            binding = {"status": "used", "bound_at": ms_of(used[key_hash])}
            planned.key = structs.replace(planned.key, **binding)
            planned.repairs["made_used"] = "a user has used it here"
        await _bring_key(page, planned, stored.get(key_hash))


# --- keys of a user ---------------------------------------------------------------


@dataclass(slots=True)
class Holdings:
    """The rows that a user has here already, by the key's hash, and ids that others have."""

    ids: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def usable(self, rows: Iterable[HeldKey]) -> set[str]:
        """The ids by which the user's points records may name *rows*."""
        ids: dict[str, str] = {}
        for row in rows:
            ids.setdefault(row.key_hash, row.id)
        return {id_ for key, id_ in ids.items() if self.ids.get(key, id_) == id_} - self.taken


async def read_holdings(page: Page, person: Person) -> Holdings:
    """What *person* holds here, and which ids of their rows are another's."""
    holdings = Holdings()
    query = "SELECT id, username, key_hash FROM user_card_keys WHERE username = %s"
    found = await page.rows(query, (person.name,))
    ids = [row.id for row in page.task.site.held.get(person.name, ())]
    query = "SELECT id, username, key_hash FROM user_card_keys WHERE id IN"
    for id_, username, key_hash in (*found, *await page.rows_in(query, ids)):
        if username == person.name:
            holdings.ids[key_hash] = id_
        else:
            holdings.taken.add(id_)
    return holdings


async def bring_keys(page: Page, person: Person, holdings: Holdings) -> None:
    """The membership of *person*, unless there is one here, and every key that is about it."""
    rows = page.task.site.held.get(person.name, [])
    own = page.task.owned.get(person.name, [])
    membership = await _wanted_membership(page, person)
    hashes = {each.key.key_hash for each in own} | {row.key_hash for row in rows}
    if membership is not None and is_hash(membership.bound_key):
        hashes.add(membership.bound_key)
    stored = await _stored_keys(page, sorted(hashes))
    keys = {key: found for key in hashes if (found := _effective(page, stored, key)) is not None}
    for planned in own:
        await _bring_key(page, planned, stored.get(planned.key.key_hash))
    if membership is not None:
        membership = await _with_own_key(page, person, membership, keys)
    await _bring_rows(page, holdings, rows, plan_rows(person.name, rows, keys, membership))
    if membership is not None:
        await _bring_membership(page, person.name, membership, holdings)


async def _wanted_membership(page: Page, person: Person) -> Membership | None:
    """What the site says, unless *person* has a membership here."""
    if person.membership is None:
        return None
    query = "SELECT 1 FROM memberships WHERE username = %s FOR UPDATE"
    if await page.row(query, (person.name,)) is not None:
        page.books.settle("memberships", "kept")
        return None
    page.books.settle("memberships", "created")
    return person.membership


def _effective(page: Page, stored: dict[str, CardKey], key_hash: str) -> CardKey | None:
    """The key as it is here afterwards."""
    here, planned = stored.get(key_hash), page.task.keys.get(key_hash)
    if planned is None:
        return here
    return _bound(planned.key, here) if _is_brought(planned.key, here) else here


def _bound(key: CardKey, here: CardKey | None) -> CardKey:
    """*key*, or the one that is *here* bound like it."""
    if here is None:
        return key
    binding = {"status": key.status, "bound_to": key.bound_to, "bound_at": key.bound_at}
    return structs.replace(here, **binding)


def _is_brought(key: CardKey, here: CardKey | None) -> bool:
    """Does *key* replace the one that is *here*? What somebody has bound here never is."""
    if here is None:
        return True
    if here.status == "used":
        return here.bound_to is None and key.bound_to is not None  # who was deleted comes back
    return key.status == "used"


async def _bring_key(page: Page, planned: PlannedKey, here: CardKey | None) -> None:
    """A key as *planned*, unless the one that is *here* stays."""
    is_brought = _is_brought(planned.key, here)
    if planned.found:
        fate: Fate = "created" if here is None else "filled" if is_brought else "kept"
        page.books.settle("card_keys", fate)
    if is_brought:
        _tell_key(page, planned)
        await _write_key(page, planned.key, is_new=here is None)


async def _write_key(page: Page, key: CardKey, *, is_new: bool) -> None:
    bound = (key.bound_to, _time(key.bound_at), key.key_hash)
    if is_new:
        await page.write(_INSERT_KEY, _key_row(key))
        await page.write(_TYPE_ROWS, (key.key_type, key.key_hash))
    else:
        await page.write(_BIND, bound)
    if key.status == "used":
        await page.write(_BIND_ROWS, bound)


async def _with_own_key(
    page: Page, person: Person, membership: Membership, keys: dict[str, CardKey]
) -> Membership:
    """*membership* with a key that is its user's: its own, or one made up where that is not."""
    key = keys.get(membership.bound_key)
    if key is None or key.bound_to != person.name:
        owner = "no card key" if key is None else f"of {key.bound_to or 'a user who is gone'}"
        detail = f"key {membership.bound_key} is {owner}; the time stays, with a key made up"
        page.books.repair("memberships", f"user {person.name}", "key_taken", detail)
        key_hash = placeholder_hash(person.name, membership.bound_key)
        made = key_of_membership(key_hash, person.name, membership)
        here = (await _stored_keys(page, [key_hash])).get(key_hash)
        if _is_brought(made, here):
            key = _bound(made, here)
            await _write_key(page, key, is_new=here is None)
        else:
            key = here or made
        keys[key_hash] = key
    return structs.replace(membership, bound_key=key.key_hash, bound_at=key.bound_at)


async def _bring_membership(
    page: Page, username: str, membership: Membership, holdings: Holdings
) -> None:
    until = datetime_text(membership.expires_at)
    values = (username, membership.bound_key, datetime_text(membership.bound_at or 0), until)
    await page.write(_INSERT_MEMBERSHIP, values)
    if membership.bound_key in holdings.ids:  # the row was here before
        await page.write(_EXTEND_ROW, (until, username, membership.bound_key))


async def _bring_rows(
    page: Page, holdings: Holdings, found: Sequence[HeldKey], rows: Sequence[PlannedRow]
) -> None:
    fresh = []
    for planned in rows:
        row = planned.row
        if row.key_hash in holdings.ids:
            page.books.settle("user_card_keys", "kept", int(planned.found))
            continue
        page.books.settle("user_card_keys", "created", int(planned.found))
        if row.id in holdings.taken:
            planned.repairs["id_taken"] = f"{row.id} is a row of another user"
            row = structs.replace(row, id=derived_id(row.username, row.key_hash))
        for reason, detail in planned.repairs.items():
            where = f"user {row.username}, key {row.key_hash}"
            page.books.repair("user_card_keys", where, reason, detail)
        fresh.append(_held_row(row))
    await page.write_many(_INSERT_ROW, fresh)
    taken = {planned.row.id for planned in rows}
    for row in found:
        if row.id not in taken:
            refusal = Refusal(f"user {row.username}, row {row.id}", "held_twice", "of one key")
            page.books.refuse("user_card_keys", refusal)


def _tell_key(page: Page, planned: PlannedKey) -> None:
    for reason, detail in planned.repairs.items():
        page.books.repair("card_keys", f"key {planned.key.key_hash}", reason, detail)


# --- rows -------------------------------------------------------------------------


async def _stored_keys(page: Page, hashes: Sequence[str]) -> dict[str, CardKey]:
    """Those of *hashes* that are here, locked until the transaction ends."""
    found = await page.rows_in(_KEYS, hashes, after=" FOR UPDATE")
    return {row[0]: _key_of(row) for row in found}


def _key_of(row: Sequence[Any]) -> CardKey:
    key_hash, plain_key, key_type, status, source, created_at, expires_at, bound_to, bound_at = row
    return CardKey(
        key_type=key_type,
        status=status,
        created_at=ms_of(created_at),
        expires_at=ms_of(expires_at),
        key=plain_key,
        key_hash=key_hash,
        bound_to=bound_to,
        bound_at=None if bound_at is None else ms_of(bound_at),
        source=source,
    )


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime_text(ms)


def _key_row(key: CardKey) -> tuple[Any, ...]:
    return (
        *(key.key, key.key_type, key.status, key.source, datetime_text(key.created_at)),
        *(datetime_text(key.expires_at), key.bound_to, _time(key.bound_at), key.key_hash),
    )


def _held_row(row: HeldKey) -> tuple[Any, ...]:
    return (
        *(row.id, row.key_hash, row.username, row.type, row.status, row.source),
        *(datetime_text(row.created_at), datetime_text(row.expires_at), _time(row.used_at)),
        *(row.used_by, row.notes),
    )
