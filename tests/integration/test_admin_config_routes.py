"""/api/admin/config: the document is read with a version, and replaced only as it was read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.settings import Settings
from tests.callers import People, configure, error_of, everything, people

PATH = "/api/admin/config"
CHANGED = (409, "配置已被其他人修改，请刷新后重试")


@pytest.fixture(name="site")
async def _site(migrated: Settings) -> AsyncIterator[People]:
    async with people(migrated) as site:
        yield site


async def version_of(site: People) -> int:
    _, body = await site.adm.get(PATH)
    return int(body["version"])


async def test_the_document_is_read_with_its_version_and_the_databases_users(
    site: People,
) -> None:
    """And the reader's role; there are no passwords in it."""
    status, body = await site.adm.get(PATH)
    users = {user["username"]: user for user in body["Config"]["UserConfig"]["Users"]}

    assert (200, "admin", 1) == (status, body["Role"], body["version"])
    assert {"ann": "user", "bob": "user", "adm": "admin", "ada": "admin"} == {
        name: user["role"] for name, user in users.items()
    }
    assert {"username", "role", "banned", "createdAt"} == set(users["ann"])
    assert "owner" == (await site.owner.get(PATH))[1]["Role"]


async def test_what_is_written_is_read_but_for_the_users(site: People) -> None:
    """Front ends send the list of users back: roles in it are nobody's."""
    config = {
        "SiteConfig": {"SiteName": "月 🌒", "n": 1.5, "big": 2**63 - 1, "none": None},
        "UserConfig": {
            "AllowRegister": False,
            "Users": [{"username": "ann", "role": "owner"}],
        },
    }
    assert (200, {"ok": True, "version": 2}) == await site.adm.put(
        PATH, {"config": config, "version": 1}
    )
    _, body = await site.adm.get(PATH)
    kept = body["Config"]

    assert (2, config["SiteConfig"]) == (body["version"], kept["SiteConfig"])
    assert (False, "user") == (
        kept["UserConfig"]["AllowRegister"],
        {user["username"]: user["role"] for user in kept["UserConfig"]["Users"]}["ann"],
    )
    assert (401, "权限不足") == error_of(await site.ann.get(PATH))


async def test_of_two_edits_the_later_is_refused(site: People) -> None:
    """However many come at once: one of them is made, and none is lost."""
    edits = [{"config": {"n": number}, "version": 1} for number in range(20)]
    answers = await asyncio.gather(*(site.adm.put(PATH, edit) for edit in edits))
    [made] = [n for n, answer in enumerate(answers) if answer[0] == 200]

    assert [CHANGED] * 19 == [error_of(answer) for answer in answers if answer[0] != 200]
    _, body = await site.adm.get(PATH)
    assert (2, made) == (body["version"], body["Config"]["n"])
    for version in (0, 1, 3, -1, 2**64, 10**40):
        answer = await site.adm.put(PATH, {"config": {}, "version": version})
        assert CHANGED == error_of(answer), version


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [0, 30])
async def test_what_fits_is_stored(site: People, depth: int) -> None:
    """Up to the depth that MariaDB takes."""
    config = {"n": nested(depth)}
    assert 200 == (await site.adm.put(PATH, {"config": config, "version": 1}))[0]

    assert config["n"] == (await site.adm.get(PATH))[1]["Config"]["n"]


async def test_what_no_column_could_hold_is_refused(site: People) -> None:
    """By a text that says why, and never by an error of ours; the document stays."""
    deep = b'{"n":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for document, error in (
        (b"[]", "参数格式错误"),
        (b"null", "参数格式错误"),
        (b'"text"', "参数格式错误"),
        (b'{"n":NaN}', "参数格式错误"),
        (b'{"n":1e400}', "参数格式错误"),
        (b'{"n":"\\ud800"}', "参数格式错误"),
        (b'{"n":"\xff"}', "参数格式错误"),
        (deep, "参数格式错误"),
        (b'{"n":18446744073709551616}', "配置格式错误"),
        (b'{"n":[{"m":-123456789012345678901234567890}]}', "配置格式错误"),
        (b'{"n":' + b"[" * 31 + b"]" * 31 + b"}", "配置格式错误"),
        (b'{"n":' + b'{"m":' * 300 + b"1" + b"}" * 300 + b"}", "配置格式错误"),
    ):
        body = b'{"config":%b,"version":1}' % document
        assert (400, error) == error_of(await site.adm.put(PATH, body)), document[:40]
    for body in (b"", b"{}", b'{"config":{}}', b'{"version":1}', b'{"config":{},"version":"1"}'):
        assert (400, "参数格式错误") == error_of(await site.adm.put(PATH, body)), body
    assert 1 == await version_of(site)


