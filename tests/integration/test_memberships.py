"""Memberships: what a bound key is worth, to the millisecond, and what is stored of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ops.audit import audit
from shared.accounts import card_keys, memberships, points, registration, users
from shared.accounts.card_keys import DAYS, CardKey, KeyType, hash_of
from shared.accounts.memberships import Membership
from shared.errors import NotFound, Refused
from shared.mysql import transaction
from shared.settings import Settings
from shared.times import DAY_MS, datetime_text
from tests.account_site import ADMIN, HASH, NOW_MS, AccountSite, account_site
from tests.plays import rows

WEEK_MS = 7 * DAY_MS


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        await site.make_users(["ann", "bob"])
        yield site
        assert [] == await audit(site.pool, ADMIN)


async def key_of(
    site: AccountSite, key_type: KeyType = "week", made_ms: int = NOW_MS, **changes: Any
) -> CardKey:
    """A new key that an admin made."""
    [key] = await site.make_keys(1, key_type, made_ms)
    for column, value in changes.items():
        await rows(
            site.pool,
            f"UPDATE card_keys SET {column} = %s WHERE key_hash = %s",
            *(value, key.key_hash),
        )
    return key


async def membership_of(site: AccountSite, name: str, now_ms: int) -> Membership | None:
    async with transaction(site.pool) as cursor:
        return await memberships.read(cursor, name, now_ms)


async def held(site: AccountSite, name: str) -> dict[str, tuple[Any, ...]]:
    """Of each of a user's keys: (status, source, end, when and by whom it was used)."""
    async with transaction(site.pool) as cursor:
        found = await card_keys.held_by(cursor, name)
    return {
        key.plain_key: (key.status, key.source, key.expires_at, key.used_at, key.used_by)
        for key in found
    }


# --- what a key is worth ------------------------------------------------------------------


@pytest.mark.parametrize("key_type", DAYS)
@pytest.mark.parametrize("waited_ms", [0, 1, 3 * DAY_MS, WEEK_MS])
async def test_a_first_key_gives_what_is_left_of_it(
    site: AccountSite, key_type: KeyType, waited_ms: int
) -> None:
    """
    A key ages from the moment it is made: who waits has less of it.
    """
    key = await key_of(site, key_type)
    bound = await site.bind("ann", key.key, NOW_MS + waited_ms)

    assert NOW_MS + DAYS[key_type] * DAY_MS == bound.expires_at
    assert (key.key_hash, NOW_MS + waited_ms) == (bound.bound_key, bound.bound_at)
    assert (key.key, "admin_created") == (bound.plain_key, bound.source)
    assert bound == await membership_of(site, "ann", NOW_MS + waited_ms)


async def test_a_key_can_be_bound_in_its_last_millisecond(site: AccountSite) -> None:
    """
    And not in the next one.
    """
    last, late = await key_of(site), await key_of(site)
    bound = await site.bind("ann", last.key, NOW_MS + WEEK_MS)
    with pytest.raises(Refused, match=card_keys.EXPIRED):
        await site.bind("bob", late.key, NOW_MS + WEEK_MS + 1)

    assert (0, False, True) == (bound.days_remaining, bound.is_expired, bound.is_expiring)


@pytest.mark.parametrize("key_type", DAYS)
@pytest.mark.parametrize(
    ("after_ms", "from_ms"),
    [
        (1, WEEK_MS),  # from the end of the membership that runs
        (WEEK_MS - 1, WEEK_MS),
        (WEEK_MS, WEEK_MS),
        (WEEK_MS + 1, WEEK_MS + 1),  # from now, if it is over
        (400 * DAY_MS, 400 * DAY_MS),
    ],
)
async def test_a_further_key_gives_all_its_days(
    site: AccountSite, key_type: KeyType, after_ms: int, from_ms: int
) -> None:
    """
    From the end of the membership or from now, whichever is later, however old the key is.
    """
    await site.bind("ann", (await key_of(site)).key)
    made_ms = NOW_MS + after_ms - 3 * DAY_MS
    further = await key_of(site, key_type, made_ms)

    bound = await site.bind("ann", further.key, NOW_MS + after_ms)

    assert NOW_MS + from_ms + DAYS[key_type] * DAY_MS == bound.expires_at
    assert bound == await membership_of(site, "ann", NOW_MS + after_ms)


