"""Users: who may have which name, and whose login counts no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shared.accounts import barred, memberships, points, registration, users
from shared.accounts.users import NewUser
from shared.errors import InvalidField, NotFound, Refused
from shared.mysql import Cursor, Pool, transaction
from tests.account_site import HASH, NOW_MS

ANN = NewUser(username="ann", password_hash=HASH)


@pytest.fixture(name="cursor")
async def _cursor(pool: Pool) -> AsyncIterator[Cursor]:
    async with transaction(pool) as cursor:
        await registration.create_user(cursor, ANN, NOW_MS)
        yield cursor


async def names(cursor: Cursor) -> list[str]:
    found, total = await users.listed(cursor, 1, 100)
    assert len(found) == total
    return [user.username for user in found]


@pytest.mark.parametrize("name", ["abc", "a" * 20, "A_9", "___"])
def test_a_name_may_be_registered(name: str) -> None:
    """Letters, digits and underscores, three to twenty of them."""
    users.check_new_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 21,
        "a b",
        "abc\n",
        "ann-",
        "李小龍",
        "abé",
        "\uff41\uff42\uff43",
        "٣٣٣",
        "a'b",
    ],
)
def test_a_name_may_not_be_registered(name: str) -> None:
    """Whatever looks like another name, or ends a line."""
    with pytest.raises(InvalidField) as refused:
        users.check_new_name(name)

    assert "username" == refused.value.field


@pytest.mark.parametrize("name", ["ann", "Ann", "ANN", "aNn"])
async def test_a_name_is_taken_in_whatever_case(pool: Pool, cursor: Cursor, name: str) -> None:
    """
    People cannot tell them apart.
    """
    with pytest.raises(Refused, match=users.TAKEN):
        await users.insert(cursor, replace(ANN, username=name), NOW_MS)


async def test_names_that_exist_in_two_cases_stay(cursor: Cursor) -> None:
    """
    Older sites took both: each is a user of their own, and a third one is refused.
    """
    await cursor.execute("INSERT INTO users (username, password_hash) VALUES ('Ann', '!')")

    assert {"ann", "Ann"} == set(await names(cursor))
    found = await users.find(cursor, "Ann")
    assert found is not None
    assert "!" == found.password_hash
    with pytest.raises(Refused, match=users.TAKEN):
        await users.insert(cursor, replace(ANN, username="ANN"), NOW_MS)


async def test_a_login_providers_subject_belongs_to_one_user(cursor: Cursor) -> None:
    """
    Neither registration nor linking gives it to a second one; the refusal says why.
    """
    bob = replace(ANN, username="bob", oidc_sub="subject")
    await users.insert(cursor, bob, NOW_MS)
    with pytest.raises(Refused, match="OIDC"):
        await users.insert(cursor, replace(bob, username="cat"), NOW_MS)
    with pytest.raises(Refused, match="OIDC"):
        await users.link_subject(cursor, "ann", "subject")
    await users.link_subject(cursor, "bob", None)
    await users.link_subject(cursor, "ann", "subject")

    found = await users.find_by_subject(cursor, "subject")
    assert found is not None
    assert "ann" == found.username
    assert await users.find_by_subject(cursor, "Subject") is None


async def test_a_taken_name_is_told_as_such_whatever_it_is(cursor: Cursor) -> None:
    """
    Even if it is called like the key that keeps subjects apart.
    """
    oddly = replace(ANN, username="uk_oidc_sub")
    await users.insert(cursor, oddly, NOW_MS)

    with pytest.raises(Refused, match=users.TAKEN):
        await users.insert(cursor, oddly, NOW_MS)


async def test_a_deleted_user_is_barred_and_everything_of_theirs_is_gone(cursor: Cursor) -> None:
    """
    A cookie that was signed for them still says their name.
    """
    await points.adjust(cursor, "ann", 5, points.Cause("gift"), NOW_MS)
    await users.delete(cursor, "ann")

    assert {"ann": "deleted"} == await barred.read(cursor)
    assert "deleted" == await barred.reason_of(cursor, "ann")
    assert await barred.reason_of(cursor, "bob") is None
    assert ([], None) == (await names(cursor), await points.read_account(cursor, "ann"))
    assert ([], 0) == await points.history(cursor, "ann", 1, 10)
    assert await memberships.read(cursor, "ann", NOW_MS) is None
    with pytest.raises(NotFound):
        await users.delete(cursor, "ann")


async def test_who_registers_a_deleted_name_is_somebody_new(cursor: Cursor) -> None:
    """
    They are let in, and have nothing of who was there before. Whoever did not see to that,
    because the user was deleted only a moment ago, is told that the name is taken.
    """
    await points.adjust(cursor, "ann", 5, points.Cause("gift"), NOW_MS)
    before = await points.lock_account(cursor, "ann")
    await users.set_role(cursor, "ann", "admin")
    await users.delete(cursor, "ann")
    await cursor.execute("SAVEPOINT deleted")
    with pytest.raises(Refused, match=users.TAKEN):
        await registration.create_user(cursor, ANN, NOW_MS + 1)
    await cursor.execute("ROLLBACK TO deleted")
    await registration.create_user(cursor, replace(ANN, after_former=True), NOW_MS + 1)

    after = await points.lock_account(cursor, "ann")
    found = await users.find(cursor, "ann")
    assert found is not None
    assert ({}, 0) == (await barred.read(cursor), after.balance)
    assert ("user", False, NOW_MS + 1) == (found.role, found.banned, found.created_at)
    assert before.invitation_code != after.invitation_code


async def test_a_ban_bars_until_it_is_lifted(cursor: Cursor) -> None:
    """
    Said twice it is the same; of a banned user who is deleted the deletion counts.
    """
    for _ in range(2):
        await users.set_banned(cursor, "ann", banned=True)
    assert {"ann": "banned"} == await barred.read(cursor)
    found = await users.find(cursor, "ann")
    assert found is not None
    assert found.banned
    for _ in range(2):
        await users.set_banned(cursor, "ann", banned=False)
    assert {} == await barred.read(cursor)
    await users.set_banned(cursor, "ann", banned=True)
    await users.delete(cursor, "ann")

    assert {"ann": "deleted"} == await barred.read(cursor)


async def test_every_change_of_who_is_barred_makes_another_revision(cursor: Cursor) -> None:
    """
    Fronts read the list again when the number is another one; what changes nothing makes none.
    """
    seen = [await barred.revision(cursor)]
    for change in (
        users.set_banned(cursor, "ann", banned=True),
        users.set_banned(cursor, "ann", banned=False),
        users.delete(cursor, "ann"),
        registration.create_user(cursor, replace(ANN, after_former=True), NOW_MS),
    ):
        await change
        seen.append(await barred.revision(cursor))
    assert len(set(seen)) == len(seen)

    await users.set_banned(cursor, "ann", banned=False)
    await registration.create_user(cursor, replace(ANN, username="new", oidc_sub=None), NOW_MS)
    assert seen[-1] == await barred.revision(cursor)


async def test_nobody_can_be_changed(cursor: Cursor) -> None:
    """
    Each change says that there is no such user, and bars none.
    """
    for change in (
        users.set_banned(cursor, "bob", banned=True),
        users.set_banned(cursor, "bob", banned=False),
        users.set_role(cursor, "bob", "admin"),
        users.set_password(cursor, "bob", HASH),
        users.set_tags(cursor, "bob", ["vip"]),
        users.link_subject(cursor, "bob", "subject"),
        users.delete(cursor, "bob"),
    ):
        with pytest.raises(NotFound, match=users.UNKNOWN):
            await change

    assert {} == await barred.read(cursor)


async def test_a_change_to_what_is_there_already_is_no_error(cursor: Cursor) -> None:
    """
    The server counts no row for it, which is not the same as no user.
    """
    for _ in range(2):
        await users.set_role(cursor, "ann", "admin")
        await users.set_tags(cursor, "ann", ["vip", "'\"; --"])
        await users.set_enabled_apis(cursor, "ann", [])
        await users.set_tvbox_token(cursor, "ann", "token")
        await users.set_show_adult_content(cursor, "ann", show=True)

    found = await users.find(cursor, "ann")
    assert found is not None
    assert ("admin", ["vip", "'\"; --"], []) == (found.role, found.tags, found.enabled_apis)
    assert ("token", True) == (found.tvbox_token, found.show_adult_content)


async def test_a_password_is_upgraded_only_while_it_is_the_old_one(cursor: Cursor) -> None:
    """
    Who changes it meanwhile keeps the new one.
    """
    await users.upgrade_password(cursor, "ann", HASH, "better")
    await users.upgrade_password(cursor, "ann", HASH, "stale")

    found = await users.find(cursor, "ann")
    assert found is not None
    assert "better" == found.password_hash


async def test_users_are_listed_in_pages_without_what_is_secret(cursor: Cursor) -> None:
    """
    By name; the number of all of them comes along.
    """
    for name in ("cat", "bob"):
        await users.insert(cursor, replace(ANN, username=name), NOW_MS)

    pages = [await users.listed(cursor, page, 2) for page in (1, 2, 3)]
    assert [["ann", "bob"], ["cat"], []] == [[user.username for user in page] for page, _ in pages]
    assert {3} == {total for _, total in pages}
    assert not hasattr(pages[0][0][0], "password_hash")


async def test_the_owner_is_made_once_and_stays_the_owner(cursor: Cursor) -> None:
    """
    Who the environment names may be there already, as an ordinary user.
    """
    first = await users.ensure_owner(cursor, "root")
    assert ("owner", users.NO_PASSWORD) == (first.role, first.password_hash)
    assert first == await users.ensure_owner(cursor, "root")
    assert "owner" == (await users.ensure_owner(cursor, "ann")).role
