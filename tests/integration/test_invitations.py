"""Invitations: who is rewarded, and for whom not, whatever happens to the inviter meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.accounts import invitations, points, users
from shared.accounts.invitations import REASON, Invitation, InvitationConfig
from shared.accounts.points import AMOUNT_MAX, BALANCE_MAX, Cause
from shared.errors import InvalidField, NotFound
from shared.mysql import Pool, transaction
from shared.settings import Settings
from tests.account_site import NOW_MS, AccountSite, account_site
from tests.plays import rows
from tests.sessions import until_somebody_waits

HOME = "192.0.2.1"


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        await site.make_users(["ann"])
        yield site


async def balance(pool: Pool, name: str = "ann") -> int:
    [(found,)] = await rows(pool, "SELECT balance FROM user_points WHERE username = %s", name)
    return int(found)


async def invited(site: AccountSite) -> list[tuple[object, ...]]:
    """(invitee, inviter, address, was it rewarded?) of each, by name."""
    return await rows(
        site.pool,
        "SELECT invitee, inviter, ip_address, rewarded, reward_time IS NOT NULL FROM invitations"
        " ORDER BY invitee",
    )


async def test_an_inviter_is_rewarded_once_per_address(site: AccountSite) -> None:
    """
    The second one from there counts as invited all the same, and the record says for whom.
    """
    await site.register("bob", invitation=await site.invitation("ann", HOME))
    await site.register("cat", invitation=await site.invitation("ann", HOME))

    assert [("bob", "ann", HOME, 1, 1), ("cat", "ann", HOME, 0, 0)] == await invited(site)
    assert [("ann", "earn", 100, REASON, "bob")] == await rows(
        site.pool, "SELECT username, type, amount, reason, related_user FROM points_records"
    )


async def test_an_address_is_rewarded_once_whoever_invites(site: AccountSite) -> None:
    """
    Not even a user who was deleted and comes again brings a second reward from there.
    """
    await site.register("bob", invitation=await site.invitation("ann", HOME))
    await site.register("cat", invitation=await site.invitation("bob", HOME))
    await site.run(lambda cursor: users.delete(cursor, "bob"))
    await site.register("bob", invitation=await site.invitation("ann", HOME))

    assert 100 == await balance(site.pool)
    assert 0 == await balance(site.pool, "bob")
    assert 1 == len(await rows(site.pool, "SELECT 1 FROM ip_reward_records"))


async def test_a_household_is_one_address(site: AccountSite) -> None:
    """
    All of a /64 of IPv6 is rewarded once; the next /64 is another one.
    """
    for name, address in (
        ("bob", "2001:db8::1"),
        ("cat", "2001:db8::2"),
        ("dan", "2001:db8:0:1::"),
    ):
        await site.register(name, invitation=await site.invitation("ann", address))

    assert 200 == await balance(site.pool)
    units = await rows(site.pool, "SELECT ip_address FROM ip_reward_records ORDER BY 1")
    assert [("2001:db8:0:1::/64",), ("2001:db8::/64",)] == units


@pytest.mark.parametrize("code", ["", "NOSUCHCODE000000", "x" * 500, "卡密", "' OR 1=1 --"])
async def test_a_code_that_nobody_has_is_ignored(site: AccountSite, code: str) -> None:
    """
    The registration goes on as if there had been none.
    """
    await site.register("bob", invitation=Invitation(code, HOME))

    assert [] == await invited(site)
    assert [] == await rows(site.pool, "SELECT 1 FROM ip_reward_records")


async def test_a_code_is_found_by_its_exact_letters(site: AccountSite) -> None:
    """
    Codes are capitals; small ones are no code.
    """
    invitation = await site.invitation("ann", HOME)
    await rows(site.pool, "UPDATE user_points SET invitation_code = 'ABCDEFGHIJKLMNOP'")
    await site.register("bob", invitation=Invitation("abcdefghijklmnop", HOME))
    await site.register("cat", invitation=invitation)

    assert [] == await invited(site)


async def test_nobody_is_rewarded_for_themselves(site: AccountSite) -> None:
    """
    Ones own code is no invitation.
    """
    invitation = await site.invitation("ann", HOME)
    async with transaction(site.pool) as cursor:
        assert not await invitations.reward(cursor, invitation, "ann", NOW_MS)

    assert [] == await invited(site)


async def test_without_an_address_there_is_an_invitation_but_no_reward(site: AccountSite) -> None:
    """
    Who hides behind a proxy that nobody trusts brings no points.
    """
    await site.register("bob", invitation=await site.invitation("ann"))

    assert [("bob", "ann", "", 0, 0)] == await invited(site)
    assert 0 == await balance(site.pool)


async def test_while_rewards_are_off_an_address_stays_free(site: AccountSite) -> None:
    """
    It can be rewarded when they are on again, with the points of that day.
    """
    await site.configure(enabled=False)
    await site.register("bob", invitation=await site.invitation("ann", HOME))
    assert [("bob", "ann", HOME, 0, 0)] == await invited(site)
    await site.configure(enabled=True, reward_points=7)
    await site.register("cat", invitation=await site.invitation("ann", HOME))

    assert 7 == await balance(site.pool)


async def test_a_full_account_does_not_keep_anybody_from_registering(site: AccountSite) -> None:
    """
    Of a reward that does not fit nothing is given, and the address stays free.
    """
    limit = BALANCE_MAX - 99
    async with transaction(site.pool) as cursor:
        await points.earn(cursor, "ann", limit, Cause("much"), NOW_MS)
    await site.register("bob", invitation=await site.invitation("ann", HOME))

    assert [("bob", "ann", HOME, 0, 0)] == await invited(site)
    assert limit == await balance(site.pool)
    assert [] == await rows(site.pool, "SELECT 1 FROM ip_reward_records")


async def test_the_last_points_that_fit_are_given(site: AccountSite) -> None:
    """
    An account takes exactly up to its limit.
    """
    async with transaction(site.pool) as cursor:
        await points.earn(cursor, "ann", BALANCE_MAX - 100, Cause("much"), NOW_MS)
    await site.register("bob", invitation=await site.invitation("ann", HOME))

    assert BALANCE_MAX == await balance(site.pool)


async def test_an_inviter_who_is_deleted_at_that_moment_is_none(site: AccountSite) -> None:
    """
    The registration waits for the deletion, and then goes on without an invitation.
    """
    invitation = await site.invitation("ann", HOME)
    async with transaction(site.pool) as cursor:
        await users.delete(cursor, "ann")
        registering = asyncio.create_task(site.register("bob", invitation=invitation))
        await until_somebody_waits(cursor)
    await registering

    assert [] == await invited(site)
    assert [("bob",)] == await rows(site.pool, "SELECT username FROM users")


async def test_info_counts_invitations_and_makes_an_account_where_there_is_none(
    site: AccountSite,
) -> None:
    """
    Who only ever played something has a code from the first look on; nobody has none.
    """
    await site.register("bob", invitation=await site.invitation("ann", HOME))
    await site.register("cat", invitation=await site.invitation("ann", HOME))
    await rows(site.pool, "INSERT INTO users (username, password_hash) VALUES ('met', '!')")
    async with transaction(site.pool) as cursor:
        found = await invitations.info(cursor, "ann")
        met = await invitations.info(cursor, "met")
        again = await invitations.info(cursor, "met")
        with pytest.raises(NotFound):
            await invitations.info(cursor, "nobody")

    assert (2, 100, 100) == (found.total_invites, found.total_rewards, found.balance)
    assert (0, 0, 0, 16) == (met.total_invites, met.total_rewards, met.balance, len(met.code))
    assert met == again


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reward_points": 0}, "rewardPoints"),
        ({"reward_points": -1}, "rewardPoints"),
        ({"reward_points": AMOUNT_MAX + 1}, "rewardPoints"),
        ({"redeem_threshold": 0}, "redeemThreshold"),
        ({"redeem_threshold": AMOUNT_MAX + 1}, "redeemThreshold"),
        ({"card_key_type": "decade"}, "cardKeyType"),
    ],
)
async def test_a_configuration_that_makes_no_sense_is_refused(
    site: AccountSite, change: dict[str, object], field: str
) -> None:
    """
    The field is named, and what there was stays.
    """
    with pytest.raises(InvalidField) as refused:
        await site.configure(**change)

    assert field == refused.value.field
    async with transaction(site.pool) as cursor:
        assert InvitationConfig(True, 100, 300, "week") == await invitations.read_config(cursor)