@pytest.mark.parametrize(
    ("life_ms", "days"),
    [
        (WEEK_MS - 1, 7),
        (WEEK_MS + 1, 7),
        (6 * DAY_MS + DAY_MS // 2, 7),
        (6 * DAY_MS + DAY_MS // 2 - 1, 6),
        (7 * DAY_MS + DAY_MS // 2, 8),  # as real front ends round: a half up
        (DAY_MS // 2 - 1, 0),
    ],
)
async def test_the_days_of_an_imported_key_are_rounded(
    site: AccountSite, life_ms: int, days: int
) -> None:
    """
    By what lies between its making and its end, whatever its type says.
    """
    await site.bind("ann", (await key_of(site)).key)
    further = await key_of(site, expires_at=datetime_text(NOW_MS + life_ms))

    bound = await site.bind("ann", further.key)

    assert NOW_MS + WEEK_MS + days * DAY_MS == bound.expires_at


@pytest.mark.parametrize(
    ("left_ms", "days", "is_expiring", "is_expired"),
    [
        (30 * DAY_MS + 1, 31, False, False),
        (30 * DAY_MS, 30, True, False),
        (DAY_MS + 1, 2, True, False),
        (1, 1, True, False),
        (0, 0, True, False),
        (-1, 0, False, True),
        (-400 * DAY_MS, 0, False, True),
    ],
)
async def test_a_membership_is_shown_as_it_is_now(
    site: AccountSite, left_ms: int, days: int, is_expiring: bool, is_expired: bool
) -> None:
    """
    A day that has begun is a day; thirty of them or fewer are nearly over.
    """
    bound = await site.bind("ann", (await key_of(site, "year")).key)
    shown = await membership_of(site, "ann", bound.expires_at - left_ms)

    assert shown is not None
    assert (days, is_expiring, is_expired) == (
        *(shown.days_remaining, shown.is_expiring, shown.is_expired),
    )


# --- who holds what ------------------------------------------------------------------------


async def test_a_bound_key_is_among_the_binders_keys(site: AccountSite) -> None:
    """
    As used, by them, from now on, until the membership ends; the key itself says the same.
    """
    key = await key_of(site)
    bound = await site.bind("ann", key.key, NOW_MS + 5)

    mine = {key.key: ("used", "manual", bound.expires_at, NOW_MS + 5, "ann")}
    assert mine == await held(site, "ann")
    async with transaction(site.pool) as cursor:
        [stored], _ = await card_keys.listed(cursor, card_keys.Filter(), 1, 10)
    assert ("used", "ann", NOW_MS + 5) == (stored.status, stored.bound_to, stored.bound_at)
    assert key.expires_at == stored.expires_at


async def test_the_key_before_shows_the_end_of_the_one_that_goes_on(site: AccountSite) -> None:
    """
    Not so the ones before that, nor one whose time was over.
    """
    first, second, third = [await key_of(site, made_ms=NOW_MS) for _ in range(3)]
    late = await key_of(site, made_ms=NOW_MS + 30 * DAY_MS)
    ends = [
        (await site.bind("ann", key.key, at)).expires_at
        for key, at in ((first, NOW_MS), (second, NOW_MS + 1), (third, NOW_MS + 2))
    ]
    await site.bind("ann", late.key, NOW_MS + 30 * DAY_MS)

    found = {key: values[2] for key, values in (await held(site, "ann")).items()}
    assert ends == [NOW_MS + weeks * WEEK_MS for weeks in (1, 2, 3)]
    assert {
        first.key: ends[1],
        second.key: ends[2],
        third.key: ends[2],
        late.key: NOW_MS + 37 * DAY_MS,
    } == found


async def test_a_redeemed_key_that_is_given_away_is_used_by_who_binds_it(
    site: AccountSite,
) -> None:
    """
    Who redeemed it sees by whom, and keeps its own end; the binder has a row of their own.
    """
    await site.adjust("ann", 300)
    key = await site.redeem("ann")
    await site.bind("bob", (await key_of(site)).key)
    bound = await site.bind("bob", key.key, NOW_MS + 1)

    used = (NOW_MS + 1, "bob")
    assert {key.key: ("used", "redeem", key.expires_at, *used)} == await held(site, "ann")
    assert ("used", "manual", bound.expires_at, *used) == (await held(site, "bob"))[key.key]
    assert await membership_of(site, "ann", NOW_MS) is None


async def test_ones_own_redeemed_key_stays_one_row(site: AccountSite) -> None:
    """
    It keeps where it came from, and gets the membership's end.
    """
    await site.adjust("ann", 300)
    await site.bind("ann", (await key_of(site)).key)
    key = await site.redeem("ann")
    bound = await site.bind("ann", key.key, NOW_MS + 1)

    rows_of_it = (await held(site, "ann"))[key.key]
    assert ("used", "redeem", bound.expires_at, NOW_MS + 1, "ann") == rows_of_it
    assert 2 == len(await held(site, "ann"))


async def test_a_key_of_promotion_is_held_as_one(site: AccountSite) -> None:
    """
    Of imported keys nobody knows where they came from: they count as redeemed.
    """
    created = await site.register("cat", promotion="month")
    old = await key_of(site, source=None)
    await site.bind("ann", old.key)

    assert created.membership is not None
    assert NOW_MS + 30 * DAY_MS == created.membership.expires_at
    assert "promotion_register" == created.membership.source
    [(status, source, *_)] = (await held(site, "cat")).values()
    assert ("used", "promotion_register") == (status, source)
    assert "redeem" == (await held(site, "ann"))[old.key][1]


# --- refusals -----------------------------------------------------------------------------


async def test_a_refused_key_changes_nothing(site: AccountSite) -> None:
    """
    Unknown, used (also by oneself), expired: nothing of a membership is touched.
    """
    mine, expired, marked = [await key_of(site) for _ in range(3)]
    before = await site.bind("ann", mine.key)
    await rows(
        site.pool, "UPDATE card_keys SET status = 'expired' WHERE key_hash = %s", marked.key_hash
    )
    for plain_key, now_ms, why in (
        ("", NOW_MS, card_keys.UNKNOWN),
        ("nosuchkey", NOW_MS, card_keys.UNKNOWN),
        (mine.key.swapcase(), NOW_MS, card_keys.UNKNOWN),
        (mine.key, NOW_MS, card_keys.USED),
        (marked.key, NOW_MS, card_keys.EXPIRED),
        (expired.key, NOW_MS + WEEK_MS + 1, card_keys.EXPIRED),
        (mine.key, NOW_MS + WEEK_MS + 1, card_keys.USED),  # used counts before expired
    ):
        for name in ("ann", "bob"):
            with pytest.raises(Refused, match=why):
                await site.bind(name, plain_key, now_ms)

    assert before == await membership_of(site, "ann", NOW_MS)
    assert ({}, None) == (await held(site, "bob"), await membership_of(site, "bob", NOW_MS))


async def test_nobody_binds_nothing(site: AccountSite) -> None:
    """
    An unknown user is said before anything of the key is.
    """
    key = await key_of(site)
    for plain_key in (key.key, "nosuchkey"):
        with pytest.raises(NotFound, match=users.UNKNOWN):
            await site.bind("nobody", plain_key)

    await site.bind("ann", key.key)


async def test_who_only_played_something_can_bind(site: AccountSite) -> None:
    """
    Their account is made by the way.
    """
    await rows(site.pool, "INSERT INTO users (username, password_hash) VALUES ('met', '!')")
    await site.bind("met", (await key_of(site)).key)

    async with transaction(site.pool) as cursor:
        assert await points.read_account(cursor, "met") is not None


async def test_a_used_key_stays_used_when_its_user_is_deleted(site: AccountSite) -> None:
    """
    Neither anybody else nor who comes again by that name can bind it.
    """
    key = await key_of(site)
    await site.bind("ann", key.key)
    await site.run(lambda cursor: users.delete(cursor, "ann"))
    await site.register("ann")
    for name in ("ann", "bob"):
        with pytest.raises(Refused, match=card_keys.USED):
            await site.bind(name, key.key)

    assert await membership_of(site, "ann", NOW_MS) is None


@pytest.mark.parametrize("what", ["unknown", "used", "expired"])
async def test_a_registration_with_a_bad_key_makes_no_user(site: AccountSite, what: str) -> None:
    """
    Nor an account, an invitation or a reward: the name and the address stay free.
    """
    key = await key_of(site, made_ms=NOW_MS if what == "used" else NOW_MS - 8 * DAY_MS)
    if what == "used":
        await site.bind("bob", key.key)
    plain_key = "nosuchkey" if what == "unknown" else key.key
    invitation = await site.invitation("ann", "192.0.2.1")
    with pytest.raises(Refused):
        await site.register("cat", card_key=plain_key, invitation=invitation)

    for table in ("invitations", "ip_reward_records", "users WHERE username = 'cat'"):
        assert [(0,)] == await rows(site.pool, f"SELECT COUNT(*) FROM {table}")
    good = await key_of(site)
    created = await site.register("cat", card_key=good.key, invitation=invitation)
    assert created.membership is not None
    assert hash_of(good.key) == created.membership.bound_key


async def test_a_brought_key_counts_before_one_of_promotion(site: AccountSite) -> None:
    """
    No second key is made.
    """
    key = await key_of(site, "year")
    user = users.NewUser(username="cat", password_hash=HASH)
    async with transaction(site.pool) as cursor:
        created = await registration.create_user(
            cursor, user, NOW_MS, card_key=key.key, promotion="week"
        )

    assert created.membership is not None
    assert key.key_hash == created.membership.bound_key
    assert [(1,)] == await rows(site.pool, "SELECT COUNT(*) FROM card_keys")