async def test_a_large_document_is_stored_and_a_huge_one_is_not(site: People) -> None:
    """Lists of sources are long: 4 MB, where other routes take 64 KB."""
    config = {"ConfigFile": "x" * 3_000_000}
    assert 200 == (await site.adm.put(PATH, {"config": config, "version": 1}))[0]
    assert 3_000_000 == len((await site.adm.get(PATH))[1]["Config"]["ConfigFile"])
    config = {"ConfigFile": "x" * 4_200_000}

    assert 413 == (await site.adm.put(PATH, {"config": config, "version": 2}))[0]


async def test_sections_of_wrong_types_do_no_harm(site: People) -> None:
    """Every page that reads them takes the default, every edit puts a section in their place."""
    config = {"UserConfig": 5, "CardKeyConfig": [], "SiteConfig": None}
    await site.adm.put(PATH, {"config": config, "version": 1})
    group = {"action": "userGroup", "groupAction": "add", "groupName": "g", "enabledApis": ["a"]}

    assert 200 == (await site.stranger.get("/api/register/config"))[0]
    assert 200 == (await site.adm.get(PATH))[0]
    assert 200 == (await site.adm.post("/api/admin/user", group))[0]
    _, body = await site.adm.get(PATH)
    assert [{"name": "g", "enabledApis": ["a"]}] == body["Config"]["UserConfig"]["Tags"]
    for tags in ("junk", [5, "x", None]):
        config = {"UserConfig": {"Tags": tags}}
        await site.adm.put(PATH, {"config": config, "version": await version_of(site)})
        assert 200 == (await site.adm.post("/api/admin/user", group))[0]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"UserConfig": {"AllowRegister": "no"}}, "UserConfig.AllowRegister"),
        ({"UserConfig": {"AllowRegister": 0}}, "UserConfig.AllowRegister"),
        ({"UserConfig": {"AllowRegister": ""}}, "UserConfig.AllowRegister"),
        ({"UserConfig": [1]}, "UserConfig"),
        ({"CardKeyConfig": 5}, "CardKeyConfig"),
        ({"CardKeyConfig": {"enabled": "false"}}, "CardKeyConfig.enabled"),
        (
            {"CardKeyConfig": {"requireCardKeyOnRegister": "yes"}},
            "CardKeyConfig.requireCardKeyOnRegister",
        ),
        ({"CardKeyConfig": {"systemMode": "junk"}}, "CardKeyConfig.systemMode"),
        ({"CardKeyConfig": {"systemMode": ["promotion"]}}, "CardKeyConfig.systemMode"),
        ({"CardKeyConfig": {"promotionCardKeyType": "x"}}, "CardKeyConfig.promotionCardKeyType"),
    ],
)
async def test_what_nobody_understands_closes_no_door_and_is_refused(
    site: People, config: Any, field: str
) -> None:
    """It would count as the default, which is open."""
    before = await everything(site.pool)
    status, body = await site.adm.put("/api/admin/config", {"config": config, "version": 1})

    assert (400, field) == (status, body["field"])
    assert body["allowed"]
    assert before == await everything(site.pool)


@pytest.mark.parametrize(
    "section",
    [
        {"CardKeyConfig": None},
        {"CardKeyConfig": {"systemMode": None, "enabled": None}},
        {"CardKeyConfig": {"systemMode": "", "promotionCardKeyType": ""}},
        {"UserConfig": {"AllowRegister": None}},
    ],
    ids=repr,
)
async def test_what_was_read_can_be_written_back(site: People, section: dict[str, Any]) -> None:
    """Documents of real sites hold null and empty texts for what was never chosen."""
    await configure(site.pool, **section)
    _, shown = await site.owner.get(PATH)

    body = {"config": shown["Config"], "version": shown["version"]}
    assert 200 == (await site.owner.put(PATH, body))[0]
