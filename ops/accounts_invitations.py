"""Who brought whom, which addresses were rewarded for it, and the site's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from ops.accounts_page import Page
from ops.importing import Refusal
from ops.lunatv_accounts import DOCUMENT
from ops.lunatv_source import shown
from ops.lunatv_values import Invitation, IpReward
from shared.accounts import admin_config, invitations
from shared.accounts.addresses import client_address, reward_unit
from shared.accounts.invitations import InvitationConfig
from shared.times import datetime_text, ms_of

_REWARD = "id, ip_address, inviter, invitee, reward_time"
_INSERT_REWARD = """
INSERT INTO ip_reward_records (ip_address, id, inviter, invitee, reward_time)
VALUES (%s, %s, %s, %s, %s)
"""
_INSERT_INVITATION = """
INSERT INTO invitations
    (id, inviter, invitee, invitation_code, ip_address, rewarded, reward_time, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
_EARNED = """
SELECT 1 FROM points_records
WHERE username = %s AND type = 'earn' AND related_user = %s LIMIT 1
"""
#: A configuration that nobody touched since the schema was made.
_DEFAULTS = InvitationConfig(
    enabled=True, reward_points=100, redeem_threshold=300, card_key_type="week"
)
_UNTOUCHED = "SELECT created_at = updated_at FROM invitation_configs WHERE id = 1"


# --- addresses --------------------------------------------------------------------


async def bring_rewards(page: Page, rewards: Sequence[IpReward]) -> None:
    """Addresses that were rewarded: they never are again."""
    names = {reward.id: _names_of(reward.ip_address) for reward in rewards}
    stored = await _rewards(page, "id", names)
    stored += await _rewards(page, "ip_address", [each for some in names.values() for each in some])
    ids, taken = {row.id for row in stored}, {row.ip_address for row in stored}
    fresh = []
    for reward in rewards:
        free = [name for name in names[reward.id] if name not in taken]
        if not names[reward.id]:
            refusal = Refusal(f"reward {reward.id}", "unknown_address", "it stands for anybody")
            page.books.refuse("ip_rewards", refusal)
        elif reward.id in ids or not free:
            page.books.settle("ip_rewards", "kept")
        else:
            page.books.settle("ip_rewards", "created")
            ids.add(reward.id)
            taken.add(free[0])
            fresh.append(structs.replace(reward, ip_address=free[0]))
    await page.write_many(_INSERT_REWARD, [_reward_row(reward) for reward in fresh])
    if page.task.dry:
        page.task.unwritten.rewards.extend(fresh)


def _names_of(text: str) -> list[str]:
    """How the address *text* may be noted, the best first; nothing for one that nobody knows.

    A new reward asks for the first; the others are for who had one of the same household before.
    """
    address = client_address(text, (), ())
    if address is None:
        return [text] if text and text.lower() != "unknown" else []
    return list(dict.fromkeys((reward_unit(address), address, text)))


async def _rewards(page: Page, column: str, values: Iterable[str]) -> list[IpReward]:
    """Those of which *column* is in *values*, here or, of a dry run, to be."""
    wanted = set(values)
    query = f"SELECT {_REWARD} FROM ip_reward_records WHERE {column} IN"
    stored = [
        IpReward(id_, address, inviter, invitee, ms_of(at))
        for id_, address, inviter, invitee, at in await page.rows_in(query, wanted)
    ]
    unwritten = page.task.unwritten.rewards
    return stored + [reward for reward in unwritten if getattr(reward, column) in wanted]


def _reward_row(reward: IpReward) -> Sequence[Any]:
    at = datetime_text(reward.reward_time)
    return reward.ip_address, reward.id, reward.inviter, reward.invitee, at


# --- invitations ------------------------------------------------------------------


async def bring_invitations(page: Page, found: Sequence[Invitation]) -> None:
    """Who brought whom; rewarded where the address and the points both tell of it."""
    invitees = [invitation.invitee for invitation in found]
    names = {*invitees, *(invitation.inviter for invitation in found)}
    here = await page.rows_in("SELECT username FROM users WHERE username IN", names)
    users = {name for [name] in here} | page.task.unwritten.users
    query = "SELECT id, invitee FROM invitations WHERE invitee IN"
    stored = list(await page.rows_in(query, invitees))
    query = "SELECT id, invitee FROM invitations WHERE id IN"
    stored += await page.rows_in(query, [invitation.id for invitation in found])
    kept = {value for row in stored for value in row}
    rewards = {
        (each.inviter, each.invitee, each.ip_address): each.reward_time
        for each in await _rewards(page, "invitee", invitees)
    }
    rows = []
    for invitation in found:
        if missing := {invitation.inviter, invitation.invitee} - users:
            where = f"invitation {invitation.id}"
            refusal = Refusal(where, "no_such_user", f"{', '.join(sorted(missing))} is not here")
            page.books.refuse("invitations", refusal)
        elif invitation.id in kept or invitation.invitee in kept:
            page.books.settle("invitations", "kept")
        else:
            page.books.settle("invitations", "created")
            rows.append(await _invitation_row(page, invitation, rewards))
    await page.write_many(_INSERT_INVITATION, rows)


async def _invitation_row(
    page: Page, invitation: Invitation, rewards: Mapping[tuple[str, str, str], int]
) -> Sequence[Any]:
    inviter, invitee = invitation.inviter, invitation.invitee
    address, at_ms = client_address(invitation.ip_address, (), ()), None
    names = _names_of(invitation.ip_address)
    shown_address = address or (names[0] if names else "")
    for name in names:
        if (at_ms := rewards.get((inviter, invitee, name))) is not None:
            shown_address = shown_address if address and name == reward_unit(address) else name
            break
    if at_ms is not None and not await _earned(page, inviter, invitee):
        at_ms = None
    times = (None if at_ms is None else datetime_text(at_ms), datetime_text(invitation.created_at))
    code = invitation.invitation_code
    return invitation.id, inviter, invitee, code, shown_address, at_ms is not None, *times


async def _earned(page: Page, inviter: str, invitee: str) -> bool:
    if (inviter, invitee) in page.task.unwritten.earned:
        return True
    return await page.row(_EARNED, (inviter, invitee)) is not None


# --- configurations ---------------------------------------------------------------


async def bring_document(page: Page) -> None:
    """The configuration document, without its users, where none was ever written here."""
    document = page.task.site.document
    if document is None:
        return
    here = await admin_config.read(page.cursor)
    if here.config:
        page.books.settle("configurations", "kept")
        return
    document, faults = admin_config.without_faults(document)
    for fault in faults:
        detail = f"{fault.field}: allowed is {fault.allowed}"
        page.books.repair("configurations", shown(DOCUMENT), "not_understood", detail)
    if not page.task.dry:
        await admin_config.write(page.cursor, document, here.version)
    page.books.settle("configurations", "filled")


async def bring_invitation_config(page: Page) -> None:
    """What an invitation gives, where nobody chose it here."""
    found = page.task.site.invitation_config
    if found is None:
        return
    wanted = InvitationConfig(
        found.enabled, found.reward_points, found.redeem_threshold, found.card_key_type
    )
    here = await invitations.read_config(page.cursor)
    [untouched] = await page.row(_UNTOUCHED, ())
    if here == wanted or here != _DEFAULTS or not untouched:
        page.books.settle("configurations", "kept")
        return
    if not page.task.dry:
        await invitations.write_config(page.cursor, wanted)
    page.books.settle("configurations", "filled")
