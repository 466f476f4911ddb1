"""`moonwake config`, as an operator types it."""

from __future__ import annotations

import orjson

from shared.settings import Settings
from tests.commands import moonwake

CLOSED = b'{"UserConfig":{"AllowRegister":false,"Users":[{"username":"mallory"}]}}'


async def test_the_document_is_replaced_and_leaves_users_out(migrated: Settings) -> None:
    """What is shown has the version that the next change names."""
    first = orjson.loads((await moonwake(migrated, "config", "show")).output)
    assert {"version": 1, "config": {}} == first

    done = await moonwake(migrated, "config", "set", "-", "--version", "1", given=CLOSED)

    assert (0, "version 2 is in force\n") == (done.exit_code, done.output)
    second = orjson.loads((await moonwake(migrated, "config", "show")).output)
    assert {"version": 2, "config": {"UserConfig": {"AllowRegister": False}}} == second


async def test_an_edit_of_an_old_version_is_refused(migrated: Settings) -> None:
    """Exit code 1, and the document is what the other made of it."""
    await moonwake(migrated, "config", "set", "-", "--version", "1", given=CLOSED)

    late = await moonwake(migrated, "config", "set", "-", "--version", "1", given=b"{}")

    assert (1, True) == (late.exit_code, "changed since this version" in late.output)
    assert 2 == orjson.loads((await moonwake(migrated, "config", "show")).output)["version"]


async def test_what_is_no_json_object_is_refused(migrated: Settings) -> None:
    for given in (b"{", b"[]", b"\xff"):
        refused = await moonwake(migrated, "config", "set", "-", "--version", "1", given=given)
        assert 2 == refused.exit_code


async def test_what_show_prints_can_be_given_back(migrated: Settings) -> None:
    """As it is: else the whole of it would be a document that says nothing of registration."""
    await moonwake(migrated, "config", "set", "-", "--version", "1", given=CLOSED)
    shown = (await moonwake(migrated, "config", "show")).output.encode()

    assert (
        0
        == (await moonwake(migrated, "config", "set", "-", "--version", "2", given=shown)).exit_code
    )
    again = orjson.loads((await moonwake(migrated, "config", "show")).output)
    assert {"version": 3, "config": {"UserConfig": {"AllowRegister": False}}} == again


async def test_what_nobody_understands_is_refused_by_its_name(migrated: Settings) -> None:
    given = b'{"UserConfig":{"AllowRegister":"no"}}'
    refused = await moonwake(migrated, "config", "set", "-", "--version", "1", given=given)

    assert (2, True) == (refused.exit_code, "UserConfig.AllowRegister" in refused.stderr)
