"""
A user is created with all that belongs to it, or not at all (seed design, section 4.2).

The order of locks: the new user, the account of who invited, the address, the card key.
"""

from __future__ import annotations

import msgspec

from shared.accounts import card_keys, invitations, memberships, points, users
from shared.accounts.card_keys import KeyType
from shared.accounts.invitations import Invitation
from shared.accounts.memberships import Membership
from shared.accounts.users import NewUser
from shared.mysql import Cursor


class Created(msgspec.Struct):
    """What a registration made."""

    username: str
    membership: Membership | None = None


async def create_user(
    cursor: Cursor,
    user: NewUser,
    now_ms: int,
    *,
    card_key: str | None = None,
    promotion: KeyType | None = None,
    invitation: Invitation | None = None,
) -> Created:
    """Create *user* with a points account, and bind *card_key* or a new one of type *promotion*.

    Who sent *invitation* is rewarded. Raises `Refused` for a taken name or a key that cannot be
    bound; what a name may look like is the caller's to check.
    """
    await users.insert(cursor, user, now_ms)
    await points.open_account(cursor, user.username)
    if invitation is not None:
        await invitations.reward(cursor, invitation, user.username, now_ms)
    if card_key is None and promotion is not None:
        [key] = card_keys.new_keys(promotion, 1, "promotion_register", now_ms)
        await card_keys.insert(cursor, [key])
        card_key = key.key
    membership = None
    if card_key is not None:
        membership = await memberships.bind(cursor, user.username, card_key, now_ms)
    return Created(user.username, membership)
