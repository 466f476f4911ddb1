"""Points become a card key: taken, made and noted together, or not at all."""

from __future__ import annotations

from shared.accounts import card_keys, points
from shared.accounts.card_keys import CardKey, KeyType
from shared.accounts.invitations import InvitationConfig
from shared.accounts.points import Cause
from shared.mysql import Cursor

_REASONS: dict[KeyType, str] = {
    "week": "兑换周卡",
    "month": "兑换月卡",
    "quarter": "兑换季卡",
    "year": "兑换年卡",
}


async def redeem(cursor: Cursor, username: str, config: InvitationConfig, now_ms: int) -> CardKey:
    """A new key of the configured type for the configured points. Raises `Refused`."""
    [key] = card_keys.new_keys(config.card_key_type, 1, "points_redeem", now_ms)
    row_id = card_keys.new_id()
    cause = Cause(_REASONS[key.key_type], card_key_id=row_id)
    # The points first: their row is what everything of this user queues at.
    await points.spend(
        cursor,
        username,
        config.redeem_threshold,
        cause,
        now_ms,
        card_keys.insertion_of(key),
        card_keys.holding_of(username, key, "redeem", row_id),
    )
    return key
