"""Card keys: made, listed, exported, deleted, and cleared away when nobody bound them."""

from __future__ import annotations

import asyncio
import csv
import io
import string
from collections.abc import AsyncIterator

import msgspec
import pytest

from ops.audit import audit
from shared.accounts import card_keys, memberships
from shared.accounts.card_key_csv import csv_text
from shared.accounts.card_keys import BATCH_MAX, DAYS, CardKey, Filter, KeyType, hash_of, new_keys
from shared.errors import InvalidField, NotFound, Refused
from shared.mysql import transaction
from shared.settings import Settings
from shared.times import DAY_MS
from tests.account_site import ADMIN, NOW_MS, AccountSite, account_site
from tests.plays import rows
from tests.sessions import until_somebody_waits

WEEK_MS = 7 * DAY_MS


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[AccountSite]:
    async with account_site(migrated, locks=False) as site:
        await site.make_users(["ann", "bob"])
        yield site
        assert [] == await audit(site.pool, ADMIN)


async def statuses(site: AccountSite) -> dict[str, str]:
    """plain key -> status"""
    return dict(await rows(site.pool, "SELECT plain_key, status FROM card_keys"))


async def expire(site: AccountSite, now_ms: int) -> int:
    async with transaction(site.pool) as cursor:
        return await card_keys.expire(cursor, now_ms)


async def clean_up(site: AccountSite, now_ms: int) -> int:
    async with transaction(site.pool) as cursor:
        return await card_keys.clean_up(cursor, now_ms)


async def redeemed(site: AccountSite, name: str = "ann") -> CardKey:
    await site.adjust(name, 300)
    return await site.redeem(name)


# --- made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", DAYS)
def test_new_keys_live_as_long_as_their_type_says(key_type: KeyType) -> None:
    """From the moment they are made; each is its own, of letters and digits."""
    keys = new_keys(key_type, BATCH_MAX, "admin_created", NOW_MS)

    assert BATCH_MAX == len({key.key for key in keys})
    assert {(NOW_MS, NOW_MS + DAYS[key_type] * DAY_MS)} == {
        (key.created_at, key.expires_at) for key in keys
    }
    letters = {letter for key in keys for letter in key.key}
    assert set(string.ascii_letters + string.digits) == letters
    assert {16} == {len(key.key) for key in keys}
    assert all(key.key_hash == hash_of(key.key) for key in keys)


@pytest.mark.parametrize("count", [0, -1, BATCH_MAX + 1])
def test_a_batch_has_a_size(count: int) -> None:
    """Nothing, less than nothing and too much are refused, naming what may be."""
    with pytest.raises(InvalidField) as refused:
        new_keys("week", count, "admin_created", NOW_MS)

    assert ("count", True) == (refused.value.field, str(BATCH_MAX) in refused.value.allowed)


async def test_a_full_batch_is_stored(site: AccountSite) -> None:
    """
    In one statement, which is not too large for the server.
    """
    await site.make_keys(BATCH_MAX)

    assert BATCH_MAX == len(await statuses(site))


async def test_a_redeemed_key_is_ones_own_and_unused(site: AccountSite) -> None:
    """
    Of the type that is configured, noted with the points that it took.
    """
    await site.configure(card_key_type="month", redeem_threshold=250)
    key = await redeemed(site)

    assert ("month", "unused", "points_redeem") == (key.key_type, key.status, key.source)
    async with transaction(site.pool) as cursor:
        [mine] = await card_keys.held_by(cursor, "ann")
    assert (key.key, "unused", "redeem", None) == (
        *(mine.plain_key, mine.status, mine.source, mine.used_by),
    )
    record = "SELECT amount, reason, card_key_id FROM points_records WHERE type = 'redeem'"
    assert [(-250, "兑换月卡", mine.id)] == await rows(site.pool, record)


# --- listed -------------------------------------------------------------------------------


