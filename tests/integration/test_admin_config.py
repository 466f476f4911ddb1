"""The configuration document: of two edits one is refused, and no user is in it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.accounts import admin_config
from shared.accounts.admin_config import CHANGED, Document, Policy, policy_of, without_users
from shared.errors import Conflict
from shared.mysql import Pool, transaction
from tests.account_site import at_once
from tests.sessions import until_somebody_waits

DEFAULTS = Policy(
    allow_register=True,
    card_keys_enabled=False,
    card_key_required=False,
    system_mode="operation",
    promotion_key_type="week",
)


async def write(pool: Pool, config: Document, version: int) -> int:
    async with transaction(pool) as cursor:
        return await admin_config.write(cursor, config, version)


async def stored(pool: Pool) -> tuple[Document, int]:
    async with transaction(pool) as cursor:
        found = await admin_config.read(cursor)
    return found.config, found.version


async def test_a_document_is_replaced_by_who_read_the_last_version(pool: Pool) -> None:
    """
    Text comes back as it was sent, whatever is in it.
    """
    _, version = await stored(pool)
    config = {"SiteConfig": {"SiteName": "电影 \\ ' \" %s \u0001 😀"}, "x": [1, 2.5, None, True]}
    after = await write(pool, config, version)

    assert (version + 1, (config, after)) == (after, await stored(pool))


async def test_who_read_an_older_version_is_refused(pool: Pool) -> None:
    """
    Also if nothing would change, and if it is a version that never was.
    """
    _, version = await stored(pool)
    await write(pool, {"a": 1}, version)
    for stale in (version, version + 2, 0, -1):
        with pytest.raises(Conflict, match=CHANGED):
            await write(pool, {"a": 1}, stale)

    assert ({"a": 1}, version + 1) == await stored(pool)


async def test_the_same_document_again_is_a_new_version(pool: Pool) -> None:
    """
    Or two who send the same would both believe that they were the last.
    """
    _, version = await stored(pool)
    assert version + 1 == await write(pool, {"a": 1}, version)
    assert version + 2 == await write(pool, {"a": 1}, version + 1)


async def test_of_many_edits_at_once_one_succeeds(pool: Pool) -> None:
    """
    All others are told.
    """
    _, version = await stored(pool)
    written, refusals = await at_once(write(pool, {"n": n}, version) for n in range(20))

    assert ([version + 1], [CHANGED] * 19) == (written, refusals)


async def test_changes_of_parts_wait_for_each_other(pool: Pool) -> None:
    """
    None is refused and none lost.
    """

    async def add(name: str) -> None:
        async with transaction(pool) as cursor:
            await admin_config.change(cursor, lambda config: config.update({name: True}))

    names = [f"part{number}" for number in range(20)]
    _, version = await stored(pool)
    await asyncio.gather(*map(add, names))

    assert (dict.fromkeys(names, True), version + 20) == await stored(pool)


async def test_an_edit_that_meets_a_change_of_a_part_is_refused(pool: Pool) -> None:
    """
    It waits until the part is stored, and then its version is the older one.
    """
    _, version = await stored(pool)
    async with transaction(pool) as cursor:
        await admin_config.change(cursor, lambda config: config.update(part=1))
        writing = asyncio.create_task(write(pool, {"a": 1}, version))
        await until_somebody_waits(cursor)
    with pytest.raises(Conflict):
        await writing

    assert ({"part": 1}, version + 1) == await stored(pool)


async def test_users_are_not_stored_in_the_document(pool: Pool) -> None:
    """
    Real front ends send them along; their table is the one truth.
    """
    users = [{"username": "ann", "role": "owner", "password": "secret"}]
    _, version = await stored(pool)
    await write(pool, {"UserConfig": {"AllowRegister": False, "Users": users}}, version)

    assert ({"UserConfig": {"AllowRegister": False}}, version + 1) == await stored(pool)


@pytest.mark.parametrize(
    "config", [{}, {"UserConfig": None}, {"UserConfig": []}, {"UserConfig": {"Tags": [1]}}]
)
def test_a_document_without_users_stays_as_it_is(config: Document) -> None:
    """Whatever its parts are."""
    assert config == without_users(config)


def test_taking_users_out_leaves_the_callers_document_alone() -> None:
    """It may still be needed."""
    config: Document = {"UserConfig": {"Users": [1], "Tags": []}}

    assert {"UserConfig": {"Tags": []}} == without_users(config)
    assert {"UserConfig": {"Users": [1], "Tags": []}} == config


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"CardKeyConfig": None, "UserConfig": "x"},
        {"CardKeyConfig": {"enabled": 1, "requireCardKeyOnRegister": "true", "systemMode": True}},
        {"CardKeyConfig": {"promotionCardKeyType": "decade"}, "UserConfig": {"AllowRegister": 0}},
        {"CardKeyConfig": {"promotionCardKeyType": ["week"]}, "UserConfig": {}},
        {"UserConfig": {"AllowRegister": None}},
    ],
)
def test_what_is_missing_or_no_such_value_counts_as_the_default(config: Document) -> None:
    """A broken document neither opens nor closes anything."""
    assert DEFAULTS == policy_of(config)
    assert not DEFAULTS.promotes


@pytest.mark.parametrize("key_type", ["week", "month", "quarter", "year"])
def test_a_document_says_who_may_register_and_with_what(key_type: Any) -> None:
    """Each value by its name."""
    config = {
        "UserConfig": {"AllowRegister": False},
        "CardKeyConfig": {
            "enabled": True,
            "requireCardKeyOnRegister": True,
            "systemMode": "promotion",
            "promotionCardKeyType": key_type,
        },
    }

    assert Policy(False, True, True, "promotion", key_type) == policy_of(config)
    assert policy_of(config).promotes
