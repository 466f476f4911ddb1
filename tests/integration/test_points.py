"""Points: what may be earned, spent and taken, and the records of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import pytest

from shared.accounts import points, users
from shared.accounts.points import BALANCE_MAX, Cause
from shared.errors import NotFound, Refused
from shared.mysql import Cursor, Pool, transaction
from shared.settings import Settings
from tests.account_site import NOW_MS, AccountSite, Done, account_site, outcome
from tests.plays import rows
from tests.sessions import until_somebody_waits

GIFT = Cause("gift")


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        await site.make_users(["ann"])
        # As a drain stores somebody who only ever played something.
        await rows(site.pool, "INSERT INTO users (username, password_hash) VALUES ('met', '!')")
        yield site


@pytest.fixture(name="cursor")
async def _cursor(site: AccountSite) -> AsyncIterator[Cursor]:
    async with transaction(site.pool) as cursor:
        yield cursor


async def sums(cursor: Cursor, name: str = "ann") -> tuple[int, int, int]:
    account = await points.read_account(cursor, name)
    assert account is not None
    return account.balance, account.total_earned, account.total_redeemed


async def test_each_kind_of_change_has_its_own_sum(cursor: Cursor) -> None:
    """
    An adjustment is neither earned nor redeemed; a record of a redemption is negative.
    """
    await points.earn(cursor, "ann", 500, GIFT, NOW_MS)
    await points.spend(cursor, "ann", 300, GIFT, NOW_MS + 1)
    await points.adjust(cursor, "ann", -50, GIFT, NOW_MS + 2)
    await points.adjust(cursor, "ann", 7, GIFT, NOW_MS + 3)

    assert (157, 500, 300) == await sums(cursor)
    history, total = await points.history(cursor, "ann", 1, 10)
    assert 4 == total
    assert [
        ("admin_adjust", 7, NOW_MS + 3),
        ("admin_adjust", -50, NOW_MS + 2),
        ("redeem", -300, NOW_MS + 1),
        ("earn", 500, NOW_MS),
    ] == [(record.type, record.amount, record.created_at) for record in history]


async def test_a_record_says_what_the_change_had_to_do_with(cursor: Cursor) -> None:
    """
    Whom, which key, which admin, and why.
    """
    reason = "理由 'quoted'; -- %s %(x)s \\"
    cause = Cause(reason, related_user="bob", card_key_id="id", admin_username="admin")
    await points.earn(cursor, "ann", 1, cause, NOW_MS)

    [record], _ = await points.history(cursor, "ann", 1, 10)
    told = (record.reason, record.related_user, record.card_key_id, record.admin_username)
    assert (reason, "bob", "id", "admin") == told


#: (balance, total earned, total redeemed), a change, what it comes to or why it is refused
CHANGES = [
    ((300, 300, 0), ("spend", 300), (0, 300, 300)),
    ((300, 300, 0), ("spend", 301), points.TOO_FEW),
    ((0, 300, 300), ("spend", 1), points.TOO_FEW),
    ((5, 0, 0), ("adjust", -5), (0, 0, 0)),
    ((5, 0, 0), ("adjust", -6), points.DEDUCT_TOO_MUCH),
    ((BALANCE_MAX - 1, 0, 0), ("adjust", 1), (BALANCE_MAX, 0, 0)),
    ((BALANCE_MAX - 1, 0, 0), ("adjust", 2), points.TOO_MANY),
    ((BALANCE_MAX - 1, 0, 0), ("earn", 1), (BALANCE_MAX, 1, 0)),
    ((BALANCE_MAX - 1, 0, 0), ("earn", 2), points.TOO_MANY),
    # However little is left: what was ever earned or redeemed has to fit as well.
    ((0, BALANCE_MAX - 1, BALANCE_MAX - 1), ("earn", 1), (1, BALANCE_MAX, BALANCE_MAX - 1)),
    ((0, BALANCE_MAX - 1, BALANCE_MAX - 1), ("earn", 2), points.TOO_MANY),
    ((2, BALANCE_MAX, BALANCE_MAX - 1), ("spend", 1), (1, BALANCE_MAX, BALANCE_MAX)),
    ((2, BALANCE_MAX, BALANCE_MAX - 1), ("spend", 2), points.TOO_FEW),
]


@pytest.mark.parametrize(("before", "change", "expected"), CHANGES)
async def test_a_change_goes_up_to_the_limit_and_no_further(
    site: AccountSite,
    before: tuple[int, int, int],
    change: tuple[str, int],
    expected: tuple[int, int, int] | str,
) -> None:
    """
    A refusal leaves neither other sums nor a record.
    """
    what, amount = change
    balance, earned, redeemed = before
    await rows(
        site.pool,
        "UPDATE user_points SET balance = %s, total_earned = %s, total_redeemed = %s",
        *(balance, earned, redeemed),
    )

    def work(cursor: Cursor) -> Awaitable[None]:
        call = {"spend": points.spend, "adjust": points.adjust, "earn": points.earn}[what]
        return call(cursor, "ann", amount, GIFT, NOW_MS)

    told = await outcome(site.run(work))

    records = await rows(site.pool, "SELECT COUNT(*) FROM points_records")
    if isinstance(expected, str):
        assert (expected, before) == (str(told), await sums_in(site.pool, "ann"))
        assert [(0,)] == records
    else:
        assert (Done(), expected) == (told, await sums_in(site.pool, "ann"))
        assert [(1,)] == records


async def test_history_is_read_in_pages_newest_first(cursor: Cursor) -> None:
    """
    Every record is on one page, also those of the same moment; others' are on none.
    """
    await points.adjust(cursor, "met", 1, GIFT, NOW_MS)
    for number in range(7):
        await points.adjust(cursor, "ann", number + 1, GIFT, NOW_MS + number // 3)

    pages = [await points.history(cursor, "ann", page, 3) for page in (1, 2, 3, 4)]
    read = [record for page, _ in pages for record in page]
    assert [3, 3, 1, 0] == [len(page) for page, _ in pages]
    assert {7} == {total for _, total in pages}
    assert [2, 1, 1, 1, 0, 0, 0] == [record.created_at - NOW_MS for record in read]
    assert set(range(1, 8)) == {record.amount for record in read}


async def test_an_account_is_made_when_it_is_needed(cursor: Cursor) -> None:
    """
    Once: the code that it gets stays.
    """
    assert await points.read_account(cursor, "met") is None
    first = await points.lock_account(cursor, "met")
    again = await points.lock_account(cursor, "met")

    assert first == again
    assert (16, 0) == (len(first.invitation_code), first.balance)
    assert first.invitation_code.isalnum()
    assert first.invitation_code.upper() == first.invitation_code


async def test_an_imported_account_without_a_code_gets_one(cursor: Cursor) -> None:
    """
    Its points stay as they are.
    """
    await points.earn(cursor, "ann", 5, GIFT, NOW_MS)
    await cursor.execute("UPDATE user_points SET invitation_code = NULL")

    account = await points.lock_account(cursor, "ann")
    assert (16, 5) == (len(account.invitation_code), account.balance)
    assert account == await points.read_account(cursor, "ann")


async def test_nobody_has_no_account(site: AccountSite) -> None:
    """
    No user, no points, and none are given.
    """
    for work in (
        lambda cursor: points.lock_account(cursor, "nobody"),
        lambda cursor: points.adjust(cursor, "nobody", 1, GIFT, NOW_MS),
        lambda cursor: points.spend(cursor, "nobody", 1, GIFT, NOW_MS),
    ):
        with pytest.raises(NotFound, match=users.UNKNOWN):
            await site.run(work)

    assert [("ann",)] == await rows(site.pool, "SELECT username FROM user_points")


async def test_who_has_no_account_yet_has_nothing_to_spend(site: AccountSite) -> None:
    """
    Which is not the same as not being there.
    """
    with pytest.raises(Refused, match=points.TOO_FEW):
        await site.redeem("met")

    assert [] == await rows(site.pool, "SELECT 1 FROM card_keys")


async def test_an_account_is_not_made_for_who_is_deleted_at_that_moment(
    site: AccountSite,
) -> None:
    """
    Who needs it waits for the deletion, and is told that there is no such user.
    """
    async with transaction(site.pool) as cursor:
        await users.delete(cursor, "met")
        adjusting = asyncio.create_task(site.adjust("met", 1))
        await until_somebody_waits(cursor)

    with pytest.raises(NotFound):
        await adjusting


async def test_two_who_need_the_same_account_make_one(site: AccountSite) -> None:
    """
    The later one waits, and sees what the first one has done to it.
    """
    async with transaction(site.pool) as cursor:
        await points.adjust(cursor, "met", 5, GIFT, NOW_MS)
        adjusting = asyncio.create_task(site.adjust("met", -5))
        await until_somebody_waits(cursor)
    await adjusting

    assert (0, 0, 0) == await sums_in(site.pool, "met")


async def sums_in(pool: Pool, name: str) -> tuple[int, int, int]:
    async with transaction(pool) as cursor:
        return await sums(cursor, name)


async def test_accounts_are_listed_in_pages_by_name(cursor: Cursor) -> None:
    """
    Users without an account are on no page.
    """
    await points.earn(cursor, "ann", 5, GIFT, NOW_MS)
    assert ["ann"] == [account.username for account in (await points.listed(cursor, 1, 10))[0]]
    await points.lock_account(cursor, "met")

    [last], total = await points.listed(cursor, 2, 1)
    assert ("met", 2) == (last.username, total)