async def test_keys_are_listed_in_pages_newest_first(site: AccountSite) -> None:
    """
    The number of all that were chosen comes along.
    """
    keys = await site.make_keys(5)
    async with transaction(site.pool) as cursor:
        pages = [await card_keys.listed(cursor, Filter(), page, 2) for page in (1, 2, 3, 4)]

    read = [key for page, _ in pages for key in page]
    assert [key.key for key in reversed(keys)] == [key.key for key in read]
    assert ([2, 2, 1, 0], {5}) == ([len(page) for page, _ in pages], {n for _, n in pages})


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(), "abcd"),
        (Filter(status="unused"), "bd"),
        (Filter(status="used"), "a"),
        (Filter(status="expired"), "c"),
        (Filter(key_type="week"), "abc"),
        (Filter(key_type="year"), "d"),
        (Filter(key_type="month"), ""),
        (Filter(bound_to="ann"), "a"),
        (Filter(bound_to="bob"), ""),
        (Filter(status="unused", key_type="week"), "b"),
        (Filter(status="unused", bound_to="ann"), ""),
    ],
)
async def test_keys_are_chosen_by_each_filter_and_by_all(
    site: AccountSite, chosen: Filter, expected: str
) -> None:
    """
    a is bound by ann, b fresh, c over, d a year's.
    """
    a, b, c = await site.make_keys(3)
    [d] = await site.make_keys(1, "year")
    await site.bind("ann", a.key)
    await rows(site.pool, "UPDATE card_keys SET status = 'expired' WHERE plain_key = %s", c.key)
    names = {a.key: "a", b.key: "b", c.key: "c", d.key: "d"}
    async with transaction(site.pool) as cursor:
        found, total = await card_keys.listed(cursor, chosen, 1, 10)

    assert (expected, len(expected)) == ("".join(sorted(names[key.key] for key in found)), total)


# --- removed ------------------------------------------------------------------------------


async def test_an_unused_key_can_be_deleted(site: AccountSite) -> None:
    """
    It can be bound no more, and who redeemed it sees that.
    """
    key = await redeemed(site)
    async with transaction(site.pool) as cursor:
        await card_keys.delete_unused(cursor, key.key_hash)
        [mine] = await card_keys.held_by(cursor, "ann")

    assert ("expired", "") == (mine.status, mine.plain_key)
    with pytest.raises(Refused, match=card_keys.UNKNOWN):
        await site.bind("ann", key.key)


async def test_a_used_key_cannot_be_deleted(site: AccountSite) -> None:
    """
    A membership rests on it.
    """
    [key] = await site.make_keys(1)
    await site.bind("ann", key.key)
    async with transaction(site.pool) as cursor:
        with pytest.raises(Refused, match=card_keys.BOUND):
            await card_keys.delete_unused(cursor, key.key_hash)
        with pytest.raises(NotFound, match=card_keys.UNKNOWN):
            await card_keys.delete_unused(cursor, hash_of("nosuchkey"))

    assert {key.key: "used"} == await statuses(site)


async def test_a_key_that_is_bound_at_that_moment_is_not_deleted(site: AccountSite) -> None:
    """
    Who deletes it waits for the bind, and is told; the membership keeps its key.
    """
    [key] = await site.make_keys(1)
    async with transaction(site.pool) as cursor:
        await memberships.bind(cursor, "ann", key.key, NOW_MS)
        deleting = asyncio.create_task(
            site.run(lambda cursor: card_keys.delete_unused(cursor, key.key_hash))
        )
        await until_somebody_waits(cursor)
    with pytest.raises(Refused, match=card_keys.BOUND):
        await deleting

    assert {key.key: "used"} == await statuses(site)


