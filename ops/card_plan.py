"""
Card keys that agree: with whom they are bound to, with memberships, with whom they are held by.

A site writes these places one after the other and without a lock, so they may contradict each
other. People paid: nobody loses the time of a membership over it. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from ops.lunatv_people import Person
from ops.lunatv_values import CardKey, HeldKey, Membership, is_hash
from shared.accounts import card_keys
from shared.accounts.card_keys import DAYS, KeyType
from shared.accounts.memberships import HOLD_SOURCES
from shared.times import DAY_MS

#: Ids of rows that no site had are made from names, so that a rerun makes the same.
NAMESPACE = uuid.UUID("6f6f6e77-616b-5e69-8d70-6f7274206964")


@dataclass(slots=True)
class PlannedKey:
    """A key as it is to be here; *repairs* are reasons and details, *found* is False if made up."""

    key: CardKey
    repairs: dict[str, str] = field(default_factory=dict)
    found: bool = True


@dataclass(slots=True)
class PlannedRow:
    """A user's row of a key as it is to be here."""

    row: HeldKey
    repairs: dict[str, str] = field(default_factory=dict)
    found: bool = True


@dataclass(frozen=True, slots=True)
class _Claim:
    """A membership that says *user* bound the key."""

    user: str
    membership: Membership

    @property
    def order(self) -> tuple[bool, int, str]:
        """Who bound first comes first; who does not say when comes last."""
        bound_at = self.membership.bound_at
        return bound_at is None, bound_at or 0, self.user


def plan_keys(
    keys: Mapping[str, CardKey],
    people: Iterable[Person],
    held: Mapping[str, Sequence[HeldKey]],
) -> dict[str, PlannedKey]:
    """Every key by its hash: bound to one user at most, and that one is of *people*.

    *held* are the rows of everybody, also of who does not come along.
    """
    claims: dict[str, list[_Claim]] = defaultdict(list)
    names = set()
    for person in people:
        names.add(person.name)
        if person.membership is not None and is_hash(person.membership.bound_key):
            claims[person.membership.bound_key].append(_Claim(person.name, person.membership))
    used: dict[str, list[HeldKey]] = defaultdict(list)
    for rows in held.values():
        for row in rows:
            if row.status == "used":
                used[row.key_hash].append(row)
    planned = {
        key_hash: _planned(key, claims.get(key_hash, []), used.get(key_hash, []), names)
        for key_hash, key in keys.items()
    }
    for key_hash in claims.keys() - keys.keys():
        first = min(claims[key_hash], key=lambda claim: claim.order)
        key = key_of_membership(key_hash, first.user, first.membership)
        repairs = {"key_made": f"the membership of {first.user} named a key that was not there"}
        planned[key_hash] = PlannedKey(key, repairs, found=False)
    return planned


def by_owner(keys: Iterable[PlannedKey]) -> dict[str | None, list[PlannedKey]]:
    """*keys* by whom they are bound to (None: nobody who is here), each list by the hashes."""
    owned: dict[str | None, list[PlannedKey]] = defaultdict(list)
    for planned in sorted(keys, key=lambda each: each.key.key_hash):
        owned[planned.key.bound_to].append(planned)
    return dict(owned)


def _planned(
    key: CardKey, claims: Sequence[_Claim], used: Sequence[HeldKey], names: Collection[str]
) -> PlannedKey:
    planned = PlannedKey(key)
    owner = _owner_of(key, claims, used, names)
    # Who used it may be gone; nobody binds it again.
    is_used = key.status == "used" or owner is not None or bool(used)
    bound_at = _bound_at(key, owner, claims, used) if is_used else None
    status = "used" if is_used else key.status
    planned.key = structs.replace(key, status=status, bound_to=owner, bound_at=bound_at)
    if key.key and card_keys.hash_of(key.key) != key.key_hash:
        planned.key.key = ""
        planned.repairs["plain_key_wrong"] = "its text has another hash, and is left out"
    planned.repairs.update(_differences(key, planned.key))
    return planned


def _owner_of(
    key: CardKey, claims: Sequence[_Claim], used: Sequence[HeldKey], names: Collection[str]
) -> str | None:
    """To whom *key* is bound: as it says itself if it can be, else as others say."""
    users = {claim.user for claim in claims}
    if key.bound_to in users or (key.status == "used" and key.bound_to in names):
        return key.bound_to
    if claims:
        return min(claims, key=lambda claim: claim.order).user
    if key.status == "used" and key.bound_to is not None:
        return None  # who is not here
    for row in sorted(used, key=lambda row: (row.used_at or row.created_at, row.id)):
        for user in (row.used_by, row.username):
            if user in names:
                return user
    return None


