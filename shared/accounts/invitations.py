"""
Invitations: who brings a user gets points, once per invitee and once per address.

The address is rewarded by a row with a unique key, in the transaction that gives the points:
of two registrations at the same moment one finds it taken (facts section 6, Invitation reward).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import msgspec

from shared.accounts import points
from shared.accounts.addresses import reward_unit
from shared.accounts.card_keys import KEY_TYPES, KeyType
from shared.accounts.points import AMOUNT_MAX, BALANCE_MAX, Cause
from shared.errors import InvalidField
from shared.mysql import Cursor
from shared.times import datetime_text

BAD_REWARD, BAD_THRESHOLD = "奖励积分必须是正整数", "兑换门槛必须是正整数"
REASON = "邀请好友注册"

_CONFIG = (
    "SELECT enabled, reward_points, redeem_threshold, card_key_type FROM invitation_configs"
    " WHERE id = 1"
)
#: Locked: an inviter who is deleted meanwhile has no invitation, and no foreign key fails.
_INVITER = """
SELECT username, balance, total_earned FROM user_points WHERE invitation_code = %s FOR UPDATE
"""
_INVITE = """
INSERT INTO invitations
    (id, inviter, invitee, invitation_code, ip_address, rewarded, reward_time, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
_REWARD_ADDRESS = """
INSERT INTO ip_reward_records (id, ip_address, inviter, invitee, reward_time)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE ip_reward_records.id = ip_reward_records.id
"""


class InvitationConfig(msgspec.Struct, rename="camel"):
    """What an invitation gives and a redemption takes."""

    enabled: bool
    reward_points: int
    redeem_threshold: int
    card_key_type: KeyType


class InvitationInfo(msgspec.Struct, rename="camel"):
    """A user's own code and what it brought; *total_rewards* are points."""

    code: str
    total_invites: int
    total_rewards: int
    balance: int


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a registration says of who invited: *address* is the client's, None if unknown."""

    code: str
    address: str | None


async def read_config(cursor: Cursor) -> InvitationConfig:
    """The site's configuration."""
    await cursor.execute(_CONFIG)
    enabled, reward_points, redeem_threshold, card_key_type = await cursor.fetchone()
    return InvitationConfig(bool(enabled), reward_points, redeem_threshold, card_key_type)


async def write_config(cursor: Cursor, config: InvitationConfig) -> None:
    """Replace it. Raises `InvalidField`."""
    amount = f"a whole number from 1 to {AMOUNT_MAX}"
    if not 1 <= config.reward_points <= AMOUNT_MAX:
        raise InvalidField(BAD_REWARD, "rewardPoints", amount)
    if not 1 <= config.redeem_threshold <= AMOUNT_MAX:
        raise InvalidField(BAD_THRESHOLD, "redeemThreshold", amount)
    if config.card_key_type not in KEY_TYPES:
        raise InvalidField("无效的卡密类型", "cardKeyType", ", ".join(KEY_TYPES))
    await cursor.execute(
        "UPDATE invitation_configs SET enabled = %s, reward_points = %s, redeem_threshold = %s,"
        " card_key_type = %s WHERE id = 1",
        (config.enabled, config.reward_points, config.redeem_threshold, config.card_key_type),
    )


async def reward(cursor: Cursor, invitation: Invitation, invitee: str, now_ms: int) -> bool:
    """Note that *invitee* came by *invitation*, and reward who sent it; was there a reward?

    A code that nobody has is ignored. Without an address there is no reward, nor where it does
    not fit into the inviter's account: that is no fault of the invitee.
    """
    await cursor.execute(_INVITER, (invitation.code,))
    if (row := await cursor.fetchone()) is None or row[0] == invitee:
        return False
    (inviter, *sums), now = row, datetime_text(now_ms)
    config = await read_config(cursor)
    fits = max(sums) + config.reward_points <= BALANCE_MAX
    rewarded = (
        config.enabled
        and fits
        and await _reward_address(cursor, invitation.address, inviter, invitee, now_ms)
    )
    await cursor.execute(
        _INVITE,
        (
            *(str(uuid.uuid4()), inviter, invitee, invitation.code, invitation.address or ""),
            *(rewarded, now if rewarded else None, now),
        ),
    )
    if rewarded:
        cause = Cause(REASON, related_user=invitee)
        await points.earn(cursor, inviter, config.reward_points, cause, now_ms)
    return rewarded


async def _reward_address(
    cursor: Cursor, address: str | None, inviter: str, invitee: str, now_ms: int
) -> bool:
    """Take the one reward of *address*; False where it is gone, or nobody knows the address."""
    if address is None:
        return False
    values = (str(uuid.uuid4()), reward_unit(address), inviter, invitee, datetime_text(now_ms))
    await cursor.execute(_REWARD_ADDRESS, values)
    return bool(cursor.rowcount == 1)


async def info(cursor: Cursor, username: str) -> InvitationInfo:
    """The code of *username* and what it brought. Raises `NotFound`."""
    account = await points.read_account(cursor, username)
    if account is None or not account.invitation_code:
        account = await points.lock_account(cursor, username)
    await cursor.execute("SELECT COUNT(*) FROM invitations WHERE inviter = %s", (username,))
    [invites] = await cursor.fetchone()
    return InvitationInfo(account.invitation_code, invites, account.total_earned, account.balance)