async def test_keys_expire_after_their_last_millisecond(site: AccountSite) -> None:
    """
    Those that nobody bound, and with them the rows of who redeemed them; each once.
    """
    mine = await redeemed(site)
    [other, bound] = await site.make_keys(2)
    [fresh] = await site.make_keys(1, "month")
    await site.bind("bob", bound.key)
    assert 0 == await expire(site, NOW_MS + WEEK_MS)
    assert 2 == await expire(site, NOW_MS + WEEK_MS + 1)
    assert 0 == await expire(site, NOW_MS + WEEK_MS + 1)

    over = {mine.key: "expired", other.key: "expired"}
    assert {**over, bound.key: "used", fresh.key: "unused"} == await statuses(site)
    assert [("ann", "expired"), ("bob", "used")] == sorted(
        await rows(site.pool, "SELECT username, status FROM user_card_keys")
    )


async def test_a_clean_up_removes_what_is_over_and_nothing_else(site: AccountSite) -> None:
    """
    Also what was marked before; keys in use and their holders' rows stay.
    """
    mine = await redeemed(site)
    [bound, marked] = await site.make_keys(2)
    [fresh] = await site.make_keys(1, "month")
    await site.bind("bob", bound.key)
    await rows(
        site.pool, "UPDATE card_keys SET status = 'expired' WHERE plain_key = %s", marked.key
    )
    assert 1 == await clean_up(site, NOW_MS)
    assert 1 == await clean_up(site, NOW_MS + WEEK_MS + 1)

    assert {bound.key: "used", fresh.key: "unused"} == await statuses(site)
    async with transaction(site.pool) as cursor:
        [kept] = await card_keys.held_by(cursor, "ann")
    assert (mine.key_hash, "expired") == (kept.key_hash, kept.status)


async def test_keys_given_at_registration_are_counted(site: AccountSite) -> None:
    """
    All, and those that still last.
    """
    await site.register("cat", promotion="week")
    await site.register("dan", promotion="month")
    async with transaction(site.pool) as cursor:
        counts = [
            await card_keys.count_promoted(cursor, NOW_MS + ms)
            for ms in (0, WEEK_MS, WEEK_MS + 1, 31 * DAY_MS)
        ]

    assert [(2, 2), (2, 2), (2, 1), (2, 0)] == counts


# --- exported ------------------------------------------------------------------------------

PLAIN = CardKey("aB3", "0" * 64, "week", "unused", NOW_MS, NOW_MS + WEEK_MS)


def cells(*keys: CardKey) -> list[list[str]]:
    """The rows of the export, as a spreadsheet reads them, without the heading."""
    text = csv_text(keys)
    assert text.startswith("key,")
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def test_the_export_says_what_each_key_is() -> None:
    """Times in UTC to the second; what is not known is empty."""
    bound = msgspec.structs.replace(
        PLAIN, status="used", bound_to="ann", bound_at=NOW_MS, source="points_redeem"
    )

    made, over = "2023-11-14T22:13:20Z", "2023-11-21T22:13:20Z"
    assert [
        ["aB3", "week", "unused", made, over, "", "", ""],
        ["aB3", "week", "used", made, over, "ann", made, "points_redeem"],
    ] == cells(PLAIN, bound)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("rest", ["", "cmd|' /C calc'!A0", 'SUM(1,"2")', "1\r\n=2", "x\ny"])
def test_no_cell_of_the_export_is_a_formula(first: str, rest: str) -> None:
    """Names that older sites took may begin with anything; a spreadsheet shows them as text."""
    name = first + rest
    [[key, *_, bound_to, _, _]] = cells(
        msgspec.structs.replace(PLAIN, key=name, bound_to=name, status="used")
    )

    assert [f"'{name}"] * 2 == [key, bound_to]


@pytest.mark.parametrize("name", ['a"b', "a,b", "a\nb", "a\r\nb", "李小龍", "'=1", " =1", "a=1"])
def test_every_other_cell_of_the_export_is_as_it_is(name: str) -> None:
    """Whatever it holds, it stays one cell."""
    [[_, _, _, _, _, bound_to, _, _]] = cells(msgspec.structs.replace(PLAIN, bound_to=name))

    assert name == bound_to