def _bound_at(
    key: CardKey, owner: str | None, claims: Sequence[_Claim], used: Sequence[HeldKey]
) -> int:
    """When (ms): the membership's word counts, for the two must be the same."""
    told = [claim.membership.bound_at for claim in claims if claim.user == owner]
    rows = [row.used_at for row in used]
    return next((at for at in (*told, key.bound_at, *rows) if at is not None), key.created_at)


def _differences(key: CardKey, planned: CardKey) -> dict[str, str]:
    repairs = {}
    if planned.status != key.status:
        who = planned.bound_to or "somebody"
        repairs["made_used"] = f"{key.status} there, but {who} has bound it"
    if planned.bound_to != key.bound_to and key.bound_to is not None:
        repairs["bound_to"] = (
            f"bound to {key.bound_to} there, here to {planned.bound_to or 'nobody'}"
        )
    elif planned.bound_to is not None and key.bound_to is None and planned.status == key.status:
        repairs["bound_to"] = f"bound to nobody there, here to {planned.bound_to}"
    if planned.status == "used" == key.status and planned.bound_at != key.bound_at:
        repairs["bound_at"] = f"{key.bound_at} there, here {planned.bound_at} as the membership"
    return repairs


def key_of_membership(key_hash: str, user: str, membership: Membership) -> CardKey:
    """A key that nobody knows the text of, for a membership that has no other."""
    at = membership.bound_at if membership.bound_at is not None else membership.expires_at
    return CardKey(
        key_type=_type_of(membership.expires_at - at),
        status="used",
        created_at=at,
        expires_at=membership.expires_at,
        key_hash=key_hash,
        bound_to=user,
        bound_at=at,
    )


def placeholder_hash(user: str, key_hash: str) -> str:
    """The hash of no key: what stands in *user*'s membership for one that is another's."""
    return hashlib.sha256(f"import:{user}:{key_hash}".encode()).hexdigest()


def derived_id(user: str, key_hash: str) -> str:
    """The id of *user*'s row of a key where no site has one."""
    return str(uuid.uuid5(NAMESPACE, f"row:{user}:{key_hash}"))


def _type_of(life_ms: int) -> KeyType:
    """The type whose days come nearest to a *life_ms*; week where it has none."""
    days = life_ms / DAY_MS
    return min(DAYS, key=lambda kind: abs(DAYS[kind] - days)) if days > 0 else "week"


# --- what users hold ------------------------------------------------------------


def plan_rows(
    user: str,
    rows: Sequence[HeldKey],
    keys: Mapping[str, CardKey],
    membership: Membership | None,
) -> list[PlannedRow]:
    """The rows of *user*, one per key, in agreement with *keys* and his *membership*.

    *keys* are all that *rows* and the membership name, as they are here afterwards, and all
    that are bound to him.
    """
    planned: dict[str, PlannedRow] = {}
    for row in rows:
        if row.key_hash not in planned:
            planned[row.key_hash] = _agreeing(PlannedRow(row), keys.get(row.key_hash))
    for key_hash in sorted(keys):
        if keys[key_hash].bound_to == user and key_hash not in planned:
            planned[key_hash] = _row_of(user, keys[key_hash])
    if membership is not None:
        held = planned[membership.bound_key]
        if held.row.expires_at != membership.expires_at:
            if held.found:
                held.repairs["expires_at"] = f"{held.row.expires_at}, the membership says otherwise"
            held.row = structs.replace(held.row, expires_at=membership.expires_at)
    return list(planned.values())


def _agreeing(planned: PlannedRow, key: CardKey | None) -> PlannedRow:
    row = planned.row
    status, used_by, used_at = row.status, row.used_by, row.used_at
    if key is not None and key.status == "used":
        status, used_by = "used", key.bound_to or used_by or row.username
        used_at = used_at if used_at is not None else key.bound_at
    elif status == "unused" and (key is None or key.status == "expired"):
        status = "expired"  # nobody can bind it
    elif status == "used":
        used_by = used_by or row.username
    kind = row.type if key is None else key.key_type
    planned.row = structs.replace(row, status=status, used_by=used_by, used_at=used_at, type=kind)
    if status != row.status:
        planned.repairs[f"made_{status}"] = f"{row.status} there, the key itself says otherwise"
    elif status == "used" and used_by != row.used_by:
        planned.repairs["used_by"] = f"{row.used_by} there, the key itself says {used_by}"
    if kind != row.type:
        planned.repairs["type"] = f"{row.type} there, the key itself says {kind}"
    return planned


def _row_of(user: str, key: CardKey) -> PlannedRow:
    row = HeldKey(
        id=derived_id(user, key.key_hash),
        key_hash=key.key_hash,
        username=user,
        type=key.key_type,
        status="used",
        source=HOLD_SOURCES[key.source] if key.source else "manual",
        created_at=key.created_at,
        expires_at=key.expires_at,
        used_at=key.bound_at,
        used_by=user,
    )
    return PlannedRow(row, {"row_made": f"{user} has bound the key, but did not hold it"}, False)
